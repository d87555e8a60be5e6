-- What became of every asset, in the morning: its last outcome, in whatever folder.
SELECT
  a.uuid,
  a.title,
  coalesce(r.state, 'not begun') AS state,
  r.error_text,
  r.duration_s,
  r.finished_at
FROM assets AS a
LEFT JOIN audio_batch_results AS r ON r.asset_id = CAST(a.uuid AS TEXT)
  AND NOT EXISTS (
    SELECT 1
    FROM audio_batch_results AS n
    WHERE n.asset_id = r.asset_id
      AND (n.finished_at, n.updated_at) > (r.finished_at, r.updated_at)
  )
ORDER BY a.title
