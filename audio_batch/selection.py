"""Which assets of a manifest a run takes, and in which order.

Pure, but that durations which the manifest does not tell are asked for, in several threads.
"""

from __future__ import annotations

import json
import math
import unicodedata
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from audio_batch.asset import Asset
from audio_batch.assets import durations_of, pick, priorities_of
from audio_batch.errors import UsageError
from audio_batch.text import for_terminal

_PROBERS = 8
_AT_ONCE = 4096


class Order(StrEnum):
    """In which order assets are begun."""

    MANIFEST = "manifest"
    REVERSE = "reverse"
    LONGEST = "longest"
    SHORTEST = "shortest"
    PRIORITY = "priority"


@dataclass(frozen=True, slots=True)
class Condition:
    """`field=glob`. See `matches`."""

    field: str
    glob: str

    def matches(self, asset: Asset) -> bool:
        """Whether a value of the asset's field fits the glob (`*`, `?`, `[abc]`; case counts).

        The field is the manifest's or ours (see `Asset.field`); `a.b` is the field `b` within the
        object `a`. Of a list, any element will do. `true`, `false` and numbers are compared as
        JSON writes them. An empty glob fits a field that is missing, null or empty, and no other
        glob fits a missing one. `*` also stands for slashes. The pattern of `folder_path` holds
        for a folder and for everything below it.
        """
        values = list(_texts(_values(asset, self.field)))
        if not self.glob:
            return not any(values)
        pattern = _normal(self.glob)
        if self.field == "folder_path":
            pattern = _as_folder(pattern)
            return any(fnmatchcase(f, pattern) for value in values for f in _with_parents(value))
        return any(fnmatchcase(_normal(value), pattern) for value in values)


def parse_condition(text: str, option: str) -> Condition:
    """Read what stands after an option such as `--where`.

    Raises:
        UsageError: there is no field or no `=`.
    """
    field, equals, glob = text.partition("=")
    if not equals or not field.strip():
        raise UsageError(
            f"{option} '{for_terminal(text)}' is not of the form field=pattern.",
            remedy='For example: --where asset_type=Audio, --exclude "folder_path=Drafts/*".',
        )
    return Condition(field.strip(), glob)


def matcher(where: Sequence[Condition], exclude: Sequence[Condition]) -> Callable[[Asset], bool]:
    """What `--where` and `--exclude` ask for, as a test of one asset.

    Of several `where` with one field, one has to match; every field has to. Of `exclude`, none may.
    """
    required: dict[str, list[Condition]] = {}
    for condition in where:
        required.setdefault(condition.field, []).append(condition)

    def wanted(asset: Asset) -> bool:
        return all(
            any(condition.matches(asset) for condition in alternatives)
            for alternatives in required.values()
        ) and not any(condition.matches(asset) for condition in exclude)

    return wanted


def select(
    assets: Sequence[Asset],
    *,
    where: Sequence[Condition] = (),
    exclude: Sequence[Condition] = (),
    order: str = "manifest",
    skip: int = 0,
    limit: int | None = None,
    durations: Callable[[Asset], float | None] | None = None,
) -> Sequence[Asset]:
    """Filter, then order, then skip and limit.

    Args:
        order: one of `Order`. Ties keep the manifest's order.
        durations: for longest and shortest: the seconds of an asset whose manifest does not tell,
            or None where nobody knows; asked in several threads. What stays unknown goes last.

    Raises:
        UsageError: an order that there is not, a negative number.
    """
    if order not in tuple(Order):
        raise UsageError(
            f"There is no order '{for_terminal(order)}'.", remedy=f"Known: {', '.join(Order)}."
        )
    if skip < 0 or (limit is not None and limit < 0):
        raise UsageError("--skip and --limit must not be negative.")
    wanted = matcher(where, exclude)
    if where or exclude:
        assets = pick(assets, array("L", (n for n, asset in enumerate(assets) if wanted(asset))))
    places = _ordered(assets, Order(order), durations)
    return pick(assets, places[skip : None if limit is None else skip + limit])


def _ordered(
    assets: Sequence[Asset], order: Order, durations: Callable[[Asset], float | None] | None
) -> Sequence[int]:
    places = range(len(assets))
    match order:
        case Order.MANIFEST:
            return places
        case Order.REVERSE:
            return places[::-1]
        case Order.PRIORITY:
            priorities = array("l", priorities_of(assets))
            return array("L", sorted(places, key=priorities.__getitem__, reverse=True))
        case Order.LONGEST | Order.SHORTEST:
            known = _known_durations_s(assets, durations)
            if order is Order.LONGEST:
                known = array("d", (-seconds for seconds in known))
            # What stays unknown goes last.
            by_length = array("d", (math.inf if math.isnan(s) else s for s in known))
            return array("L", sorted(places, key=by_length.__getitem__))


def _known_durations_s(
    assets: Sequence[Asset], durations: Callable[[Asset], float | None] | None
) -> array[float]:
    known = array("d", durations_of(assets))
    unknown = [place for place, seconds in enumerate(known) if math.isnan(seconds)]
    if durations is None or not unknown:
        return known
    with ThreadPoolExecutor(_PROBERS, thread_name_prefix="probe") as pool:
        for first in range(0, len(unknown), _AT_ONCE):
            some = unknown[first : first + _AT_ONCE]
            for place, seconds in zip(some, pool.map(durations, pick(assets, some)), strict=True):
                known[place] = math.nan if seconds is None else seconds
    return known


def _values(asset: Asset, field: str) -> Iterator[Any]:
    """What a field holds, lists taken apart; also what `a.b` means, if no field is called so."""
    head, dot, tail = field.partition(".")
    if not dot or asset.field(field) is not None:
        yield from _flat(asset.field(field))
        return
    found = list(_flat(asset.field(head)))
    for key in tail.split("."):
        found = [v for f in found if isinstance(f, dict) for v in _flat(f.get(key))]
    yield from found


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _texts(values: Iterator[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, bool | int | float):
            yield json.dumps(value)


def _normal(text: str) -> str:
    """Composed and decomposed accents are one, as they look."""
    return unicodedata.normalize("NFC", text)


def _as_folder(text: str) -> str:
    return _normal(text).replace("\\", "/").strip("/")


def _with_parents(folder: str) -> Iterator[str]:
    parts = _as_folder(folder).split("/")
    for count in range(1, len(parts) + 1):
        yield "/".join(parts[:count])
