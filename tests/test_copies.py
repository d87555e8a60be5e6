"""At the end of a run: what runs late is done once more elsewhere, and published once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import faulty_engine
import pytest
import stub_nvml
from forked import completed
from program import Answer, environment, write_manifest

from audio_batch.claims import FOLDER, claim, sweep
from audio_batch.errors import AssetError, ErrorKind
from audio_batch.journal import Journal
from audio_batch.outcome import State

ALL = list(range(6))


def night(stub_dir: Path, folder: Path, *arguments: object, **slow: object) -> Answer:
    """Two devices, and no recording is done before each of them has begun one."""
    stub = stub_nvml.environment(stub_dir, [stub_nvml.gpu(0), stub_nvml.gpu(1)])
    given = {key: stub[key] for key in stub if "STUB" in key or key == "LD_LIBRARY_PATH"}
    (folder / "marks").mkdir(exist_ok=True)
    faults = {"meet": ALL, "meets": 2, "marks": str(folder / "marks"), **slow}
    variables = environment(
        **given,
        **faulty_engine.install(folder / "plugin"),
        AUDIO_BATCH_CACHE_DIR=str(folder / "cache"),
        FAULTY_ENGINE=json.dumps(faults),
    )
    run = ("run", "manifest.json", "--engine", "faulty", "-o", "out", "--max-per-gpu", "1")
    return completed([*run, "--prefetch", "0", *arguments], folder, variables)


def test_what_a_slow_device_holds_at_the_end_is_done_by_a_fast_one(
    stub_dir: Path, tmp_path: Path
) -> None:
    """Nothing is known of the devices: the slow one takes an asset, and would need an hour."""
    write_manifest(tmp_path, 6)
    done = night(stub_dir, tmp_path, stuck_s={"cuda:1": 3600})
    assert done.code == 0, done.err
    assert "takes long on cuda:1: it is done on cuda:0 too" in done.err
    entries = list(Journal(tmp_path / "out/.audio-batch/journal.sqlite3", read_only=True).entries())
    assert {entry.state for entry in entries} == {State.DONE}
    assert {entry.device for entry in entries} == {"cuda:0"}
    assert [entry.attempts for entry in entries] == [1] * 6
    for entry in entries:
        for output in entry.outputs:
            data = (tmp_path / "out" / output.path).read_bytes()
            assert hashlib.sha256(data).hexdigest() == output.sha256
    assert not (tmp_path / "out/.audio-batch" / FOLDER).exists()
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["done"], summary["failed"]) == (6, 0)
    # Nothing is left to do, and `verify` finds nothing amiss.
    again = night(stub_dir, tmp_path)
    assert "Nothing to do" in again.err


@pytest.mark.slow
def test_without_copies_the_slow_device_is_waited_for(stub_dir: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path, 4)
    done = night(stub_dir, tmp_path, "--no-backup-copies", stuck_s={"cuda:1": 3})
    assert done.code == 0, done.err
    entries = Journal(tmp_path / "out/.audio-batch/journal.sqlite3", read_only=True).entries()
    assert {entry.device for entry in entries} == {"cuda:0", "cuda:1"}


def test_only_one_claims_and_a_sweep_ends_all_claims(tmp_path: Path) -> None:
    assert claim(tmp_path, "1-0")
    assert not claim(tmp_path, "1-0")
    assert claim(tmp_path, "1-1")
    sweep(tmp_path)
    assert claim(tmp_path, "1-0")
    with pytest.raises(AssetError) as refused:
        claim(tmp_path / "nowhere", "1-0")
    assert refused.value.kind is ErrorKind.OUTPUT
