"""The configuration file, the variables and the flags: who wins, and what is refused."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from audio_batch.cli.run import run
from audio_batch.config import Settings, find, merge, read
from audio_batch.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "work").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def test_every_flag_is_a_setting_and_every_setting_a_flag() -> None:
    flags = set(inspect.signature(run).parameters) - {"manifest", "config"}
    assert flags == set(Settings.model_fields)


def test_flags_lie_over_the_file(folder: Path) -> None:
    file = folder / "my.toml"
    file.write_text('model = "demo"\nmax-per-gpu = 2\noutput-format = "srt"\nlimit = 3\n')
    settings, used = merge({"limit": 5, "model": None}, config=file, manifest=folder / "m.json")
    assert used == file
    assert (settings.model, settings.max_per_gpu, settings.limit) == ("demo", "2", 5)
    assert settings.output_format == ["srt"]


def test_the_file_is_looked_for_here_then_beside_the_manifest_then_at_home(folder: Path) -> None:
    manifest = folder / "m.json"
    assert find(None, manifest) is None
    home = folder / "home" / "audio-batch"
    home.mkdir()
    (home / "config.toml").touch()
    assert find(None, manifest) == home / "config.toml"
    (folder / "audio-batch.toml").touch()
    assert find(None, manifest) == folder / "audio-batch.toml"
    (folder / "work" / "audio-batch.toml").touch()
    assert find(None, manifest) == Path("audio-batch.toml")
    assert find(folder / "named.toml", manifest) == folder / "named.toml"


def test_paths_in_the_file_are_relative_to_it(folder: Path) -> None:
    file = folder / "audio-batch.toml"
    file.write_text('output-dir = "out"\nroot = "audio"\nmodel = "./models/mine"\n')
    settings, _ = merge({}, config=None, manifest=folder / "m.json")
    assert settings.output_dir == str(folder / "out")
    assert settings.root == folder / "audio"
    assert settings.model == str(folder / "models/mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle = 'demo'", "not known: modle"),
        ("limit = 'many'", "limit"),
        ("limit = ", "not valid TOML"),
        ("yes = 'perhaps'", "yes"),
    ],
)
def test_a_mistake_in_the_file_is_named(folder: Path, text: str, message: str) -> None:
    file = folder / "c.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        read(file)


def test_a_file_that_is_named_must_be_there(folder: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        merge({}, config=folder / "none.toml", manifest=folder / "m.json")


def test_a_bad_flag_value_is_named(folder: Path) -> None:
    with pytest.raises(UsageError, match="--order"):
        merge({"order": "random"}, config=None, manifest=folder / "m.json")
