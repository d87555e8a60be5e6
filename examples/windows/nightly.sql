-- What is to be transcribed: yours to write. Columns are mapped in nightly.bat or nightly.ps1; those that
-- are not travel into each transcript. With AUDIO_BATCH_RESULTS_DB the table of results is made
-- before this is asked; without it leave the condition out.
SELECT uuid, s3_key, title
FROM assets
WHERE NOT EXISTS (
  SELECT 1 FROM audio_batch_results AS results
  WHERE results.asset_id = CAST(assets.uuid AS TEXT)
    AND results.state IN ('done', 'quarantined')
    AND NOT EXISTS (
      SELECT 1 FROM audio_batch_results AS newer
      WHERE newer.asset_id = results.asset_id
        AND (newer.finished_at, newer.updated_at) > (results.finished_at, results.updated_at)
    )
)
ORDER BY uuid
