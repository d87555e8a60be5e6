"""`manifest schema | check | create`, as commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from program import environment, write_manifest, write_tone
from typer.testing import CliRunner, Result

from audio_batch.cli.manifest import app
from audio_batch.errors import ManifestError, UsageError
from audio_batch.formats import FORMATS
from audio_batch.manifest import load


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AUDIO_BATCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def created(*arguments: object) -> list[dict[str, Any]]:
    """The entries of a manifest that `create` writes to stdout."""
    result = run("create", *arguments, "-o", "-")
    assert result.exit_code == 0
    entries: list[dict[str, Any]] = json.loads(result.stdout)["assets"]
    return entries


def names(*arguments: object) -> list[str]:
    return [entry["name"] for entry in created(*arguments, "--no-probe")]


# --- schema ----------------------------------------------------------------------------------


def test_schema_is_a_schema_with_the_formats_that_there_are(tmp_path: Path) -> None:
    schema = json.loads(run("schema").stdout)
    Draft202012Validator.check_schema(schema)
    valid = Draft202012Validator(schema).is_valid
    assert valid(json.loads(write_manifest(tmp_path, 2).read_text()))
    assert valid([{"path": "x", "formats": list(FORMATS)}])
    assert not valid([{"path": "x", "formats": ["doc"]}])


# --- check -----------------------------------------------------------------------------------


def test_check_counts(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, 5)
    assert run("check", manifest).stdout == "Valid: 5 assets; 5 selected (length unknown).\n"
    answer = json.loads(run("check", manifest, "--json", "--where", "shelf=0").stdout)
    assert answer == {
        "valid": True,
        "assets": 5,
        "selected": 2,
        "duration_s": 0,
        "duration_unknown": 2,
    }


def test_check_adds_up_durations_and_selects_as_a_run_does(tmp_path: Path) -> None:
    write_manifest(tmp_path, 4, duration_s=1.0)
    run("create", "audio", "-o", "m.jsonl")
    entries = [json.loads(line) for line in Path("m.jsonl").read_text().splitlines()]
    del entries[0]["duration_s"]
    Path("m.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    assert "4 selected (0:00:03 and 1 of unknown length)" in run("check", "m.jsonl").stdout
    Path("audio-batch.toml").write_text('order = "longest"\nskip = 1\nlimit = 2\n')
    answer = json.loads(run("check", "m.jsonl", "--json").stdout)
    assert (answer["selected"], answer["duration_s"]) == (2, 2.003)


def test_check_of_a_bad_manifest(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, 2)
    (tmp_path / "audio" / "tone-001.wav").unlink()
    with pytest.raises(ManifestError) as caught:
        run("check", manifest)
    assert len(caught.value.problems) == 1
    result = CliRunner().invoke(app, ["check", str(manifest), "--json"])
    assert isinstance(result.exception, ManifestError)
    assert json.loads(result.stdout)["problems"] == list(caught.value.problems)
    assert run("check", manifest, "--allow-missing").exit_code == 0
    assert run("check", manifest, "--exclude", "name=*001").exit_code == 0


def test_check_with_root_and_field(tmp_path: Path) -> None:
    write_tone(tmp_path / "sounds" / "x.wav")
    Path("m.json").write_text('[{"sound": "x.wav"}]')
    assert run("check", "m.json", "--root", "sounds", "--field", "uri=sound").exit_code == 0


def test_as_a_user_runs_it(tmp_path: Path) -> None:
    def answer(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "audio_batch", "manifest", *arguments],
            env=environment(),
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    manifest = write_manifest(tmp_path, 1)
    assert answer("check", str(manifest))[0] == 0
    entry = {"id": "\x1b[31m../[red]x", "path": "gone.wav"}
    manifest.write_text(json.dumps([entry] * 40))
    code, out, err = answer("check", str(manifest))
    assert (code, out) == (4, "")
    assert "80 problems" in err
    assert "\x1b" not in err
    assert "/39/" not in err
    assert "and 30 more" in err
    assert answer("create", "nowhere", "-o", "-")[0] == 2


# --- create ----------------------------------------------------------------------------------


def test_create_makes_what_load_reads(tmp_path: Path) -> None:
    for name in ("b.wav", "sub/deep/a [1].WAV", "sub/Größe 日本.wav", "sub/.x.wav", ".h/y.wav"):
        write_tone(tmp_path / "in" / name, 0.5)
    (tmp_path / "in" / "notes.txt").write_text("no recording")
    result = run("create", "in", "-o", "out/m.json", "--relative-to", ".")
    assert result.stdout == ""
    assert "3 recordings written" in result.stderr
    manifest = load(tmp_path / "out" / "m.json", root=tmp_path, known_formats=frozenset(FORMATS))
    assert [a.uri for a in manifest.assets] == [
        "in/b.wav",
        "in/sub/deep/a [1].WAV",
        "in/sub/Größe 日本.wav",
    ]
    assert [a.name for a in manifest.assets] == ["b", "a [1]", "Größe 日本"]
    assert [a.duration_s for a in manifest.assets] == [0.5] * 3
    without_ids = [{"path": a.uri} for a in manifest.assets]
    (tmp_path / "n.json").write_text(json.dumps(without_ids))
    again = load(tmp_path / "n.json", known_formats=frozenset(FORMATS))
    assert [a.id for a in again.assets] == [a.id for a in manifest.assets]


def test_create_is_repeatable_and_ids_do_not_depend_on_the_others(tmp_path: Path) -> None:
    write_manifest(tmp_path, 3)
    run("create", "audio", "-o", "m.json")
    before = Path("m.json").read_bytes()
    run("create", "audio", "-o", "m.json", "--force")
    assert Path("m.json").read_bytes() == before
    write_tone(tmp_path / "audio" / "a-new-one.wav")
    run("create", "audio", "-o", "m.json", "--force")
    old = json.loads(before)["assets"]
    assert [e for e in json.loads(Path("m.json").read_bytes())["assets"] if e in old] == old


def test_create_finds_by_folder_glob_and_name(tmp_path: Path) -> None:
    for name in ("a.wav", "b.flac", "c.dat", "sub/d.wav", "sub/e[1].wav"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert names("in") == ["a", "b", "d", "e[1]"]
    assert names("in", "--no-recursive") == ["a", "b"]
    assert names("in", "--glob", "*.dat") == ["c"]
    assert names("in", "--glob", "sub/*", "--glob", "*.flac") == ["b", "d", "e[1]"]
    assert names("in/*.wav", "in/c.dat") == ["a", "c"]
    assert names("in/**/*.wav") == ["a", "d", "e[1]"]
    assert names("in/sub/e[1].wav") == ["e[1]"]
    assert names("in", "in/sub", tmp_path / "in" / "a.wav") == ["a", "b", "d", "e[1]"]


def test_create_leaves_out_what_cannot_be_read(tmp_path: Path) -> None:
    write_tone(tmp_path / "in" / "good.wav")
    (tmp_path / "in" / "bad.wav").write_bytes(b"no sound")
    result = run("create", "in", "-o", "m.json")
    assert "bad.wav" in result.stderr
    assert "1 recording written to m.json, 1 left out." in result.stderr.replace("\n", " ")
    assert [e["name"] for e in json.loads(Path("m.json").read_text())["assets"]] == ["good"]
    kept = created("in", "--keep-unreadable")
    assert [(e["name"], "duration_s" in e) for e in kept] == [("bad", False), ("good", True)]
    (tmp_path / "in" / "good.wav").unlink()
    with pytest.raises(UsageError, match="None of the recordings"):
        run("create", "in", "-o", "n.json")


def test_create_writes_lines_by_suffix_or_wish(tmp_path: Path) -> None:
    write_manifest(tmp_path, 2)
    run("create", "audio", "-o", "m.jsonl", "--no-probe")
    lines = Path("m.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines] == [
        "audio/tone-000.wav",
        "audio/tone-001.wav",
    ]
    text = run("create", "audio", "-o", "-", "--format", "jsonl", "--no-probe").stdout
    assert [Path(json.loads(line)["path"]) for line in text.splitlines()] == [
        tmp_path / "audio" / "tone-000.wav",
        tmp_path / "audio" / "tone-001.wav",
    ]


def test_what_a_windows_console_cannot_encode_is_json_all_the_same(tmp_path: Path) -> None:
    write_tone(tmp_path / "audio" / "Gespräch \N{STUDIO MICROPHONE}.wav")
    answer = CliRunner(charset="cp1252").invoke(app, ["create", "audio", "-o", "-", "--no-probe"])
    (entry,) = json.loads(answer.stdout_bytes.decode("utf-8"))["assets"]
    assert entry["name"] == "Gespräch \N{STUDIO MICROPHONE}"


def test_create_overwrites_nothing_unasked(tmp_path: Path) -> None:
    write_manifest(tmp_path, 1)
    before = Path("manifest.json").read_bytes()
    with pytest.raises(UsageError, match="--force"):
        run("create", "audio", "-o", "manifest.json")
    with pytest.raises(UsageError):
        run("create", "audio", "-o", "audio", "--force")
    assert Path("manifest.json").read_bytes() == before
    run("create", "audio", "-o", "manifest.json", "--force")
    assert Path("manifest.json").read_bytes() != before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("path", ["nowhere", "no*thing", "\0", "x" * 5000, "empty"])
def test_create_from_nothing(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError):
        run("create", path, "-o", "m.json")
    assert not Path("m.json").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode here")
def test_create_names_files_whose_names_are_no_text(tmp_path: Path) -> None:
    write_tone(tmp_path / "in" / "x.wav")
    odd = os.fsencode(tmp_path / "in") + b"/\xff.wav"
    shutil.copy(tmp_path / "in" / "x.wav", odd)
    (tmp_path / "in" / "x.wav").unlink()
    run("create", "in", "-o", "m.json")
    (asset,) = load(tmp_path / "m.json", known_formats=frozenset(FORMATS)).assets
    assert asset.path is not None
    assert os.fsencode(asset.path) == odd


def test_create_over_the_shared_clips(shared: Path) -> None:
    if not (shared / "data" / "clips").is_dir():
        pytest.skip("no shared clips")
    known = [
        json.loads(line)
        for line in (shared / "data" / "clips" / "clips.jsonl").read_text().splitlines()
    ]
    result = run("create", shared / "data" / "clips", "-o", "m.json")
    found = {Path(e["path"]).name: e for e in json.loads(Path("m.json").read_text())["assets"]}
    assert len(found) >= 0.9 * len(known)
    for clip in known:
        entry = found.get(clip["file"])
        if entry is None:
            assert clip["file"] in result.stderr
        elif "duration_s" in entry:
            assert entry["duration_s"] == pytest.approx(clip["seconds"], abs=1.0, rel=0.02)
        else:
            assert clip["seconds"] in (0, None)
    assert run("check", "m.json").exit_code == 0
