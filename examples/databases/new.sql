-- What a night has to do: the assets of a shelf that no earlier night has done.
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
    WHERE r.asset_id = CAST(a.uuid AS TEXT) AND r.state = 'done'
  )
ORDER BY a.uuid
