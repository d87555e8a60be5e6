"""An evaluation as a person reads it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from audio_batch.accuracy.comparison import Comparison
from audio_batch.accuracy.errors import Errors
from audio_batch.accuracy.evaluation import AssetScore, Evaluation, Rules, Status
from audio_batch.accuracy.measures import MEASURES
from audio_batch.accuracy.report import boundary_figures, collar_meaning
from audio_batch.text import for_terminal

SHOWN_NOTES = 20
_SHORT = {"substitutions": "sub.", "deletions": "del.", "insertions": "ins."}


def show(
    console: Console,
    rules: Rules,
    ours: Evaluation,
    theirs: Evaluation | None,
    comparisons: Sequence[Comparison],
    *,
    top: int,
) -> None:
    """The worst assets, what could not be measured, the totals, the other folder, the rules."""
    _show_assets(console, ours, top)
    _show_gaps(console, ours, rules)
    _show_totals(console, ours)
    if theirs is not None:
        _show_comparison(console, ours, theirs, comparisons)
        _show_gaps(console, theirs, rules)
    _say(console, f"Compared: {rules.normalization.meaning}.")
    if "der" in ours.measures:
        overlap = "is not scored" if rules.skip_overlap else "is scored"
        _say(console, f"DER: {collar_meaning(rules)}; overlapping speech {overlap}.")
    if "cer" in ours.measures and ours.coverage("wer")[1] < ours.coverage("cer")[1]:
        _say(console, "Where the reference has no blanks between words, CER is what counts.")


def _show_assets(console: Console, evaluation: Evaluation, top: int) -> None:
    scored = [asset for asset in evaluation.assets if asset.errors]
    worst = sorted(scored, key=lambda asset: asset.main_rate, reverse=True)[:top]
    if not worst:
        return
    title = f"The worst {len(worst)} of {len(scored)}" if len(worst) < len(scored) else "Assets"
    names = [name for name in evaluation.measures if name != "speakers"]
    table = Table("id", title=f"{title}, errors in %", title_justify="left")
    for name in names:
        table.add_column(MEASURES[name].title, justify="right")
    if "speakers" in evaluation.measures:
        table.add_column("speakers", justify="right")
    for asset in worst:
        cells = [_rate(asset.errors.get(name)) for name in names]
        if "speakers" in evaluation.measures:
            cells.append(_speakers(asset))
        table.add_row(escape(for_terminal(asset.id)), *cells)
    console.print(table)


def _speakers(asset: AssetScore) -> str:
    if asset.speakers is None:
        return "-"
    there, found = asset.speakers
    return str(there) if there == found else f"{found} for {there}"


def _show_gaps(console: Console, evaluation: Evaluation, rules: Rules) -> None:
    """What keeps the figures from being about everything."""
    missing = evaluation.count(Status.MISSING)
    if missing:
        counted = "count as empty" if rules.missing_as_empty else "are in none of the rates"
        _say(
            console,
            f"{missing} of {missing + evaluation.count(Status.MEASURED)} assets with a reference "
            f"have no transcript in {evaluation.folder} and {counted}.",
            "bold red",
        )
    lines = [f"{asset.id}: {'; '.join(asset.notes)}" for asset in evaluation.assets if asset.notes]
    lines += evaluation.notes
    for line in lines[:SHOWN_NOTES]:
        _say(console, line, "yellow")
    if len(lines) > SHOWN_NOTES:
        _say(console, f"and {len(lines) - SHOWN_NOTES} more; --json has all", "yellow")
    if without := evaluation.count(Status.NO_REFERENCE):
        _say(console, f"Without a reference: {without} of {len(evaluation.assets)} assets.")


def _show_totals(console: Console, evaluation: Evaluation) -> None:
    table = Table("measure", title="In all", title_justify="left")
    for column in ("%", "of", "assets"):
        table.add_column(column, justify="right")
    table.add_column("errors", overflow="fold")
    for name in evaluation.measures:
        measure, total = MEASURES[name], evaluation.total(name)
        measured, wanted = evaluation.coverage(name)
        assets = f"{measured:,}" if measured == wanted else f"{measured:,} of {wanted:,}"
        if total is None:
            table.add_row(measure.title, "-", "", assets, "")
            continue
        of = f"{_amount(total.total)} {measure.unit}"
        kinds = (f"{_amount(n)} {_SHORT.get(kind, kind)}" for kind, n in total.kinds.items() if n)
        table.add_row(measure.title, _rate(total), of, assets, ", ".join(kinds))
    if evaluation.measures:
        console.print(table)
    figures = boundary_figures(evaluation.boundaries())
    if figures is not None and figures["words"]:
        _say(
            console,
            f"Word boundaries of {figures['words']:,} words heard right: start "
            f"{figures['start_median_ms']} ms off in the median and {figures['start_p90_ms']} ms "
            f"at the 90th percentile; end {figures['end_median_ms']} and "
            f"{figures['end_p90_ms']} ms.",
        )


def _show_comparison(
    console: Console, ours: Evaluation, theirs: Evaluation, comparisons: Sequence[Comparison]
) -> None:
    if not comparisons:
        _say(console, f"No asset is measured in both {ours.folder} and {theirs.folder}.", "yellow")
        return
    title = f"{ours.folder} against {theirs.folder}, in % on the assets of both"
    table = Table("measure", title=escape(for_terminal(title)), title_justify="left")
    for column in ("ours", "theirs", "difference", "95 % interval", "better", "same", "worse"):
        table.add_column(column, justify="right")
    for one in comparisons:
        bounds = [f"{100 * bound:+.1f}" for bound in one.interval or ()]
        table.add_row(
            MEASURES[one.measure].title,
            _rate(one.ours),
            _rate(one.theirs),
            f"{100 * one.difference:+.2f}" if math.isfinite(one.difference) else "-",
            "…".join(bounds),
            *(str(count) for count in (one.better, one.same, one.worse)),
        )
    console.print(table)
    both = (boundary_figures(ours.boundaries()), boundary_figures(theirs.boundaries()))
    medians = [figures["start_median_ms"] for figures in both if figures and figures["words"]]
    if len(medians) == 2:
        _say(console, f"Word starts, median: ours {medians[0]} ms off, theirs {medians[1]} ms.")


def _rate(errors: Errors | None) -> str:
    if errors is None:
        return "-"
    return f"{100 * errors.rate:.2f}" if math.isfinite(errors.rate) else "inf"


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def _say(console: Console, text: str, style: str | None = None) -> None:
    console.print(escape(for_terminal(text)), style=style, highlight=False, soft_wrap=True)
