"""The cases of `cases` as a person reads them, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table

from audio_batch.schedule.cases import Case, Result
from audio_batch.schedule.simulation import POLICY_NAMES

SCHEMA_VERSION = 1


def to_json(results: Sequence[Result]) -> dict[str, Any]:
    """Everything as plain values; what is `measured` was seen on real GPUs, the rest is a model."""
    return {
        "schema_version": SCHEMA_VERSION,
        "cases": [
            {
                "case": case.title,
                "noise": case.noise,
                "bound_s": round(ours[0].bound_s, 3),
                "optimum_s": case.optimum_s,
                "measured": case.measured or None,
                "policies": {result.policy: _result_json(result) for result in ours},
            }
            for case, ours in _by_case(results)
        ],
    }


def _result_json(result: Result) -> dict[str, Any]:
    body: dict[str, Any] = {"runs": len(result.runs)}
    for unit, relative in (("makespan_s", False), ("ratio", True)):
        for name, share in (("min", 0.0), ("median", 0.5), ("p95", 0.95), ("max", 1.0)):
            body[f"{unit}_{name}"] = round(result.quantile(share, relative=relative), 4)
    return body


def show(console: Console, results: Sequence[Result]) -> None:
    """One row a case."""
    table = Table("case", title="Makespans in seconds", title_justify="left")
    for column in ("bound", "optimum", *POLICY_NAMES, "measured"):
        table.add_column(column, justify="right")
    for case, ours in _by_case(results):
        optimum = "-" if case.optimum_s is None else f"{case.optimum_s:g}"
        cells = (_cell(case, result) for result in ours)
        table.add_row(case.title, f"{ours[0].bound_s:.0f}", optimum, *cells, case.measured or "-")
    console.print(table)
    for line in (
        "Bound, optimum and the policies' figures are a model: a file takes what its device takes "
        "for its length, and slots that share a device gain nothing by it.",
        "Measured: seconds of six and of twenty recordings of ten minutes on an RTX 3090 (8 s "
        "each) and a GTX 1660 (24 s each), where that was done; whoever was free took the next.",
        "A range is over the places that the long file can have, or over the draws; x is the "
        "median and (p95) over the bound.",
    ):
        console.print(line, highlight=False, markup=False)


def _cell(case: Case, result: Result) -> str:
    if case.relative:
        median, p95 = (result.quantile(share, relative=True) for share in (0.5, 0.95))
        return f"x{median:.3f} ({p95:.3f})"
    if case.noise:
        return f"{result.quantile(0.5):.0f} ({result.quantile(0.95):.0f})"
    least, most = result.quantile(0.0), result.quantile(1.0)
    return f"{least:g}" if f"{least:g}" == f"{most:g}" else f"{least:g}-{most:g}"


def _by_case(results: Sequence[Result]) -> Iterator[tuple[Case, list[Result]]]:
    for case, ours in groupby(results, key=lambda result: result.case):
        yield case, list(ours)
