"""A hundred assets of which ten are bad, each in its own way: ninety done, ten named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from malformed import CASES
from program import Answer, write_tone

BAD = (
    "0 bytes",
    "header only",
    "text",
    "playlist of itself",
    "list of other files",
    "video only",
    "rate 1",
    "channels 65535",
    "mp4 without its index",
    "missing",
)


def test_ten_bad_assets_cost_ten_assets(cli: Callable[..., Answer], tmp_path: Path) -> None:
    audio = tmp_path / "audio"
    audio.mkdir()
    entries = []
    for number in range(100):
        name = f"good-{number:02d}.wav"
        if number % 10 == 3:
            case = CASES[BAD[number // 10]]
            name = f"bad-{number:02d}{case.suffix}"
            case.make(audio / name)
        else:
            write_tone(audio / name, 0.2)
        entries.append({"id": name.split(".")[0], "path": f"audio/{name}"})
    (tmp_path / "m.json").write_text(json.dumps(entries))
    answer = cli("run", "m.json", "--engine", "null", "-o", "out", "--allow-missing", "-t", "4")
    assert answer.code == 3
    assert "Traceback" not in answer.err
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["done"], summary["failed"], summary["not_done"]) == (90, 10, 0)
    failures = {failure["id"]: failure for failure in summary["failures"]}
    for number, name in enumerate(BAD):
        failure = failures[f"bad-{number * 10 + 3:02d}"]
        assert failure["kind"] == CASES[name].kind, name
        assert failure["reason"] in answer.err
        assert len(failure["reason"]) > 20
    # Each names what is wrong with that file: the same words only for the same trouble.
    assert len({failure["reason"].split("bad-")[-1] for failure in failures.values()}) == 10
    assert len(list((tmp_path / "out").glob("good-*.txt"))) == 90
    assert not list((tmp_path / "out").glob("bad-*"))
