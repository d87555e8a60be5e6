-- What is to be transcribed: yours to write. Columns are mapped in nightly.sh; those that are not
-- travel into each transcript. The table of results is there once a run had AUDIO_BATCH_RESULTS_DB:
-- for the first night leave the condition out.
SELECT uuid, s3_key, title
FROM assets
WHERE NOT EXISTS (
  SELECT 1 FROM audio_batch_results AS results
  WHERE results.asset_id = assets.uuid AND results.state IN ('done', 'quarantined')
)
ORDER BY uuid
