-- What a night has to do: the assets of a shelf that no earlier night has done.
-- Left out is what the last outcome, in whatever folder, says is done or quarantined.
-- Columns named as a manifest's fields are these fields; `title` travels into the transcript.
SELECT
  a.uuid AS id,
  a.title AS name,
  a.file AS uri,
  a.spoken_language AS language,
  a.title
FROM assets AS a
WHERE a.shelf = :shelf
  AND NOT EXISTS (
    SELECT 1
    FROM audio_batch_results AS r
    WHERE r.asset_id = CAST(a.uuid AS TEXT) AND r.state IN ('done', 'quarantined')
      AND NOT EXISTS (
        SELECT 1
        FROM audio_batch_results AS n
        WHERE n.asset_id = r.asset_id
          AND (n.finished_at, n.updated_at) > (r.finished_at, r.updated_at)
      )
  )
ORDER BY a.uuid
