"""The flags of the output folder and its files, shared by commands."""

from __future__ import annotations

from typing import Annotated

from audio_batch.cli.option import opt

_OUTPUT = "Outputs"

OutputDir = Annotated[
    str | None,
    opt(
        "Where outputs and journal go: a folder, or s3:// gs:// az:// \\[transcripts].",
        "--output-dir",
        "-o",
        panel=_OUTPUT,
    ),
]
OutputFormat = Annotated[
    list[str] | None,
    opt(
        "json txt srt vtt tsv csv lrc aud rttm uem, a list, or all; json is always written; "
        "none, with --engine null, writes nothing \\[txt,srt].",
        "--output-format",
        "-f",
        panel=_OUTPUT,
    ),
]
OutputTemplate = Annotated[
    str | None,
    opt(
        'Names from fields, as "{folder_path}/{name}" \\[{id}].',
        "--output-template",
        panel=_OUTPUT,
    ),
]
MaxLineWidth = Annotated[
    int | None, opt("Columns of a subtitle line.", "--max-line-width", panel=_OUTPUT)
]
MaxLineCount = Annotated[int | None, opt("Lines of a subtitle.", "--max-line-count", panel=_OUTPUT)]
HighlightWords = Annotated[
    bool | None,
    opt(
        "Underline each word as it is spoken (srt, vtt).",
        "--highlight-words/--no-highlight-words",
        panel=_OUTPUT,
    ),
]
