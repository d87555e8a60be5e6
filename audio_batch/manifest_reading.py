"""One pass over a manifest: every entry checked, every problem reported, little of each kept."""

from __future__ import annotations

import itertools
import math
import os
import threading
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audio_batch import manifest_sources
from audio_batch.asset import Asset, wishes_of
from audio_batch.byte_rates import kind_of
from audio_batch.manifest_checking import Checker, Located
from audio_batch.manifest_columns import columns_of
from audio_batch.manifest_file import JsonLines, ManifestFile, Source, raw_of
from audio_batch.manifest_index import Index, UniqueIds, folder_of
from audio_batch.manifest_quick import Quick, Sketch, plain_object
from audio_batch.manifest_stream import StreamedDocument, raw_within
from audio_batch.manifest_text import JsonDocument, Raw, is_surely_sound, shown

CHUNK = 4096
"""Entries whose files are looked for together: what they say is not held longer than that."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries a run is about.

    Args:
        selects: what its conditions say of an asset; None selects all.
        is_mine: whether this part of the manifest holds the asset of an id; None for the whole.
    """

    selects: Callable[[Asset], bool] | None = None
    is_mine: Callable[[str], bool] | None = None


_Entry = tuple[int, Sketch | None, dict[str, Any] | None, Located | None]
"""Its number; its sketch and what it says, or what the long way has come to, if to anything."""


class Reading:
    """Reads the entries of one manifest: all of them once, then some of them again.

    Args:
        held: assets are held as long as there are no more than that.
    """

    def __init__(
        self,
        file: ManifestFile,
        source: Source,
        root: str,
        mapping: Mapping[str, str],
        known_formats: frozenset[str],
        *,
        wanted: Wanted,
        allow_http: bool,
        held: int,
    ) -> None:
        self._file = file
        self._source = source
        self._wanted = wanted
        self._most_held = held
        self.checker = Checker(
            source, root, mapping, known_formats, allow_http=allow_http, check_id=self._check_id
        )
        self._quick = Quick(root, mapping, self.checker.read_as_named, allow_http=allow_http)
        self._ids: UniqueIds | None = UniqueIds()
        self.index = Index()
        self._wishes: dict[str | None, int] = {}
        self._at_it = threading.Lock()
        can_be_read_again = not isinstance(source, JsonDocument)
        self.assets: list[Asset] | None = None if can_be_read_again and not held else []
        """All of them, where they are few or cannot be read again."""

    def read(self, *, allow_missing: bool) -> None:
        """Read and check all of it; worth nothing where the checker has problems then."""
        self.checker.check_document()
        source = self._source
        if isinstance(source, JsonDocument):
            raws = source.entries()
            while some := list(itertools.islice(raws, CHUNK)):
                self._settle([self._registered(self._parsed(raw)) for raw in some], allow_missing)
        else:
            for texts in self._blocks(source):
                if self._settle_columns(texts, allow_missing):
                    continue
                numbers = itertools.count(len(self.index))
                entries = [
                    self._registered(self._entry(number, data))
                    for number, data in zip(numbers, texts, strict=False)
                ]
                self._settle(entries, allow_missing)
        if not len(self.index) and not self.checker.problems():
            self.checker.report(None, self._source.base, "the manifest names no recordings")
        self._ids = None
        if isinstance(self._source, StreamedDocument):
            self.index.offsets = self._source.offsets

    def again(self, numbers: Sequence[int]) -> list[Asset]:
        """Some entries as assets once more, their files looked for again. From any thread.

        Raises:
            SetupError: the file was changed meanwhile.
        """
        if self.assets is not None:
            return [self.assets[number] for number in numbers]
        with self._at_it:  # the file has one position, and what reads entries remembers the last
            texts = self._file.read(self.index.offsets, numbers)
            entries = [
                self._entry(number, data) for number, data in zip(numbers, texts, strict=True)
            ]
            selected, is_mine = self.index.selected, self.index.is_mine
            sought = [bool(selected[number] and is_mine[number]) for number in numbers]
            found = [asset for _, asset in self._found(entries, sought, allow_missing=True)]
            self.checker.forget_problems()
        assets = [asset for asset in found if asset is not None]
        if [asset.id for asset in assets] != self.index.ids.some(numbers):
            raise self._file.changed()
        return assets

    # -- entries as they stand in the file ------------------------------------------------------

    def _blocks(self, source: JsonLines | StreamedDocument) -> Iterator[Sequence[bytes]]:
        """The entries' texts, some thousand at a time; where they stand is taken down."""
        if isinstance(source, JsonLines):
            offsets = array("Q")
            self.index.offsets = offsets
            for piece in source.pieces():
                offsets.extend(piece.offsets)
                self.index.lines.extend(piece.lines)
                yield piece.texts
        else:
            for first in range(0, len(source.offsets), CHUNK):
                numbers = range(first, min(first + CHUNK, len(source.offsets)))
                yield self._file.read(source.offsets, numbers)

    def _parsed(self, raw: Raw) -> _Entry:
        sketch = self._quick.sketch(raw.value) if is_surely_sound(raw.value) else None
        if sketch is not None:
            return raw.index, sketch, raw.value, None
        return raw.index, None, None, self.checker.located(raw)

    def _entry(self, number: int, data: bytes) -> _Entry:
        is_line = isinstance(self._source, JsonLines)
        value = plain_object(data, alone=is_line)
        if value is not None and (sketch := self._quick.sketch(value)) is not None:
            return number, sketch, value, None
        raw = raw_of(number, self._line(number), data) if is_line else raw_within(number, data)
        return number, None, None, self.checker.located(raw)

    def _registered(self, entry: _Entry) -> _Entry:
        """Take down an entry's id."""
        number, sketch, value, located = entry
        asset_id = ""
        if sketch is not None:
            asset_id = sketch.id
            assert self._ids is not None
            if (first := self._ids.add(asset_id, number, self.index.ids)) is not None:
                has_id = value is not None and value.get(self.checker.id_name) is not None
                self._report_twice(self._raw(number), asset_id, first, has_id=has_id)
        elif located is not None:
            asset_id = located.fields["id"]
        self.index.ids.append(asset_id)
        return entry

    def _check_id(self, raw: Raw, asset_id: str) -> None:
        """The checker has an id."""
        if self._ids is None:
            return
        if (first := self._ids.add(asset_id, raw.index, self.index.ids)) is not None:
            has_id = raw.value.get(self.checker.id_name) is not None
            self._report_twice(raw, asset_id, first, has_id=has_id)

    def _report_twice(self, raw: Raw, asset_id: str, first: int, *, has_id: bool) -> None:
        place = self.checker.at(self._raw(first))
        if has_id:
            text = f"the id {shown(asset_id)} is already that of {place}"
            self.checker.report(raw, (self.checker.id_name,), text)
        else:
            text = f"the same recording is already at {place}; to have it twice, give both ids"
            self.checker.report(raw, (), text)

    def _raw(self, number: int) -> Raw:
        return Raw(number, None, self._line(number))

    def _line(self, number: int) -> int | None:
        lines = self.index.lines
        return lines[number] if lines else None

    # -- their files ----------------------------------------------------------------------------

    def _settle(self, entries: Sequence[_Entry], allow_missing: bool) -> None:
        """Find the files of some entries, and take down what is to be known of them."""
        index, wanted = self.index, self._wanted
        if wanted.selects is None and wanted.is_mine is None:
            index.selected.extend(b"\1" * len(entries))
            index.is_mine.extend(b"\1" * len(entries))
            sought = [True] * len(entries)
            entries_to_ask: Sequence[_Entry] = ()
        else:
            sought = []
            entries_to_ask = entries
        for number, sketch, value, located in entries_to_ask:
            asset_id = sketch.id if sketch else located.fields["id"] if located else ""
            mine = wanted.is_mine is None or wanted.is_mine(asset_id)
            selected = wanted.selects is None or (
                bool(sketch or located)
                and wanted.selects(self._asset(number, sketch, value, located))
            )
            index.selected.append(selected)
            index.is_mine.append(mine)
            sought.append(selected and mine)
        keep = self.assets is not None
        found = self._found(entries, sought, allow_missing=allow_missing, build=keep)
        for entry, (status, asset) in zip(entries, found, strict=True):
            self._take_down(entry, status, asset)
            if asset is not None and self.assets is not None:
                self.assets.append(asset)
        if not isinstance(self._source, JsonDocument) and len(index) > self._most_held:
            self.assets = None

    def _settle_columns(self, texts: Sequence[bytes], allow_missing: bool) -> bool:
        """The same at a fraction of its cost; False, and nothing is done, where it cannot be."""
        if self.assets is not None or self._wanted.selects is not None:
            return False
        is_lines = isinstance(self._source, JsonLines)
        columns = columns_of(self._quick, texts, are_lines=is_lines)
        if columns is None:
            return False
        index, count, is_mine = self.index, len(columns.ids), self._wanted.is_mine
        mine = b"\1" * count if is_mine is None else bytes(map(is_mine, columns.ids))
        statuses: list[os.stat_result | None] = []
        if columns.places is not None:
            statuses = manifest_sources.statuses(list(itertools.compress(columns.places, mine)))
            if None in statuses and not allow_missing:
                return False
        assert self._ids is not None
        if not self._ids.add_new(columns.ids):
            return False
        index.ids.extend(columns.ids)
        index.selected.extend(b"\1" * count)
        index.is_mine.extend(mine)
        index.is_remote.extend(bytes([columns.places is None]) * count)
        known = iter(statuses)
        looked = [next(known, None) if one else None for one in mine]
        index.sizes.extend([-1 if one is None else one.st_size for one in looked])
        index.times_ns.extend([0 if one is None else one.st_mtime_ns for one in looked])
        index.kinds.extend(map(kind_of, columns.uris))
        index.durations_s.extend(columns.durations_s or [math.nan] * count)
        default = self.checker.defaults.get("priority", 0)
        index.priorities.extend(
            [default if one is None else one for one in columns.priorities or [None] * count]
        )
        languages = columns.languages or [None] * count
        wishes = {language: self._wish_of(language) for language in set(languages)}
        index.wishes.extend([wishes[language] for language in languages])
        for folder in set(map(folder_of, columns.places or ())):
            index.add_folder(folder)
        for uri in columns.uris if columns.places is None else ():
            index.add_store(uri)
        return True

    def _found(
        self,
        entries: Sequence[_Entry],
        sought: Sequence[bool],
        *,
        allow_missing: bool,
        build: bool = True,
    ) -> Iterator[tuple[os.stat_result | None, Asset | None]]:
        """For each entry its file, where it was sketched, and its asset, where it was not or is to
        be built."""
        pairs = list(zip(entries, sought, strict=True))
        sketched = [entry[1] for entry, is_sought in pairs if is_sought and entry[1]]
        places = [sketch.place for sketch in sketched if sketch.place is not None]
        statuses = iter(manifest_sources.statuses(places))
        founds = iter(
            manifest_sources.look_for_all(
                [e[3].places for e, s in pairs if s and e[3] and e[3].places]
            )
        )
        for (number, sketch, value, located), is_sought in pairs:
            if sketch is not None:
                assert value is not None
                status = None
                if is_sought and sketch.place is not None and (status := next(statuses)) is None:
                    found = manifest_sources.look((sketch.place,))
                    if found.problem and not allow_missing:
                        keys = (self._quick.source_key(value),)
                        self.checker.report(self._raw(number), keys, found.problem)
                asset = None
                if build:
                    asset = self._asset(number, sketch, value, None, status, is_sought=is_sought)
                yield status, asset
            elif located is not None:
                look = None
                if is_sought:
                    look = next(founds) if located.places else None
                    if located.problem:
                        self.checker.report(located.raw, (located.key,), located.problem)
                    elif look and look.problem and not allow_missing:
                        self.checker.report(located.raw, (located.key,), look.problem)
                yield None, located.asset(look)
            else:
                yield None, None

    def _asset(
        self,
        number: int,
        sketch: Sketch | None,
        value: dict[str, Any] | None,
        located: Located | None,
        status: os.stat_result | None = None,
        *,
        is_sought: bool = False,
    ) -> Asset:
        if located is not None:
            return located.asset(None)
        assert sketch is not None
        assert value is not None
        options = self.checker.defaults
        if sketch.language is not None or sketch.priority is not None:
            own = {"language": sketch.language, "priority": sketch.priority}
            options = {**options, **{name: said for name, said in own.items() if said is not None}}
        return Asset(
            id=sketch.id,
            uri=sketch.uri,
            path=Path(sketch.place) if is_sought and sketch.place is not None else None,
            position=number,
            duration_s=sketch.duration_s,
            seen=manifest_sources.identity(status) if status is not None else None,
            **self._quick.fields(value, sketch),
            **options,
        )

    def _take_down(self, entry: _Entry, status: os.stat_result | None, asset: Asset | None) -> None:
        index = self.index
        _, sketch, _, located = entry
        size, time_ns, is_remote, kind = -1, 0, False, 0
        duration_s: float | None = None
        priority, wish = self.checker.defaults.get("priority", 0), 0
        if sketch is not None:
            place = sketch.place
            is_remote = place is None
            kind = kind_of(sketch.uri)
            if status is not None:
                size, time_ns = status.st_size, status.st_mtime_ns
            duration_s = sketch.duration_s
            if sketch.priority is not None:
                priority = sketch.priority
            wish = self._wish_of(sketch.language)
            if place is not None:
                index.add_folder(folder_of(place))
            else:
                index.add_store(sketch.uri)
        elif asset is not None:
            is_remote = manifest_sources.is_remote_uri(asset.uri)
            kind = kind_of(asset.uri)
            if is_remote:
                index.add_store(asset.uri)
            if asset.seen is not None:
                size, time_ns = map(int, asset.seen.split(":"))
            duration_s, priority = asset.duration_s, asset.priority
            wish = self._wish(asset)
            for candidate in located.places if located is not None else ():
                index.add_folder(folder_of(candidate))
        index.kinds.append(kind)
        index.sizes.append(size)
        index.times_ns.append(time_ns)
        index.durations_s.append(math.nan if duration_s is None else duration_s)
        index.priorities.append(priority)
        index.is_remote.append(is_remote)
        index.wishes.append(wish)

    def _wish(self, asset: Asset) -> int:
        wishes = wishes_of(asset)
        number = self.index.wish_number(wishes)
        return self.index.new_wish(wishes, asset) if number is None else number

    def _wish_of(self, language: str | None) -> int:
        """The wishes of an entry that asks for no more than a language."""
        wish = self._wishes.get(language)
        if wish is None:
            options = self.checker.defaults
            if language is not None:
                options = {**options, "language": language}
            wish = self._wish(Asset(id="", uri="", path=None, name="", position=-1, **options))
            self._wishes[language] = wish
        return wish
