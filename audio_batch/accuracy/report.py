"""An evaluation as plain values for JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from audio_batch import __version__
from audio_batch.accuracy.comparison import Comparison
from audio_batch.accuracy.errors import Errors
from audio_batch.accuracy.evaluation import Evaluation, Rules, Status
from audio_batch.accuracy.measures import MEASURES
from audio_batch.accuracy.words import Boundaries

SCHEMA_VERSION = 1


def to_json(
    manifest: str,
    rules: Rules,
    ours: Evaluation,
    theirs: Evaluation | None,
    comparisons: Sequence[Comparison],
) -> dict[str, Any]:
    """Everything as plain values; rates in percent, null where there is nothing to divide by."""
    body = {
        "schema_version": SCHEMA_VERSION,
        "program": f"audio-batch {__version__}",
        "manifest": manifest,
        "rules": {
            "normalization": rules.normalization.value,
            "normalization_meaning": rules.normalization.meaning,
            "collar_s": rules.collar_s,
            "collar_meaning": collar_meaning(rules),
            "skip_overlap": rules.skip_overlap,
            "missing_as_empty": rules.missing_as_empty,
        },
        "measures": {
            name: {"title": m.title, "unit": m.unit, "meaning": m.meaning}
            for name, m in MEASURES.items()
            if name in ours.measures
        },
        **_evaluation(ours),
    }
    if theirs is not None:
        body["against"] = _evaluation(theirs)
        body["comparison"] = {c.measure: _comparison(c) for c in comparisons}
    return body


def collar_meaning(rules: Rules) -> str:
    """The collar in words, since others mean the whole width by it."""
    return f"{rules.collar_s:g} s on each side of every boundary are not scored (NIST's collar)"


def _evaluation(evaluation: Evaluation) -> dict[str, Any]:
    totals = {}
    for name in evaluation.measures:
        measured, wanted = evaluation.coverage(name)
        total = evaluation.total(name)
        figures = _errors(total) if total is not None else None
        totals[name] = {"assets": measured, "assets_with_reference": wanted, "figures": figures}
    return {
        "output_folder": evaluation.folder,
        "counts": {status.value.replace(" ", "_"): evaluation.count(status) for status in Status},
        "totals": totals,
        "word_boundaries": boundary_figures(evaluation.boundaries()),
        "notes": list(evaluation.notes),
        "assets": [
            {
                "id": asset.id,
                "name": asset.name,
                "status": asset.status.value.replace(" ", "_"),
                "measures": {name: _errors(errors) for name, errors in asset.errors.items()},
                "word_boundaries": boundary_figures(asset.boundaries),
                "speakers": asset.speakers[0] if asset.speakers else None,
                "speakers_found": asset.speakers[1] if asset.speakers else None,
                "notes": list(asset.notes),
            }
            for asset in evaluation.assets
        ],
    }


def _errors(errors: Errors) -> dict[str, Any]:
    return {
        "rate_pct": _pct(errors.rate),
        "errors": round(errors.count, 3),
        "of": round(errors.total, 3),
        **{kind.replace(" ", "_"): round(count, 3) for kind, count in errors.kinds.items()},
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    interval = comparison.interval
    return {
        "assets": comparison.better + comparison.same + comparison.worse,
        "ours": _errors(comparison.ours),
        "theirs": _errors(comparison.theirs),
        "difference_pct": _pct(comparison.difference),
        "difference_95_pct": [_pct(bound) for bound in interval] if interval else None,
        "better": comparison.better,
        "same": comparison.same,
        "worse": comparison.worse,
    }


def _pct(rate: float) -> float | None:
    return round(100 * rate, 4) if math.isfinite(rate) else None


def boundary_figures(boundaries: Boundaries | None) -> dict[str, float | None] | None:
    """Medians and 90th percentiles in milliseconds, None of no words."""
    if boundaries is None:
        return None
    return {
        "words": len(boundaries.start_errors_s),
        "start_median_ms": _quantile_ms(boundaries.start_errors_s, 50),
        "start_p90_ms": _quantile_ms(boundaries.start_errors_s, 90),
        "end_median_ms": _quantile_ms(boundaries.end_errors_s, 50),
        "end_p90_ms": _quantile_ms(boundaries.end_errors_s, 90),
    }


def _quantile_ms(errors_s: Sequence[float], percent: float) -> float | None:
    import numpy as np

    return round(1000 * float(np.percentile(errors_s, percent)), 1) if errors_s else None
