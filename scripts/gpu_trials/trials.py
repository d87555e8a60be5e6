"""The trials, one function each: what was seen, or Wrong with it, or Skipped with the reason."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trial_engine
from machine import gb, has
from running import Bench, Night, Skipped, Wrong, hogged, lives, night, program

ISOLATED = ("--isolation", "process")


@dataclass(frozen=True, slots=True)
class Trial:
    """A row of the table to be: `work` does it."""

    name: str
    done: str
    expected: str
    work: Callable[[Bench], str]


def doctor(bench: Bench) -> str:
    """The program's own word on the machine."""
    answer = _doctor(bench)
    lines = [line for line in answer.stdout.splitlines() if line.startswith(("error", "warning"))]
    if answer.returncode != 0:
        raise Wrong(f"exit {answer.returncode}: {'; '.join(lines) or answer.stderr[-300:]}")
    return f"exit 0; {'; '.join(lines) or 'no warning'}"


def _doctor(bench: Bench, *flags: str) -> subprocess.CompletedProcess[str]:
    device = ("--device", bench.device, "--model", bench.model, "--no-diarize")
    return program(bench, "doctor", "--config", bench.no_settings, *device, *flags)


def same_texts(bench: Bench) -> str:
    """Process isolation is to change nothing but what a crash costs."""
    speakers = ("--diarize-model", "demo") if has("torch") and has("pyannote.audio") else ()
    found = {}
    for isolation in ("thread", "process"):
        flags = ("--isolation", isolation, *speakers)
        with night(bench, f"same-{isolation}", bench.short, *flags) as run:
            code = run.wait()
            run.check_sound()
            _all_done(run, code)
            texts = [*run.out.rglob("*.txt"), *run.out.rglob("*.srt")]
            found[isolation] = {path.name: path.read_bytes() for path in texts}
    thread, process = found["thread"], found["process"]
    differing = [name for name in thread if thread[name] != process.get(name)]
    if differing or len(thread) != len(process) or not any(thread.values()):
        raise Wrong(f"{len(differing)} of {len(thread)} files differ, such as {differing[:3]}")
    return f"exit 0 twice, {len(thread)} texts the same{', with speakers' if speakers else ''}"


def _killed_child(bench: Bench, name: str) -> str:
    if os.name == "nt" and name != "SIGKILL":
        raise Skipped(f"Windows has no {name}")
    with night(bench, f"killed-{name}", bench.short, *ISOLATED) as run:
        run.wait_until(run.is_in_the_middle, "it was in the middle")
        worker = run.workers()[0]
        worker.kill() if name == "SIGKILL" else worker.send_signal(signal.SIGSEGV)
        code = run.wait()
        sound = run.check_sound()
        if ("died by" if os.name == "nt" else f"died by {name}") not in run.said:
            raise Wrong(f"exit {code}, but the death was not told: {run.last_words()}")
        return f"{_all_done(run, code)}, death told; {sound}"


def killed_child(bench: Bench) -> str:
    """As the kernel ends a process for lack of memory."""
    return _killed_child(bench, "SIGKILL")


def crashed_child(bench: Bench) -> str:
    """As a native library ends its process."""
    return _killed_child(bench, "SIGSEGV")


def killed_run(bench: Bench) -> str:
    """The parent dies without a word, and the child must not outlive it."""
    with night(bench, "killed-run", bench.short, *ISOLATED) as run:
        run.wait_until(run.is_in_the_middle, "it was in the middle")
        run.process.kill()
        run.process.wait()
        _ = run.check_sound()
        done = run.states()["done"]
    with night(bench, "killed-run", bench.short, *ISOLATED, again=True) as run:
        code = run.wait()
        sound = run.check_sound()
        _expect(code == 0, run, code)
        before = run.summary().get("done_before", 0)
        _expect(before >= done > 0, run, code)
        return f"{done} done before, none of them again; second run exit 0; {sound}"


_NO_VRAM = "needs a GPU's memory"


def scarce_memory(bench: Bench) -> str:
    """From plenty down to nothing, a step at a time."""
    bench.on_gpu(_NO_VRAM)
    much = ("--compute-type", "float32", "--batch-size", "64", "--max-per-gpu", "2")
    flags = (*ISOLATED, *much, "--vad-method", "none")
    with night(bench, "memory-plenty", bench.pair, *flags, model=bench.heavy) as run:
        code = run.wait()
        run.check_sound()
        used_bytes = run.free_before_bytes - run.least_free_bytes
        seen = [f"plenty: {_all_done(run, code)}, {gb(used_bytes)} used"]
    eased, refused = False, False
    for leave_bytes in (*(int(share * used_bytes) for share in (0.7, 0.4, 0.2)), 300 << 20):
        with hogged(bench, leave_bytes) as (_, left_bytes):
            name = f"memory-{leave_bytes >> 20}-mib"
            with night(bench, name, bench.pair, *flags, model=bench.heavy) as run:
                code = run.wait()
                run.check_sound()
                said = run.on_memory()
                _expect(code in (0, 3, 5), run, code)
                _expect(code == 0 or bool(said), run, code)
        eased = eased or (code == 0 and bool(said))
        refused = refused or code != 0
        seen.append(f"{gb(left_bytes)} left: exit {code}{_quoted(said)}")
        if code == 5:
            break
    if not (eased or refused):
        raise Wrong(f"memory never ran out: {'; '.join(seen)}")
    if not eased:
        seen.append("no level lay between plenty and too little")
    return "; ".join(seen)


def what_is_remembered(bench: Bench) -> str:
    """The trial before has left an experience in the cache."""
    bench.on_gpu(_NO_VRAM)
    answer = _doctor(bench, "--json")
    messages = [check["message"] for check in json.loads(answer.stdout)["checks"]]
    found = [text for text in messages if "after running out of memory" in text]
    known = bench.work / "cache" / "devices.json"
    if not found:
        raise Wrong(
            f"doctor shows nothing; devices.json {'is' if known.exists() else 'is not'} there"
        )
    return "; ".join(found)


def memory_taken_meanwhile(bench: Bench) -> str:
    """Another program takes everything while the run is at work, and gives it back."""
    bench.on_gpu(_NO_VRAM)
    flags = (*ISOLATED, "--max-per-gpu", "2")
    with night(bench, "meanwhile", bench.short, *flags, model=bench.heavy) as run:
        run.wait_until(run.is_in_the_middle, "it was in the middle")
        with hogged(bench, 64 << 20) as (let_go, left_bytes):
            held_s = 20.0
            until_s = run.begun_s + run.limit_s - held_s
            _hold(run, held_s, until_s)
            let_go()
        code = run.wait()
        said = run.on_memory()
        sound = run.check_sound()
        _expect(code in (0, 3, 5), run, code)
        seen = f"{gb(left_bytes)} left for 20 s: exit {code}{_quoted(said)}; {sound}"
    again = (*flags, "--retry-failed")
    with night(bench, "meanwhile", bench.short, *again, model=bench.heavy, again=True) as run:
        code = run.wait()
        run.check_sound()
        _expect(code == 0, run, code)
    return f"{seen}; second run exit 0"


def _hold(run: Night, seconds: float, until_s: float) -> None:
    begun_s = time.monotonic()
    while run.process.poll() is None and time.monotonic() < min(begun_s + seconds, until_s):
        time.sleep(0.1)


def too_large_asked(bench: Bench) -> str:
    """Beyond what the program takes."""
    flags = (*ISOLATED, "--batch-size", "4096")
    with night(bench, "batch-4096", bench.short, *flags, limit_s=60) as run:
        code = run.wait()
        run.check_sound()
        _expect(code == 2 and "--batch-size" in run.said, run, code)
        return f"exit 2: {run.last_words()}"


def too_large_batch(bench: Bench) -> str:
    """The most that the program takes, with too little memory for it."""
    bench.on_gpu(_NO_VRAM)
    from audio_batch import models

    leave_bytes = 2 * models.find(bench.heavy).size_bytes + (4 << 30)
    flags = (*ISOLATED, "--batch-size", "1024", "--max-per-gpu", "1", "--vad-method", "none")
    with (
        hogged(bench, leave_bytes) as (_, left_bytes),
        night(bench, "batch-1024", bench.long, *flags, model=bench.heavy) as run,
    ):
        code = run.wait()
        sound = run.check_sound()
        halved = [text for text in run.on_memory() if "windows in a batch" in text]
        done = _all_done(run, code)
        if not halved:
            raise Wrong(f"{done}, but no batch was halved with {gb(left_bytes)} free")
        return f"{gb(left_bytes)} left: {done}, halved {len(halved)} times: {halved[-1]}; {sound}"


def sticky_error(bench: Bench) -> str:
    """A device-side assert, found out by CTranslate2 at the next call."""
    with _faulty(bench, "sticky") as run:
        code = run.wait()
        sound = run.check_sound()
        done = _all_done(run, code)
        told = [x.rpartition(" - ")[2] for x in run.said.splitlines() if _is_loss(bench, x)]
        if not told:
            raise Wrong(f"{done}, but nothing was said of the device")
        return f"{done}; said: {told[0].strip()[:250]}; {sound}"


def _is_loss(bench: Bench, line: str) -> bool:
    return f"{bench.device} failed:" in line or f"process of {bench.device} died" in line


def native_hang(bench: Bench) -> str:
    """A thread that waits in native code with the interpreter's lock held."""
    with _faulty(bench, "hang", "--timeout", "25s", "--max-per-gpu", "1") as run:
        run.wait_until(lambda: (run.out.parent / "hang.mark").exists(), "it hung")
        hung = run.workers()
        code = run.wait()
        sound = run.check_sound()
        done = _all_done(run, code)
        if "given up after" not in run.said:
            raise Wrong(f"{done}, but nothing was given up")
        if any(lives(process) for process in hung):
            raise Wrong("the child that hung was not killed")
        return f"{done}, given up once and done again in a new child; {sound}"


@contextmanager
def _faulty(bench: Bench, fault: str, *flags: object) -> Iterator[Night]:
    """A run with the plugin engine, and a new mark."""
    if bench.gpu is not None and not has("torch"):
        raise Skipped("needs torch to bring it about on the GPU")
    mark = bench.work / "runs" / f"{fault}.mark"
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.unlink(missing_ok=True)
    variables = {
        "TRIAL_ENGINE": json.dumps({"fault": fault, "mark": str(mark)}),
        "PYTHONPATH": trial_engine.install(bench.work / "plugin"),
    }
    all_flags = (*ISOLATED, "--engine", trial_engine.NAME, *flags)
    with night(bench, fault, bench.short, *all_flags, env=variables) as run:
        yield run
        if not mark.exists():
            raise Wrong("the fault never happened")


def speed(bench: Bench) -> str:
    """What the border between processes costs."""
    manifest = bench.short if bench.gpu is None else bench.pair
    rate, seen = {}, []
    for isolation in ("thread", "process"):
        name = f"speed-{isolation}"
        with night(bench, name, manifest, "--isolation", isolation, model=bench.heavy) as run:
            code = run.wait()
            _all_done(run, code)
            summary = run.summary()
            busy_s = sum(device["busy_s"] for device in summary["devices"].values())
            rate[isolation] = summary["audio_s"] / summary["wall_s"]
            used_bytes = run.free_before_bytes - run.least_free_bytes
            text = (
                f"{isolation}: RTFx {rate[isolation]:.1f} loading included, "
                f"{summary['audio_s'] / busy_s:.1f} a slot at work, {run.wall_s:.1f} s in all"
            )
            seen.append(f"{text}, {gb(used_bytes)} of VRAM" if bench.gpu else text)
    return f"{'; '.join(seen)}; process : thread = {rate['process'] / rate['thread']:.2f}"


def _all_done(run: Night, code: int) -> str:
    """A phrase for a run that did everything; Wrong otherwise."""
    states, summary = run.states(), run.summary()
    _expect(code == 0 and set(states) == {"done"}, run, code)
    selected = summary.get("selected")
    _expect(selected == states["done"], run, code)
    return f"exit 0, {states['done']} of {selected} done"


def _expect(holds: bool, run: Night, code: int) -> None:
    if not holds:
        states = ", ".join(f"{count} {state}" for state, count in run.states().items())
        why = "; ".join(failure["reason"] for failure in run.summary().get("failures", [])[:2])
        raise Wrong(f"exit {code} ({states or 'nothing begun'}): {why or run.last_words()}")


def _quoted(lines: list[str]) -> str:
    return f" («{'» «'.join(lines[:4])}»)" if lines else ""


TRIALS = (
    Trial("0 doctor", "`doctor` on the device", "exit 0", doctor),
    Trial(
        "1 same texts",
        "the same recordings with `--isolation thread` and `process`",
        "exit 0, the same texts, byte for byte",
        same_texts,
    ),
    Trial(
        "2a child killed",
        "SIGKILL to the device's process in the middle",
        "exit 0, everything done, no orphan, VRAM given back",
        killed_child,
    ),
    Trial(
        "2b child crashed",
        "SIGSEGV to the device's process in the middle",
        "exit 0, everything done, no orphan, VRAM given back",
        crashed_child,
    ),
    Trial(
        "2c run killed",
        "SIGKILL to the run itself; then the same command",
        "the child ends, VRAM given back; then exit 0, nothing done twice",
        killed_run,
    ),
    Trial(
        "3a VRAM scarce",
        "a foreign process leaves 70, 40, 20 % of what the run takes, then 0.3 GB",
        "down the ladder (exit 0), or what it lacks is said (3, 5)",
        scarce_memory,
    ),
    Trial(
        "3b remembered",
        "`doctor` after that",
        "what worked after memory ran out is shown",
        what_is_remembered,
    ),
    Trial(
        "3c VRAM taken",
        "a foreign process takes all VRAM for 20 s in the middle",
        "exit 0, 3 or 5, told; the next run ends with 0",
        memory_taken_meanwhile,
    ),
    Trial(
        "4a batch 4096", "`--batch-size 4096`", "refused in one sentence, exit 2", too_large_asked
    ),
    Trial(
        "4b batch 1024",
        "`--batch-size 1024`, a long recording, little VRAM",
        "exit 0, batches halved until they fit",
        too_large_batch,
    ),
    Trial(
        "5 sticky error",
        "a device-side assert in the child (on a CPU: its text, raised)",
        "exit 0, process begun anew, everything done",
        sticky_error,
    ),
    Trial(
        "6 native hang",
        "`--timeout 25s`, a spinning kernel waited for in native code (on a CPU: a sleep)",
        "exit 0, child killed, device used again, VRAM given back",
        native_hang,
    ),
    Trial("7 speed", "both isolations, timed", "figures, no bar", speed),
)
