"""Preflight: what would go wrong at 02:00, said before the first asset.

`checks` answers one question after the other, each by a small function that gets `Facts`, what
several of them need. `audio-batch doctor` asks them all, a run those that it does not find out by
itself (`before_run`). Nothing is fetched, written or loaded here; torch is never imported.
"""

from __future__ import annotations

from audio_batch.preflight.check import Check, Finding, Status
from audio_batch.preflight.facts import PreflightRequest
from audio_batch.preflight.runner import before_run, checks

__all__ = ["Check", "Finding", "PreflightRequest", "Status", "before_run", "checks"]
