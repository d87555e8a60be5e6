"""What a rerun may take from an earlier one, and what it must not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from program import Answer, command, environment, write_manifest, write_tone

Cli = Callable[..., Answer]
NULL = ("--engine", "null", "-o", "out")


def transcripts(folder: Path) -> dict[str, tuple[str, str]]:
    """Of each canonical output: the asset it says it is of, and its text."""
    found = {}
    for path in sorted(folder.rglob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        if "asset_id" in document:
            found[path.relative_to(folder).as_posix()] = (document["asset_id"], document["text"])
    return found


def entries(folder: Path, ids: list[str], **more: str) -> Path:
    rows = []
    for number, id_ in enumerate(ids):
        path = folder / f"{id_}.wav"
        if not path.exists():
            write_tone(path, 0.5 + number / 100)
        rows.append({"id": id_, "path": path.name, **more})
    manifest = folder / "m.json"
    manifest.write_text(json.dumps(rows))
    return manifest


def test_names_that_move_on_never_carry_anothers_words(cli: Cli, tmp_path: Path) -> None:
    """With {position} a new first asset takes over every name: each file must be its asset's."""
    by_place = ("--output-template", "{position}")
    assert cli("run", entries(tmp_path, ["a", "b", "c"]), *NULL, *by_place).code == 0
    before = {text for _, text in transcripts(tmp_path / "out").values()}
    write_tone(tmp_path / "new.wav", 0.9)
    manifest = entries(tmp_path, ["new", "a", "b", "c"])
    answer = cli("run", manifest, *NULL, *by_place)
    assert answer.code == 0, answer.err
    after = transcripts(tmp_path / "out")
    assert [after[f"{n}.json"][0] for n in range(4)] == ["new", "a", "b", "c"]
    assert {after[f"{n}.json"][1] for n in (1, 2, 3)} == before
    assert len({text for _, text in after.values()}) == 4


def test_two_manifests_in_one_folder_keep_apart(cli: Cli, tmp_path: Path) -> None:
    by_name = ("--output-template", "{name}")
    for id_ in ("x", "y", "x", "y"):
        assert cli("run", entries(tmp_path, [id_], name="talk"), *NULL, *by_name).code == 0
    found = transcripts(tmp_path / "out")
    assert sorted(asset for asset, _ in found.values()) == ["x", "y"]
    status = json.loads(cli("status", "out", "--json").out)
    assert status["counts"]["done"] == 2
    assert {asset["attempts"] for asset in status["assets"]} == {1}


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_a_file_name_that_is_no_text_costs_nothing(cli: Cli, tmp_path: Path) -> None:
    good = write_tone(tmp_path / "good.wav")
    for name, data in ((b"b\xff.wav", good.read_bytes()), (b"bad\xff.wav", b"no recording")):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:  # noqa: PTH118, PTH123
            file.write(data)
    uris = [f"file://{tmp_path}/{name}" for name in ("b%FF.wav", "bad%FF.wav")]
    rows = [{"id": f"odd{n}", "uri": uri} for n, uri in enumerate(uris)]
    (tmp_path / "m.json").write_text(json.dumps([*rows, {"id": "good", "path": "good.wav"}]))
    answer = cli("run", "m.json", *NULL)
    assert answer.code == 3, answer.err
    counts = json.loads(cli("status", "out", "--json").out)["counts"]
    assert (counts["done"], counts["failed"]) == (2, 1)


def test_a_stopped_overwrite_counts_what_it_has_not_come_to_as_not_done(
    cli: Cli, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path, 4)
    assert cli("run", manifest, *NULL).code == 0
    (tmp_path / "audio/tone-001.wav").write_text("no recording")
    answer = cli(
        "run", manifest, *NULL, "--overwrite", "--fail-fast", "-t", "1", "--order", "manifest"
    )
    assert answer.code == 3
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["done"], summary["failed"], summary["not_done"]) == (1, 1, 2)
    assert summary["done_before"] == 0


def test_raising_a_limit_does_only_what_it_had_refused(cli: Cli, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, 3)
    write_tone(tmp_path / "audio/tone-002.wav", 9)
    assert cli("run", manifest, *NULL, "--max-duration", "5").code == 3
    again = cli("run", manifest, *NULL, "--max-duration", "60")
    assert again.code == 0, again.err
    status = json.loads(cli("status", "out", "--json").out)
    assert [asset["attempts"] for asset in status["assets"]] == [1, 1, 1]
    assert again.err.count("Processing:") == 1


def test_export_reads_what_the_journal_vouches_for(cli: Cli, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, 2)
    assert cli("run", manifest, *NULL).code == 0
    (tmp_path / "out/foreign.json").write_text("[]")
    assert cli("export", "out", "-f", "vtt").code == 0
    assert cli("export", "out", "-f", "json").code == 2
    (tmp_path / "out/tone-000.json").write_text("[]")
    answer = cli("export", "out", "-f", "vtt")
    assert answer.code == 3
    assert "tone-000.json: not a transcript" in answer.err


def test_a_reader_that_leaves_changes_no_exit_code(cli: Cli, tmp_path: Path) -> None:
    """`2>&1 | head -1`, and a terminal that is closed: the run goes on and says how it ended."""
    manifest = write_manifest(tmp_path, 5)
    (tmp_path / "audio/tone-001.wav").write_text("no recording")
    process = subprocess.Popen(
        command("run", manifest, *NULL),
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=120) == 3
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["done"], summary["failed"]) == (4, 1)
    assert cli("status", "out").code == 0
