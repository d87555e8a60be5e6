"""What goes wrong between a program and a store, by a seed.

`Faults` says how often; `Rule` says exactly what happens to which requests. Which fault a request
meets depends on the seed, its kind, its path and how often that was asked for, never on the order
in which threads arrive: what is asked for equally often meets the same faults.
"""

from __future__ import annotations

import fnmatch
import hashlib
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Fault = Literal["error", "reset", "lost", "truncated", "slow", "hang", "expired"]
"""error: an answer of 500 or 503 (or a rule's status) · reset: the connection is reset before
anything is done · lost: it is done, then the connection is reset · truncated: the body ends at half
its length · slow: the body trickles · hang: nothing comes for `hang_s`, then the connection ends ·
expired: the answer that S3 gives to a token that has expired."""


@dataclass(frozen=True, slots=True)
class Faults:
    """How often what goes wrong; shares are of all requests, between 0 and 1.

    Args:
        most_in_a_row: faults that one path meets one after the other, at most, so that whoever
            tries again often enough gets through.
        kinds: only requests of these kinds; None for all.
        slow_s: how long a slow body takes.
        expire_after: requests for which one access key is good; None for ever.
        expired_status: of the answer then. S3 gives 400, most others 403.
    """

    seed: int = 0
    error: float = 0.0
    reset: float = 0.0
    lost: float = 0.0
    truncated: float = 0.0
    slow: float = 0.0
    most_in_a_row: int = 3
    kinds: frozenset[str] | None = None
    slow_s: float = 0.5
    hang_s: float = 5.0
    expire_after: int | None = None
    expired_status: int = 400


@dataclass(slots=True)
class Rule:
    """What happens to requests of a kind for paths like a pattern, the first `times` of them.

    Args:
        kind: of `Seen.kind`, or `*`.
        path: a shell pattern of the path without its query, as `/recordings/*.wav`.
        status: of an error's answer; 0 for 500 or 503.
        code: what S3 or STS calls it; "" for what goes with the status.
        times: how many requests it is for; None for all.
        after: how many it lets pass before.
        retry_after_s: the answer's Retry-After, if any.
        slow_s: how long a slow body takes.
    """

    fault: Fault
    kind: str = "*"
    path: str = "*"
    status: int = 0
    code: str = ""
    times: int | None = None
    after: int = 0
    retry_after_s: float | None = None
    slow_s: float = 0.5

    def meets(self, kind: str, path: str) -> bool:
        """Whether this request is one of them; counts it."""
        if self.kind not in ("*", kind) or not fnmatch.fnmatchcase(path, self.path):
            return False
        if self.after > 0:
            self.after -= 1
            return False
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it was answered.

    Attributes:
        kind: the method, or what S3 calls it: GET, HEAD, PUT, LIST, DELETE, COPY, PART, …
        path: without the query, percent-encoded as it came.
        range: its Range, or "".
        status: of the answer, also of one that was lost; 0 where there is none.
        fault: what was done to it, or "".
        key: the access key that signed it, or "".
        body_bytes: length of the request's own body.
    """

    kind: str
    path: str
    range: str = ""
    status: int = 0
    fault: str = ""
    key: str = ""
    body_bytes: int = 0


@dataclass(slots=True)
class Trouble:
    """Decides what happens to each request, and remembers them. Safe in threads."""

    faults: Faults = field(default_factory=Faults)
    rules: list[Rule] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    expired: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    _in_a_row: Counter[tuple[str, str]] = field(default_factory=Counter)
    _by_key: Counter[str] = field(default_factory=Counter)

    def of(self, kind: str, path: str, key: str) -> Rule | None:
        """What happens to this request; None for nothing."""
        with self._lock:
            if self._is_expired(kind, key):
                return Rule("expired", status=self.faults.expired_status)
            for rule in self.rules:
                if rule.meets(kind, path):
                    return rule
            return self._drawn(kind, path)

    def note(self, seen: Seen) -> None:
        """Remember a request."""
        with self._lock:
            self.seen.append(seen)

    def counts(self) -> Counter[str]:
        """How many requests of each kind there were."""
        with self._lock:
            return Counter(seen.kind for seen in self.seen)

    def faulted(self) -> Counter[str]:
        """How many requests met each fault."""
        with self._lock:
            return Counter(seen.fault for seen in self.seen if seen.fault)

    def clear(self) -> None:
        """Forget what was seen; faults and rules stay."""
        with self._lock:
            self.seen.clear()

    def _is_expired(self, kind: str, key: str) -> bool:
        if not key or kind == "STS":
            return False
        self._by_key[key] += 1
        after = self.faults.expire_after
        if after is not None and self._by_key[key] > after:
            self.expired.add(key)
        return key in self.expired

    def _drawn(self, kind: str, path: str) -> Rule | None:
        faults = self.faults
        if faults.kinds is not None and kind not in faults.kinds:
            return None
        place = (kind, path)
        self._asked[place] += 1
        if self._in_a_row[place] >= faults.most_in_a_row:
            self._in_a_row[place] = 0
            return None
        draw = _fraction(f"{faults.seed}|{kind}|{path}|{self._asked[place]}")
        names: tuple[Fault, ...] = ("error", "reset", "lost", "truncated", "slow")
        for name in names:
            share: float = getattr(faults, name)
            if draw < share:
                self._in_a_row[place] += 1
                return Rule(name, slow_s=faults.slow_s)
            draw -= share
        self._in_a_row[place] = 0
        return None


def _fraction(text: str) -> float:
    """A number in [0, 1) that only the text decides."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7]) / 2**56
