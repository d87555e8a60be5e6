"""The trials of stores, as the tests and `scripts/storage_trials.py` run them."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from stores import nights
from stores.faults import Faults
from stores.nights import Night, Place
from stores.s3 import S3
from stores.servers import WebServer

FORMATS = ("-f", "txt", "-f", "srt", "-f", "json")
NULL = ("--engine", "null", *FORMATS)


@dataclass(slots=True)
class Report:
    """What a trial has shown.

    Attributes:
        wrong: whatever is lost, too much, torn, different or left behind; empty where all is well.
        codes: exit codes of the faulted runs; -9 for a kill.
        faults: requests by what befell them.
        requests: by phase of the trial, requests by kind.
        took_s: by phase, seconds.
    """

    assets: int
    wrong: list[str] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    requests: dict[str, Counter[str]] = field(default_factory=dict)
    took_s: dict[str, float] = field(default_factory=dict)

    def tell(self) -> str:
        """The report for people."""
        kinds = sorted({kind for counts in self.requests.values() for kind in counts})
        rows = [["requests per asset", *kinds, "seconds"]]
        for phase, counts in self.requests.items():
            cells = [f"{counts[kind] / self.assets:.3f}" for kind in kinds]
            rows.append([phase, *cells, f"{self.took_s[phase]:.1f}"])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        table = ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) for row in rows]
        met = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        lines = [*table, f"faults met: {met or 'none'}", f"exit codes of the runs: {self.codes}"]
        return "\n".join([*lines, *(self.wrong or ["nothing lost, nothing torn, nothing doubled"])])


def befallen(s3: S3, folder: Path, *, assets: int, kills: int, seed: int = 0) -> Report:
    """A night in S3 that everything befalls must leave what an undisturbed local one leaves.

    Its phases: without faults; with faults and kills, to the end; once more; without its journal.
    """
    report = Report(assets)
    place = Place.with_tones(folder, s3, assets)
    local = place.here("here", *NULL)
    local.finish()
    wanted = place.outputs(local)
    must(report, len(wanted) == 3 * assets, f"{len(wanted)} local outputs of {assets} assets")

    _phase(report, s3, "undisturbed", clean := place.in_s3("clean", *NULL))
    report.wrong += nights.differences(wanted, place.outputs(clean))

    s3.trouble.clear()
    s3.inject(replace(nights.TROUBLE, seed=seed, expire_after=max(40, assets // 3)))
    night, began_s = place.in_s3("night", *NULL), time.monotonic()
    nights.kill_and_finish(place, night, kills=kills, outputs_each=3)
    _note(report, s3, "faults, kills", began_s)
    report.codes = list(night.codes)
    report.faults = s3.trouble.faulted()
    must(report, report.codes.count(-9) == kills, f"{kills} kills were wanted: {report.codes}")
    # No path meets more faults in a row than are tried again: no run may leave an asset.
    must(report, report.codes.count(3) == 0, f"assets failed for good: {report.codes}")
    s3.inject(Faults())
    got = place.outputs(night)
    _judge(report, place, night, wanted, got)

    _phase(report, s3, "once more", night)
    must(report, place.outputs(night) == got, "a run with nothing to do has changed outputs")
    must(report, not nights.puts_of(s3, "out-night/tone"), "what was done was published again")
    nights.forget(night)
    _phase(report, s3, "journal lost", night)
    must(report, not nights.puts_of(s3, "out-night/tone"), "what was published was done again")
    _judge(report, place, night, wanted, place.outputs(night))
    return report


def same_everywhere(
    s3: S3, web: WebServer, folder: Path, manifest: Path, flags: tuple[object, ...], code: int = 0
) -> Report:
    """The same manifest by paths, from S3 to S3 and from the web must give the same words."""
    place = Place.of(folder, s3, manifest)
    report = Report(len(place.assets()))
    local = place.here("here", *flags)
    must(report, local.run() == code, f"the local run ended with {local.codes}")
    wanted = place.outputs(local)
    must(report, bool(wanted), "there are no outputs")

    stored = place.in_s3("stored", *flags)
    began_s = time.monotonic()
    must(report, stored.run() == code, f"from S3: {stored.codes}")
    _note(report, s3, "S3", began_s)
    report.wrong += [f"S3: {text}" for text in nights.differences(wanted, place.outputs(stored))]

    web.folder = place.recordings.parent
    fetched = place.here("fetched", *flags, "--allow-http", "--allow-private-addresses")
    fetched.manifest = place.manifest("fetched", f"{web.url}/")
    fetched.flags = (*fetched.flags, "--cache-dir", folder / "web-cache")
    began_s = time.monotonic()
    must(report, fetched.run() == code, f"from the web: {fetched.codes}")
    report.requests["HTTP"] = web.trouble.counts()
    report.took_s["HTTP"] = time.monotonic() - began_s
    report.wrong += [f"HTTP: {text}" for text in nights.differences(wanted, place.outputs(fetched))]
    return report


def must(report: Report, holds: bool, what: str) -> None:
    """Report what does not hold."""
    if not holds:
        report.wrong.append(what)


def _phase(report: Report, s3: S3, name: str, night: Night) -> None:
    s3.trouble.clear()
    began_s = time.monotonic()
    must(report, night.run() == 0, f"{name}: exit {night.codes[-1]}")
    _note(report, s3, name, began_s)


def _note(report: Report, s3: S3, name: str, began_s: float) -> None:
    report.took_s[name] = time.monotonic() - began_s
    report.requests[name] = s3.counts()


def _judge(
    report: Report, place: Place, night: Night, wanted: dict[str, bytes], got: dict[str, bytes]
) -> None:
    report.wrong += nights.differences(wanted, got)
    report.wrong += nights.disagreements(night, got)
    report.wrong += list(nights.left_behind(place.s3))
    report.wrong += nights.leaks(night)
    rows = len(night.journal())
    must(report, rows == report.assets, f"{rows} rows in the journal of {report.assets} assets")
