"""The journal under kills, readers and noise: it is sound, or the program says that it is not."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import command, environment, write_manifest, write_tone
from shim import Disk, memory_folder

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

KILLED = """
import json, os, random, signal, sqlite3, sys, time
from pathlib import Path
from audio_batch.journal import Journal
from audio_batch.outcome import Outcome, Stage, StageRecord, State
from audio_batch.storage import PublishedFile

path, kills = Path(sys.argv[1]), int(sys.argv[2])
file = PublishedFile("json", "a.json", 3, "0" * 64)

def write(told, number):
    journal = Journal(path)
    run = journal.begin_run(version="0", request={})
    journal.settle_debris(crashed=False)
    while True:
        number += 1
        id_ = f"asset-{number}"
        journal.start(id_, name="n", source="1:1", fingerprint="f", rendering="r", device="cpu",
                      run_id=run)
        record = StageRecord(id_, Stage.TRANSCRIBE, "1:1", "f", file, "cpu", 1.0)
        journal.finish_stage(record)
        journal.finish(Outcome(id_, State.DONE, "f", "cpu", outputs=(file,), stages=(record,)))
        os.write(told, f"{number}\\n".encode())

chance, told_of, unsound, lost, hot = random.Random(20261121), 0, 0, 0, 0
for _ in range(kills):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        write(writing, told_of)
    os.close(writing)
    with os.fdopen(reading) as lines:
        # After so many whole assets, and a little: within what comes next, or at the very start.
        for _ in range(chance.randrange(3)):
            told_of = int(lines.readline())
        time.sleep(chance.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        told_of = max([told_of, *map(int, lines)])
    if not path.exists():
        continue
    hot += path.with_name(path.name + "-journal").exists()
    db = sqlite3.connect(path)
    unsound += db.execute("PRAGMA integrity_check").fetchall() != [("ok",)]
    tables = db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'assets'").fetchone()[0]
    done = "SELECT asset_id FROM assets WHERE state = 'done'"
    known = {row[0] for row in db.execute(done)} if tables else set()
    lost += sum(f"asset-{n}" not in known for n in range(1, told_of + 1))
    half = "SELECT count(*) FROM assets WHERE state = 'done' AND asset_id NOT IN" \\
        " (SELECT asset_id FROM stages)"
    unsound += db.execute(half).fetchone()[0] if tables else 0
    db.close()
print(json.dumps({"done": told_of, "unsound": unsound, "lost": lost, "hot": hot}))
"""


def killed(place: Path, kills: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(place / "journal.sqlite3"), str(kills)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(found)
    assert (found["unsound"], found["lost"]) == (0, 0)
    assert found["done"] > 0
    assert found["hot"] > kills / 20, "too few kills fell into a transaction to mean anything"


@posix
def test_a_hundred_kills_within_transactions_cost_nothing(tmp_path: Path) -> None:
    """What a commit has answered for is there, whole, whenever the kill comes."""
    killed(tmp_path, 100)


@posix
@pytest.mark.slow
def test_a_thousand_kills_within_transactions_cost_nothing(tmp_path: Path) -> None:
    killed(tmp_path, 1000)


READERS = """
import json, os, sys
import audio_batch.journal
from audio_batch.cli import run_app

out, count = sys.argv[1], int(sys.argv[2])
children = []
for _ in range(count):
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        answers = [run_app(["status", out, "--json"]) for _ in range(4)]
        os._exit(max(answers))
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
print(json.dumps(codes))
"""


@posix
def test_sixteen_readers_never_meet_a_locked_journal(
    tmp_path: Path, children: list[subprocess.Popen[str]]
) -> None:
    """Each looks four times, while a run commits as fast as it can."""
    write_tone(tmp_path / "tone.wav", 0.01)
    # More than is done while the readers look, however slow they are.
    assets = [{"id": f"asset-{number:05d}", "path": "tone.wav"} for number in range(20_000)]
    (tmp_path / "manifest.json").write_text(json.dumps(assets))
    night = ("run", "manifest.json", "--engine", "null", "--model", "null:20", "-o", "out")
    log = tmp_path / "log"
    with log.open("w") as said:
        writer = subprocess.Popen(
            command(*night, "-f", "json", "-t", "2", "--max-per-gpu", "2"),
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            text=True,
        )
    children.append(writer)
    while "Done:" not in log.read_text():
        assert writer.poll() is None, log.read_text()
        time.sleep(0.02)
    readers = subprocess.run(
        [sys.executable, "-c", READERS, "out", "16"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert writer.poll() is None, "the run ended before its readers: they met no writer"
    writer.send_signal(signal.SIGINT)
    writer.wait(timeout=240)
    assert readers.returncode == 0, readers.stderr
    assert json.loads(readers.stdout) == [0] * 16, readers.stderr
    assert "locked" not in readers.stderr + log.read_text()
    assert writer.returncode == 130, log.read_text()


@pytest.fixture(scope="module")
def disk() -> Iterator[Disk]:
    with Disk(None) as disk:
        yield disk


def hashes(out: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.iterdir())
        if path.is_file()
    }


def noise_is_told(disk: Disk, count: int) -> None:
    """4 kB of noise somewhere in the journal: every command says so, or is not touched by it."""
    with memory_folder() as place:
        write_manifest(place, 12, duration_s=0.05)
        night = ("run", "manifest.json", "--engine", "null", "-o", "out")
        assert disk.run(place, *night).code == 0
        outputs = hashes(place / "out")
        journal = place / "out/.audio-batch/journal.sqlite3"
        whole, chance = journal.read_bytes(), random.Random(20261122)
        told = 0
        for _ in range(count):
            at = chance.randrange(0, len(whole) - 4096)
            journal.write_bytes(whole[:at] + chance.randbytes(4096) + whole[at + 4096 :])
            for words in (("verify", "out", "--no-fix"), ("status", "out"), night):
                answer = disk.run(place, *words)
                assert hashes(place / "out") == outputs
                assert "Traceback" not in answer.err
                if answer.code == 5:
                    told += 1
                    assert "The journal " in answer.err
                    assert "damaged" in answer.err
                    assert "Your outputs are untouched" in answer.err
                    assert len(answer.err.strip().splitlines()) == 1
                else:
                    assert words[0] != "verify", "it looks through the whole file"
                    assert answer.code == 0, answer.err
        assert told >= count * 2
        # As the message says: once it is moved away, what is done is taken over from the outputs.
        journal.rename(journal.with_suffix(".old"))
        assert disk.run(place, *night).code == 0
        after = hashes(place / "out")
        assert after.pop("summary.json") != outputs.pop("summary.json")
        assert after == outputs


@posix
def test_noise_in_the_journal_is_told_and_the_outputs_stay(disk: Disk) -> None:
    noise_is_told(disk, 5)


@posix
@pytest.mark.slow
def test_a_hundred_noisy_journals_are_told_and_the_outputs_stay(disk: Disk) -> None:
    noise_is_told(disk, 100)
