"""The CUDA libraries of wheels: found where they lie, without importing their packages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from program import PROJECT, environment

from audio_batch.engines.cuda import with_folders

FOLDERS = """
import json, sys
from audio_batch.engines.cuda import windows_folders
print(json.dumps([str(folder) for folder in windows_folders()]))
assert "torch" not in sys.modules
"""

BY_BARE_NAME = """
import ctypes
from audio_batch.engines.cuda import preload_libraries
try:
    ctypes.CDLL("libcublas.so.98")
except OSError:
    pass
else:
    raise SystemExit("it is found without us")
preload_libraries()
assert ctypes.CDLL("libcublas.so.98").answer() == 42
"""


def run(program: str, packages: Path) -> str:
    """Run a program that finds these packages before those that are installed."""
    # Without site-packages of its own kind the interpreter would put the folder's packages last.
    path = os.pathsep.join([str(packages), str(PROJECT)])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(PYTHONPATH=path),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def package(root: Path, name: str, *folders: str) -> Path:
    """A package that fails when it is imported, with folders in it."""
    place = root / name
    place.mkdir(parents=True)
    (place / "__init__.py").write_text("" if name == "nvidia" else "raise SystemExit('imported')")
    for folder in folders:
        (place / folder).mkdir()
    return place


def test_on_windows_the_wheels_folders_are_named_and_torchs_own_last(tmp_path: Path) -> None:
    package(tmp_path, "nvidia")
    cublas = package(tmp_path, "nvidia/cublas", "bin")
    package(tmp_path, "nvidia/cudnn")  # without libraries
    torch = package(tmp_path, "torch", "lib")
    assert json.loads(run(FOLDERS, tmp_path)) == [str(cublas / "bin"), str(torch / "lib")]


def test_the_folders_come_first_in_path_and_once(tmp_path: Path) -> None:
    ours = [tmp_path / "bin", tmp_path / "lib"]
    first = with_folders(os.pathsep.join(["/usr/bin", str(ours[1]), "/bin"]), ours)
    assert first.split(os.pathsep) == [str(ours[0]), str(ours[1]), "/usr/bin", "/bin"]
    assert with_folders(first, ours) == first
    assert with_folders("", ours) == os.pathsep.join(map(str, ours))
    assert with_folders("/usr/bin", []) == "/usr/bin"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the library is built for Linux")
def test_on_linux_a_library_of_a_wheel_is_opened_by_its_bare_name(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    package(tmp_path, "nvidia")
    cublas = package(tmp_path, "nvidia/cublas", "lib")
    package(tmp_path, "nvidia/cudnn")
    source = tmp_path / "cublas.c"
    source.write_text("int answer(void) { return 42; }\n")
    name = "libcublas.so.98"
    subprocess.run(
        [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", cublas / "lib" / name, source],
        check=True,
    )
    run(BY_BARE_NAME, tmp_path)


@pytest.mark.skipif(sys.platform != "win32", reason="what Windows does")
def test_on_windows_the_folders_are_in_the_path(tmp_path: Path) -> None:
    torch = package(tmp_path, "torch", "lib")
    program = (
        "import os\nfrom audio_batch.engines.cuda import preload_libraries\n"
        "preload_libraries()\nprint(os.environ['PATH'])"
    )
    assert str(torch / "lib") in run(program, tmp_path).strip().split(os.pathsep)
