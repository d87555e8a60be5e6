"""The same voice, the same name, in all recordings of an output folder.

- `enrolment`: people whose voices are known beforehand, named in every recording.
- `linking`: voices gathered over all recordings into stable ids, by `agglomeration`; pure.
- `names`: `speakers.json`, where a person names those ids.
- `memory`: what was decided, so that ids stay and a killed linking goes on.
- `folder`: all of that over an output folder.

No module of it imports a speech library; `names` and `memory` import no numpy either.
"""
