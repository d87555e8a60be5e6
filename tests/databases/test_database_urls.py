"""Database URLs as text: variables, what may be written down, and what stands for a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from audio_batch.databases import connecting, urls
from audio_batch.errors import SetupError, UsageError


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("postgresql://night:secret@db/archive", "postgresql://night@db/archive"),
        ("postgresql://night:${PW}@db/archive", "postgresql://night:${PW}@db/archive"),
        ("postgresql://night:half${PW}@db/archive", "postgresql://night@db/archive"),
        ("postgresql://night:a:b/c?d#e@f@db/archive", "postgresql://night@db/archive"),
        ("postgresql://:secret@db/archive", "postgresql://@db/archive"),
        ("postgresql://night@db/archive", "postgresql://night@db/archive"),
        ("postgresql://db/a?password=secret&sslmode=require", "postgresql://db/a?sslmode=require"),
        ("postgresql://db/a?sslpassword=${PW}", "postgresql://db/a?sslpassword=${PW}"),
        ("sqlite:///archive.db", "sqlite:///archive.db"),
        ("${DATABASE_URL}", "${DATABASE_URL}"),
    ],
)
def test_no_password_is_left_to_be_journalled(url: str, kept: str) -> None:
    assert urls.without_password(url) == kept


@pytest.mark.parametrize("password", ["a@b", "a/b", "a:b%2F", "ü ?#", "${NOT_LOOKED_UP}"])
def test_a_variable_may_hold_any_password(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PW": password, "HOST": "db.example", "PORT": "5433"}.items():
        monkeypatch.setenv(name, value)
    database = connecting.opened("postgresql://night:${PW}@${HOST}:${PORT}/archive")
    url = database.engine.url
    assert (url.password, url.host, url.port) == (password, "db.example", 5433)
    assert database.shown == "postgresql://night@db.example:5433/archive"


def test_a_whole_url_may_be_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_URL", "postgresql://night:s%40crets@db/archive")
    database = connecting.opened("${THE_URL}")
    assert database.engine.url.password == "s@crets"
    assert database.shown == "postgresql://night@db/archive"


def test_a_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(UsageError, match="NOT_SET_AT_ALL"):
        connecting.opened("postgresql://night:${NOT_SET_AT_ALL}@db/archive")


@pytest.mark.parametrize("url", ["", "nonsense", "postgresql://u:secret99@h:port/db", "://x"])
def test_what_is_no_url_is_not_repeated(url: str) -> None:
    with pytest.raises(UsageError, match="cannot be understood") as told:
        connecting.opened(url)
    assert "secret99" not in str(told.value)


def test_an_unknown_database_and_a_missing_driver_are_told_apart() -> None:
    with pytest.raises(UsageError, match="no database that is known"):
        connecting.opened("nosuchbase://host/db")
    with pytest.raises(SetupError, match="not installed") as told:
        connecting.opened("oracle+cx_oracle://host/db")
    assert "oracle" in told.value.remedy
    with pytest.raises(SetupError) as told:
        connecting.opened("postgresql+pg8000://host/db")
    assert "pip install 'audio-batch[sql]'" in told.value.remedy


def test_an_sqlite_file_means_the_same_from_any_folder() -> None:
    folder = Path("/some/where").absolute()
    assert urls.absolute("sqlite:///a/b.db", folder) == f"sqlite:///{folder / 'a' / 'b.db'}"
    for url in ("sqlite:////a.db", "sqlite:///${HOME}/a.db", "postgresql://h/a", "sqlite:///C:/a"):
        assert urls.absolute(url, folder) == url
    assert urls.absolute("sqlite:///a.db?mode=ro", folder).endswith("a.db?mode=ro")


def test_an_sqlite_database_needs_a_file(tmp_path: Path) -> None:
    for url in ("sqlite://", "sqlite:///:memory:"):
        with pytest.raises(UsageError, match="names no file"):
            connecting.opened(url)
    with pytest.raises(SetupError, match="no database file"):
        connecting.opened(f"sqlite:///{tmp_path / 'none.db'}", must_exist=True)
    assert not list(tmp_path.iterdir())
