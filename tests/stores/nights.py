"""Nights over S3 and the web: faulted, killed, done again, and compared with a local one."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from program import command, environment, write_manifest

from audio_batch.journal import Journal
from stores.faults import Faults, Rule
from stores.identity_center import Home
from stores.s3 import S3

TROUBLE = Faults(
    error=0.05,
    reset=0.03,
    lost=0.02,
    truncated=0.04,
    slow=0.04,
    slow_s=0.3,
    expire_after=150,
)
"""Of a hundred requests eighteen go wrong, and no key is good for more than 150."""

ELSEWHERE = ("source", "provenance")
"""Fields of a transcript that tell where the recording lies and how it was read."""

_PATIENCE_S = 600.0


@dataclass(slots=True)
class Night:
    """One manifest and its outputs: the program is run on it, as often as it takes.

    Attributes:
        codes: how each run ended; -9 for one that was killed.
    """

    folder: Path
    manifest: Path
    flags: tuple[object, ...]
    env: Mapping[str, str]
    codes: list[int] = field(default_factory=list)

    @property
    def state(self) -> Path:
        """Where the journal lies."""
        return self.folder / "state"

    def run(self, *, until: Callable[[], bool] | None = None) -> int:
        """Run it, up to SIGKILL as soon as `until` holds. Returns the exit code.

        Raises:
            AssertionError: it ended in no way that a run may end, or not at all.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        began_s = time.monotonic()
        with (self.folder / "said.log").open("ab") as said:
            process = subprocess.Popen(
                command("run", self.manifest, "--state-dir", self.state, *self.flags),
                cwd=self.folder,
                env=environment(**self.env),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
            killed = False
            while process.poll() is None:
                if (until is not None and until()) or time.monotonic() > began_s + _PATIENCE_S:
                    killed = True
                    process.kill()
                    process.wait()
                time.sleep(0.01)
        code = -9 if killed else process.returncode
        self.codes.append(code)
        if (code not in (0, 3, -9)) or (killed and until is None):
            raise AssertionError(f"exit {code}: {self.said()[-3000:]}")
        return code

    def finish(self, *, tries: int = 5) -> None:
        """Run it until no asset is left that may be tried again."""
        while self.run() != 0:
            tries -= 1
            assert tries, self.said()[-3000:]

    def said(self) -> str:
        """What the runs said."""
        return (self.folder / "said.log").read_text(encoding="utf-8", errors="replace")

    def journal(self) -> dict[str, Any]:
        """The rows of the journal by asset."""
        with closing(Journal(self.state / "journal.sqlite3", read_only=True)) as journal:
            return {entry.asset_id: entry for entry in journal.entries()}


@dataclass(slots=True)
class Place:
    """A folder for a trial, with recordings in it and, the same ones, in S3.

    Attributes:
        recordings: the local manifest.
        home: where the profile `night` is, whose program gives other keys each time.
    """

    folder: Path
    s3: S3
    recordings: Path
    home: Home

    @classmethod
    def with_tones(cls, folder: Path, s3: S3, count: int) -> Place:
        """`count` tones of different lengths."""
        return cls.of(folder, s3, write_manifest(folder / "local", count, duration_s=0.2))

    @classmethod
    def of(cls, folder: Path, s3: S3, manifest: Path) -> Place:
        """The recordings of a manifest that names paths beside it; what else is there stays."""
        home, mine = Home(folder / "home"), folder / "local" / manifest.name
        home.numbered_keys(lasting_s=86400)
        place = cls(folder, s3, manifest, home)
        for asset in place.assets():
            s3.put(f"in/{asset['path']}", manifest.parent / asset["path"])
            if mine != manifest:
                copy = mine.parent / asset["path"]
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(manifest.parent / asset["path"], copy)
        if mine != manifest:
            shutil.copyfile(manifest, mine)
        place.recordings = mine
        return place

    def assets(self) -> list[dict[str, Any]]:
        """The manifest's assets."""
        assets: list[dict[str, Any]] = json.loads(self.recordings.read_text("utf-8"))["assets"]
        return assets

    def manifest(self, name: str, prefix: str) -> Path:
        """The manifest with every path below a URL."""
        document = json.loads(self.recordings.read_text("utf-8"))
        for asset in document["assets"]:
            asset["uri"] = prefix + asset.pop("path")
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        return path

    def here(self, name: str, *flags: object) -> Night:
        """A night from local paths to a local folder."""
        folder = self.folder / name
        return Night(folder, self.recordings, ("-o", folder / "out", *flags), {})

    def in_s3(self, name: str, *flags: object) -> Night:
        """A night from S3 to S3, below `out-NAME/`."""
        folder = self.folder / name
        store = ("--s3-endpoint", self.s3.endpoint, "--aws-profile", "night")
        cache = ("--cache-dir", folder / "cache")
        flags = ("-o", self.s3.url(f"out-{name}"), *store, *cache, *flags)
        env = {"AWS_ENDPOINT_URL_STS": self.s3.endpoint, **self.home.environment}
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            env[variable] = ""
        return Night(folder, self.manifest(name, self.s3.url("in/")), flags, env)

    def outputs(self, night: Night) -> dict[str, bytes]:
        """What a night has published, by relative path; without its summary."""
        folder = night.folder / "out"
        if folder.is_dir():
            found = {
                path.relative_to(folder).as_posix(): path.read_bytes()
                for path in folder.rglob("*")
                if path.is_file() and ".audio-batch" not in path.parts
            }
        else:
            found = self.s3.objects(f"out-{night.folder.name}/")
        found.pop("summary.json", None)
        return found


def words(outputs: Mapping[str, bytes]) -> dict[str, Any]:
    """Outputs as they have to be equal wherever the recordings lay."""
    found: dict[str, Any] = dict(outputs)
    for name, data in outputs.items():
        if name.endswith(".json"):
            transcript = json.loads(data)
            found[name] = {k: v for k, v in transcript.items() if k not in ELSEWHERE}
    return found


def differences(wanted: Mapping[str, bytes], got: Mapping[str, bytes]) -> list[str]:
    """What is lost, too much, or other than it should be; empty where all is well."""
    lost = [f"lost: {name}" for name in sorted(wanted.keys() - got.keys())]
    more = [f"too much: {name}" for name in sorted(got.keys() - wanted.keys())]
    ours, theirs = words(wanted), {}
    for name in sorted(wanted.keys() & got.keys()):
        try:
            theirs |= words({name: got[name]})
        except ValueError:
            lost.append(f"torn: {name}")
    return lost + more + [f"differs: {n}" for n, value in theirs.items() if ours[n] != value]


def disagreements(night: Night, outputs: Mapping[str, bytes]) -> list[str]:
    """Where the journal and what is published do not say the same."""
    found = []
    for entry in night.journal().values():
        if entry.state != "done":
            found.append(f"{entry.asset_id} is {entry.state}: {entry.error_text}")
        for file in entry.outputs:
            data = outputs.get(file.path)
            if data is None or hashlib.sha256(data).hexdigest() != file.sha256:
                found.append(f"{file.path} is not what the journal says")
    return found


def leaks(night: Night) -> list[str]:
    """Local files of a night with a secret in them; see `moto_process.SECRETS`."""
    files = [path for path in night.folder.rglob("*") if path.is_file()]
    return [f"a secret is in {path}" for path in files if b"canary-" in path.read_bytes()]


def puts_of(s3: S3, prefix: str) -> int:
    """PUTs of objects whose keys begin so."""
    path = f"/{s3.bucket}/{prefix}"
    seen = list(s3.trouble.seen)
    return sum(each.kind == "PUT" and each.path.startswith(path) for each in seen)


def kill_and_finish(place: Place, night: Night, *, kills: int, outputs_each: int = 2) -> None:
    """Kill a night as it goes, evenly over its outputs, then let it come to its end."""
    whole = len(place.assets()) * outputs_each
    prefix = f"out-{night.folder.name}"
    for number in range(1, kills + 1):
        done = whole * number // (kills + 1)
        # Those behind get no answer: however late the kill comes, it comes before the end.
        after = max(0, done - puts_of(place.s3, prefix))
        place.s3.rule(Rule("hang", kind="PUT", path=f"/{place.s3.bucket}/{prefix}*", after=after))

        def enough(done: int = done) -> bool:
            return puts_of(place.s3, prefix) >= done

        killed = night.run(until=enough) == -9
        place.s3.trouble.rules.clear()
        if not killed:
            return
    night.finish()


def forget(night: Night) -> None:
    """Lose the journal and all else of the state folder."""
    shutil.rmtree(night.state)


def left_behind(s3: S3) -> Iterator[str]:
    """What a store should not have afterwards."""
    yield from (f"unfinished upload: {key}" for key in s3.uploads())
    yield from (f"left: {key}" for key in s3.keys() if "/.audio-batch" in f"/{key}")  # noqa: SIM118
