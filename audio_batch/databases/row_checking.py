"""The entries of a query's rows, checked by what checks those of a manifest."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

from audio_batch.formats import FORMATS
from audio_batch.manifest_checking import Checker
from audio_batch.manifest_index import Texts, UniqueIds
from audio_batch.manifest_quick import Quick
from audio_batch.manifest_text import JsonDocument, Keys, Raw, is_surely_sound, pointer, shown


class RowChecks:
    """Says what is wrong with each row's entry. What is kept of a row is its id.

    Left to the run: whether a file is there, and whether URLs of the web may be fetched.

    Args:
        root: where relative paths begin, absolute.
    """

    def __init__(self, root: str) -> None:
        self._checker = _RowChecker(
            JsonDocument("[]", []),
            root,
            {},
            frozenset(FORMATS),
            allow_http=True,
            check_id=lambda _raw, _id: None,
        )
        self._quick = Quick(root, {}, self._checker.read_as_named, allow_http=True)
        self._unique = UniqueIds()
        self._ids = Texts()
        self._rows = array("Q")

    def problems(self, number: int, entry: Mapping[str, Any]) -> list[str]:
        """What is wrong with the entry of a row, each with the row's number and id; none: it is
        right, and its id is taken."""
        raw, checker = Raw(number, entry), self._checker
        if "id" in entry and entry["id"] is None:
            return [f"{checker.at(raw)}: its id is NULL or empty"]
        sketch = self._quick.sketch(dict(entry)) if is_surely_sound(entry) else None
        if sketch is not None:
            return self._twice(raw, sketch.id)
        located = checker.located(raw)
        if located is not None and located.problem:
            checker.report(raw, (located.key,), located.problem)
        if found := checker.problems():
            checker.forget_problems()
            return found
        return [] if located is None else self._twice(raw, located.fields["id"])

    def _twice(self, raw: Raw, asset_id: str) -> list[str]:
        first = self._unique.add(asset_id, len(self._ids), self._ids)
        if first is not None:
            what = "the id" if raw.value.get("id") is not None else "without an id, the recording"
            return [f"{self._checker.at(raw)}: {what} is already that of row {self._rows[first]}"]
        self._ids.append(asset_id)
        self._rows.append(raw.index)
        return []


class _RowChecker(Checker):
    """Calls an entry by its row and id."""

    def at(self, raw: Raw | None, keys: Keys = ()) -> str:
        """The place of a value: row, id and column."""
        assert raw is not None, "rows have no document around them"
        asset_id = raw.value.get("id")
        row = f"row {raw.index}" + ("" if asset_id is None else f" (id {shown(asset_id)})")
        return f"{row}, {pointer(keys)}" if keys else row
