"""`audio-batch eval MANIFEST OUT`: how right the transcripts are."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audio_batch.cli import manifest_options as options
from audio_batch.cli.location import StateDir
from audio_batch.cli.option import manifest_argument

if TYPE_CHECKING:
    from audio_batch.accuracy.evaluation import Evaluation


class Compared(StrEnum):
    """The values of `accuracy.normalization.Normalization`, which is not imported for --help."""

    BASIC = "basic"
    NONE = "none"


def _limit(title: str) -> Any:
    return typer.Option(
        min=0, metavar="PCT", help=f"Exit 3 if the {title} is above.", rich_help_panel="Limits"
    )


def evaluate(
    manifest: Annotated[Path, manifest_argument("The manifest, with references in its entries.")],
    output_dir: Annotated[
        str, typer.Argument(metavar="OUT", help="The --output-dir of a run, or a copy of it.")
    ],
    against: Annotated[
        str | None, typer.Option(metavar="OUT2", help="Another folder to compare with.")
    ] = None,
    collar: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds on each side of every boundary that DER does not score (as NIST's).",
        ),
    ] = 0.25,
    skip_overlap: Annotated[
        bool, typer.Option("--skip-overlap", help="DER only where one person speaks.")
    ] = False,
    normalize: Annotated[
        Compared, typer.Option(help="How texts are made alike before they are compared.")
    ] = Compared.BASIC,
    missing_as_empty: Annotated[
        bool, typer.Option("--missing-as-empty", help="No transcript counts as nothing heard.")
    ] = False,
    top: Annotated[int, typer.Option(min=0, help="Show so many assets, the worst.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
    max_wer: Annotated[float | None, _limit("WER")] = None,
    max_cer: Annotated[float | None, _limit("CER")] = None,
    max_cpwer: Annotated[float | None, _limit("cpWER")] = None,
    max_der: Annotated[float | None, _limit("DER")] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Configuration file (TOML).", envvar="AUDIO_BATCH_CONFIG"),
    ] = None,
    state_dir: StateDir = None,
    root: options.Root = None,
    field: options.Field = None,
    where: options.Where = None,
    exclude: options.Exclude = None,
) -> int:
    """Measure transcripts against the references that the manifest gives.

    WER, CER, speaker-attributed WER (cpWER), DER, JER, and how far the times
    of words are off: for every asset and in all, by itself or beside another
    run. An entry gives reference_text, reference_rttm, reference_uem,
    reference_seglst or reference_words. Exit 3 where a limit is not kept.
    """
    from rich.console import Console
    from rich.progress import Progress

    from audio_batch.accuracy import report
    from audio_batch.accuracy.comparison import compare
    from audio_batch.accuracy.evaluation import Rules
    from audio_batch.accuracy.evaluation import evaluate as evaluated
    from audio_batch.accuracy.hypotheses import hypotheses
    from audio_batch.accuracy.normalization import Normalization
    from audio_batch.accuracy.references import ALIASES, References
    from audio_batch.config import merge
    from audio_batch.errors import UsageError
    from audio_batch.request import Request, choose, read_manifest

    flags = {"root": root, "field": field, "where": where, "exclude": exclude}
    settings, _ = merge({**flags, "allow_missing": True}, config=config, manifest=manifest)
    assets = choose(read_manifest(Request(manifest.expanduser(), settings)), settings)
    references = References(assets, manifest.expanduser().parent)
    if not any(references.has(asset) for asset in assets):
        raise UsageError(
            "No entry of the manifest has a reference.",
            remedy=f"Give the entries one or more of: {', '.join(ALIASES)}.",
        )
    folders = [hypotheses(output_dir, state_dir)]
    if against is not None:
        folders.append(hypotheses(against))
    rules = Rules(Normalization(normalize), collar, skip_overlap, missing_as_empty)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Measuring", total=len(assets) * len(folders))
        ours, *rest = [
            evaluated(assets, references, folder, rules, lambda: progress.advance(task))
            for folder in folders
        ]
    theirs = rest[0] if rest else None
    comparisons = compare(ours, theirs) if theirs else ()
    if as_json:
        body = report.to_json(str(manifest), rules, ours, theirs, comparisons)
        sys.stdout.write(json.dumps(body, indent=2, ensure_ascii=True) + "\n")
    else:
        from audio_batch.accuracy.tables import show
        from audio_batch.reporters import SteadyConsole

        show(SteadyConsole(), rules, ours, theirs, comparisons, top=top)
    limits = {"wer": max_wer, "cer": max_cer, "cpwer": max_cpwer, "der": max_der}
    return _judged(ours, limits, gaps=not missing_as_empty)


def _judged(ours: Evaluation, limits: Mapping[str, float | None], *, gaps: bool) -> int:
    """Say on stderr which limits are not kept; what was not measured keeps none."""
    from audio_batch.accuracy.evaluation import Status
    from audio_batch.accuracy.measures import MEASURES
    from audio_batch.errors import ExitCode

    kept = True
    asked = {name: limit for name, limit in limits.items() if limit is not None}
    for name, limit in asked.items():
        title, total = MEASURES[name].title, ours.total(name)
        if total is None:
            typer.echo(f"{title} could not be measured.", err=True)
            kept = False
        elif 100 * total.rate > limit + 1e-9:
            typer.echo(f"{title} {100 * total.rate:.2f} % is above {limit:g} %.", err=True)
            kept = False
    if asked and gaps and (missing := ours.count(Status.MISSING)):
        typer.echo(f"{missing} transcripts are missing; see --missing-as-empty.", err=True)
        kept = False
    return ExitCode.OK if kept else ExitCode.SOME_FAILED
