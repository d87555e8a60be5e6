"""Average-linkage clustering of voices, with pairs that must stay apart. Pure, any thread.

The likeness of two groups is the mean cosine over all pairs of a voice of one and a voice of the
other, each voice weighing by how much it talks. Of unit vectors that is the product of the groups'
weighted means, so that no matrix of pairs is kept: memory grows with the number of voices.

Merging can only make a group less like a third one than its liker part was (the linkage is
reducible, and stays so with pairs forbidden). Two groups that are each other's nearest will
therefore be merged sooner or later whatever else is, and all such pairs can be merged at once:
the result is that of merging the likest pair, one after the other (Murtagh, "A survey of recent
advances in hierarchical clustering algorithms", The Computer Journal 26(4), 1983).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_ROWS_AT_ONCE = 512
_FORBIDDEN = -2.0  # below every cosine
_ROUNDING = 1e-6  # below it float32 cannot tell two cosines apart


@dataclass(slots=True, eq=False)
class Group:
    """Voices taken for one person's.

    Args:
        members: numbers that mean something to the caller.
        mean: weighted mean of the members' unit vectors, shape (d,); shorter than 1 where they
            differ.
        weight_s: sum of the members' weights.
        recordings: those that its members are heard in. Groups that share one are never merged.
        voice: the id that it has already; two groups that have one are never merged.
    """

    members: list[int]
    mean: NDArray[np.float32]
    weight_s: float
    recordings: set[int] = field(default_factory=set)
    voice: str | None = None

    def take(self, other: Group) -> None:
        """Make the other's members this group's."""
        weight_s = self.weight_s + other.weight_s
        share = self.weight_s / weight_s
        self.mean = (self.mean * share + other.mean * (1 - share)).astype(np.float32)
        self.weight_s = weight_s
        self.members += other.members
        self.recordings |= other.recordings
        self.voice = self.voice or other.voice


def agglomerate(groups: Sequence[Group], threshold: float) -> list[Group]:
    """Merge groups while any two are at least `threshold` alike; in the order of the first parts.

    The groups are changed. Equal input in equal order gives an equal result; time grows with the
    square of their number.

    Args:
        threshold: between 0 and 1.
    """
    if not groups:
        return []
    search = _Search(groups, threshold)
    while pairs := search.nearest_pairs():
        for one, other in pairs:
            search.merge(one, other)
    return [groups[i] for i in range(len(groups)) if search.standing[i]]


class _Search:
    """Every group's nearest, searched for again only where merges may have changed it."""

    def __init__(self, groups: Sequence[Group], threshold: float) -> None:
        self.groups = groups
        self.threshold = threshold
        count = len(groups)
        self.standing = np.ones(count, dtype=bool)
        # Groups that nothing is near enough to, now or later, are no longer looked at.
        self._open = np.ones(count, dtype=bool)
        self._means = np.array([group.mean for group in groups], dtype=np.float32)
        self._nearest = np.full(count, -1)
        self._likeness = np.full(count, _FORBIDDEN, dtype=np.float32)
        # No other group than the nearest is liker, whatever is merged meanwhile.
        self._bound = np.full(count, _FORBIDDEN, dtype=np.float32)
        self._merged_into = np.arange(count)
        self._stale = np.ones(count, dtype=bool)
        self._with_id = {i for i, group in enumerate(groups) if group.voice}
        self._heard_in: dict[int, set[int]] = defaultdict(set)
        for i, group in enumerate(groups):
            for recording in group.recordings:
                self._heard_in[recording].add(i)

    def nearest_pairs(self) -> list[tuple[int, int]]:
        """Pairs of groups that are each other's nearest and alike enough; [] at the end."""
        self._follow_merges()
        self._search()
        rows = np.flatnonzero(self._open)
        if not rows.size:
            return []
        mutual = rows[self._nearest[self._nearest[rows]] == rows]
        pairs = [(int(i), int(self._nearest[i])) for i in mutual if i < self._nearest[i]]
        if pairs:
            return pairs
        # Rounding can let equal likenesses chase each other round.
        best = int(rows[np.argmax(self._likeness[rows])])
        return [(best, int(self._nearest[best]))]

    def merge(self, one: int, other: int) -> None:
        """Make two groups one, which keeps the place of `one`."""
        for recording in self.groups[other].recordings:
            self._heard_in[recording].discard(other)
            self._heard_in[recording].add(one)
        if other in self._with_id:
            self._with_id.discard(other)
            self._with_id.add(one)
        self.groups[one].take(self.groups[other])
        self._means[one] = self.groups[one].mean
        self._merged_into[other] = one
        self.standing[other] = self._open[other] = False
        self._stale[one] = True

    def _follow_merges(self) -> None:
        """Keep to a nearest that has been merged, where it is still no less like than others."""
        rows = np.flatnonzero(self._open & ~self._stale)
        target = self._merged_into[self._nearest[rows]]
        touched = self._stale[target]
        rows, target = rows[touched], target[touched]
        likeness = np.einsum("ij,ij->i", self._means[rows], self._means[target])
        near = likeness >= self._bound[rows] - _ROUNDING
        self._stale[rows[~near]] = True
        for i, j, value in zip(rows[near], target[near], likeness[near], strict=True):
            if self._apart(int(i), int(j)):
                self._stale[i] = True
            else:
                self._nearest[i], self._likeness[i] = j, value
        self._close(rows)

    def _search(self) -> None:
        """Find the nearest of every group whose nearest is not known."""
        while (rows := np.flatnonzero(self._stale & self._open)).size:
            columns = np.flatnonzero(self._open)
            place = np.full(len(self.groups), -1)
            place[columns] = np.arange(columns.size)
            means = self._means[columns]
            for start in range(0, rows.size, _ROWS_AT_ONCE):
                part = rows[start : start + _ROWS_AT_ONCE]
                likeness = self._means[part] @ means.T
                for row, i in zip(likeness, part, strict=True):
                    row[place[self._all_apart_from(int(i))]] = _FORBIDDEN
                order = np.arange(part.size)
                best = likeness.argmax(axis=1)
                self._nearest[part] = columns[best]
                self._likeness[part] = likeness[order, best]
                likeness[order, best] = _FORBIDDEN
                self._bound[part] = likeness.max(axis=1)
            self._stale[rows] = False
            self._close(rows)
            # By rounding alone: a group may be near to one that was just closed.
            self._stale |= self._open & ~self._open[self._nearest]

    def _close(self, rows: NDArray[np.intp]) -> None:
        known = rows[~self._stale[rows]]
        self._open[known[self._likeness[known] < self.threshold]] = False

    def _apart(self, i: int, j: int) -> bool:
        one, other = self.groups[i], self.groups[j]
        both = i in self._with_id and j in self._with_id
        return both or not one.recordings.isdisjoint(other.recordings)

    def _all_apart_from(self, i: int) -> list[int]:
        """The open groups that group `i` may not be merged with, itself included."""
        apart = {i}.union(*(self._heard_in[recording] for recording in self.groups[i].recordings))
        if i in self._with_id:
            apart |= self._with_id
        return [j for j in apart if self._open[j]]
