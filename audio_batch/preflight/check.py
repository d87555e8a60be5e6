"""What a check answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Status = Literal["ok", "warning", "error"]


class Finding(NamedTuple):
    """One answer of a check. A warning lets a run go on with less than was asked for."""

    status: Status
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report: `name` is stable, `message` one sentence fit for a terminal."""

    name: str
    status: Status
    message: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        """The check as `doctor --json` prints it."""
        return {
            "name": self.name,
            "status": self.status,
            "message": self.message,
            "remedy": self.remedy,
        }


def ok(message: str) -> Finding:
    """All is well."""
    return Finding("ok", message)


def warning(message: str, remedy: str = "") -> Finding:
    """A run would go on, but not as well as it could."""
    return Finding("warning", message, remedy)


def error(message: str, remedy: str = "") -> Finding:
    """A run would fail, or not do what was asked for."""
    return Finding("error", message, remedy)


def size(size_bytes: float) -> str:
    """A number of bytes for people, in powers of 1000."""
    if size_bytes < 1e9:
        return f"{size_bytes / 1e6:,.0f} MB"
    return f"{size_bytes / 1e9:,.1f} GB"
