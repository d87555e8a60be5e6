"""Links in an output folder: nothing outside of it is ever written, emptied or replaced."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest
from program import Answer, write_manifest

from audio_batch.errors import AssetError, ManifestError
from audio_batch.formats import FORMATS
from audio_batch.manifest import load
from audio_batch.storage import STATE_FOLDER, contained, publish

Cli = Callable[..., Answer]
NIGHT = ("run", "manifest.json", "--engine", "null", "-y", "-o", "out")

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="links need a privilege on Windows, which attackers lack too"
)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder with something to lose."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious").write_text("precious")
    return folder


def assert_untouched(outside: Path) -> None:
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"precious": "precious"}


def test_files_of_the_run_that_are_links_are_replaced_and_not_written_through(
    cli: Cli, tmp_path: Path, outside: Path
) -> None:
    write_manifest(tmp_path, 2)
    out = tmp_path / "out"
    out.mkdir()
    names = ("summary.json", "tone-000.json", "tone-000.txt")
    for name in names:
        (out / name).symlink_to(outside / "precious")
    (out / "tone-001.json").symlink_to(outside / "to-be")  # a dangling one would be created
    refused = cli(*NIGHT)  # what they lead to is nobody's
    assert refused.code == 5, refused.err
    assert all((out / name).is_symlink() for name in names)
    assert_untouched(outside)
    assert cli(*NIGHT, "--overwrite").code == 0
    for name in (*names, "tone-001.json"):
        assert (out / name).is_file()
        assert not (out / name).is_symlink()
    assert_untouched(outside)


def test_a_link_that_leads_nowhere_keeps_its_name(cli: Cli, tmp_path: Path) -> None:
    write_manifest(tmp_path, 2)
    link = tmp_path / "out/tone-000.json"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "mount/tone-000.json")  # nothing is mounted there
    for _ in range(2):
        assert cli(*NIGHT).code == 3
        assert link.is_symlink()
        assert not (link.parent / "tone-000.txt").exists()
        failures = json.loads((link.parent / "summary.json").read_text())["failures"]
        assert [(one["id"], one["kind"]) for one in failures] == [("tone-000", "output_exists")]
    link.unlink()
    assert cli(*NIGHT).code == 0


def test_a_folder_that_is_a_link_out_costs_only_what_would_go_there(
    cli: Cli, tmp_path: Path, outside: Path
) -> None:
    write_manifest(tmp_path, 3)
    out = tmp_path / "out"
    out.mkdir()
    (out / "1").symlink_to(outside)
    (out / "2").symlink_to(outside / "to-be")
    answer = cli(*NIGHT, "--output-template", "{shelf}/{id}")
    assert answer.code == 3
    assert "through a link" in answer.err
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["done"], summary["failed"]) == (1, 2)
    assert {failure["kind"] for failure in summary["failures"]} == {"output"}
    assert_untouched(outside)


def test_a_link_that_is_put_in_place_between_two_outputs_is_found(
    tmp_path: Path, outside: Path
) -> None:
    out = tmp_path / "out"
    publish(out, PurePosixPath("a/b/one.txt"), b"1", format_name="txt")
    (out / "a/b").rename(out / "a/was")
    (out / "a/b").symlink_to(outside)
    with pytest.raises(AssetError, match="through a link"):
        publish(out, PurePosixPath("a/b/two.txt"), b"2", format_name="txt")
    assert_untouched(outside)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("", ""),
        ("", "to-be"),
        ("journal.sqlite3", "to-be"),
        ("crash.log", "precious"),
        ("run.lock", "precious"),
        ("stages", ""),
    ],
)
def test_a_link_in_the_state_folder_ends_the_run_before_it_begins(
    cli: Cli, tmp_path: Path, outside: Path, name: str, target: str
) -> None:
    write_manifest(tmp_path, 1)
    state = tmp_path / "out" / STATE_FOLDER
    place = state / name
    place.parent.mkdir(parents=True)
    place.symlink_to(outside / target)
    answer = cli(*NIGHT)
    assert answer.code == 5, answer.err
    assert "Traceback" not in answer.err
    assert name in answer.err
    assert_untouched(outside)


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../../x", "a/..", "..", ""], ids=lambda name: name or "nothing"
)
def test_no_name_leaves_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(AssetError):
        contained(tmp_path / "out", PurePosixPath(name))


def test_hostile_ids_names_and_templates_stay_inside(cli: Cli, tmp_path: Path) -> None:
    write_manifest(tmp_path, 1)
    wild = ("con", "CON", "nul.txt", "a.", "A", "a", "x" * 999, "é", "e\u0301", "-rf", "~", "$HOME")
    entries = [{"id": i, "path": "audio/tone-000.wav", "shelf": "../../../.."} for i in wild]
    (tmp_path / "manifest.json").write_text(json.dumps(entries))
    before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    answer = cli(*NIGHT, "--output-template", "{shelf}/{id}", "-f", "txt")
    assert answer.code == 0, answer.err
    assert {path for path in tmp_path.rglob("*") if "out" not in path.parts} == before
    made = [path for path in (tmp_path / "out").rglob("*.txt") if STATE_FOLDER not in path.parts]
    assert len(made) == len(wild)
    assert len({path.name.casefold() for path in made}) == len(wild)


@pytest.mark.parametrize(
    "bad", ["../x", "..\\x", "/etc/x", "C:x", "C:\\x", "a/../../x", "a\x00b", "a\nb", "a\x9b", ""]
)
def test_an_id_that_would_lead_out_is_refused(tmp_path: Path, bad: str) -> None:
    write_manifest(tmp_path, 1)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps([{"id": bad, "path": "audio/tone-000.wav"}]))
    with pytest.raises(ManifestError, match="a problem"):
        load(path, known_formats=frozenset(FORMATS))
