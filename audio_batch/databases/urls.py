"""Database URLs as text: where their secrets come from, and what of them may be written down.

    postgresql://night:${PGPASSWORD}@db.example/archive
    sqlite:///archive.db

`${NAME}` stands for a variable of the environment and is looked up when the database is opened: a
URL is passed on, and journalled, as it was written. No database library is imported here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from audio_batch.errors import UsageError

RESULTS_VARIABLE = "AUDIO_BATCH_RESULTS_DB"

_NAMED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PORT = re.compile(r"(?<=:)\$\{[A-Za-z_][A-Za-z0-9_]*\}(?=[/?]|$)")
_CREDENTIALS = re.compile(r"(?P<head>[^:/?#]+://)(?P<user>[^:/?#]*)(?::(?P<password>.*))?@")
_SECRET_KEY = re.compile(r"(?i).*(?:pass|pwd|secret|token).*")
_SQLITE = re.compile(r"(?i)(sqlite(?:\+\w+)?:///)(?!/|file:|:memory:|[A-Za-z]:)(?=[^?])")


def filled_in(text: str, environment: Mapping[str, str] | None = None) -> str:
    """`text` with the values of the variables that it names.

    Raises:
        UsageError: one is not set.
    """
    values = os.environ if environment is None else environment

    def value(found: re.Match[str]) -> str:
        try:
            return values[found[1]]
        except KeyError:
            raise UsageError(
                f"The database URL names the variable {found[1]}, which is not set.",
                remedy=f"Set {found[1]} where this is run.",
            ) from None

    return _NAMED.sub(value, text)


def port_filled_in(text: str) -> str:
    """`text` with its port's variable looked up: a URL cannot be parsed without the number.

    Raises:
        UsageError: it is not set.
    """
    return _PORT.sub(lambda found: filled_in(found[0]), text)


def names_variables(text: str) -> bool:
    """Whether variables of the environment stand in it."""
    return _NAMED.search(text) is not None


def without_password(text: str) -> str:
    """The URL as it may be journalled: no password in it but by a variable's name.

    Where one is taken out, the driver looks for it elsewhere: libpq in PGPASSWORD and ~/.pgpass.
    """
    found = _CREDENTIALS.match(text)
    if found and found["password"] is not None and not _only_variable(found["password"]):
        text = f"{found['head']}{found['user']}@{text[found.end() :]}"
    head, mark, query = text.partition("?")
    if not mark:
        return head
    kept = [one for one in query.split("&") if not _is_written_secret(one)]
    return head + (f"?{'&'.join(kept)}" if kept else "")


def absolute(text: str, folder: Path) -> str:
    """The URL meaning the same from any folder: the file of an SQLite database is below one."""
    found = _SQLITE.match(text)
    if found is None or text[found.end() :].startswith("${"):
        return text
    path, mark, query = text[found.end() :].partition("?")
    return f"{found[1]}{(folder / path).absolute()}{mark}{query}"


def _only_variable(text: str) -> bool:
    return _NAMED.fullmatch(text) is not None


def is_secret(key: str) -> bool:
    """Whether a parameter of this name may hold what nobody should read."""
    return _SECRET_KEY.fullmatch(key) is not None


def _is_written_secret(pair: str) -> bool:
    key, _, value = pair.partition("=")
    return is_secret(key) and not _only_variable(value)
