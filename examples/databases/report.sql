-- What became of every asset, in the morning.
SELECT
  a.uuid,
  a.title,
  coalesce(r.state, 'not begun') AS state,
  r.error_text,
  r.duration_s,
  r.finished_at
FROM assets AS a
LEFT JOIN audio_batch_results AS r ON r.asset_id = CAST(a.uuid AS TEXT)
ORDER BY a.title
