"""Wheels and source distributions of this tree, and environments with other torches to install them into.

An environment is made once, by pip, and kept in $RNC_ENVIRONMENTS (build/environments): a torch with CUDA is 5 GB.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = Path(os.environ.get("RNC_ENVIRONMENTS") or ROOT / "build" / "environments")
SMOKE = Path(__file__).with_name("smoke.py")
# What pyproject.toml's `torch>=` promises, and what is built with here.
OLDEST_TORCH = "2.11.0"
RUNNING_TORCH = torch.__version__.partition("+")[0]
_PIP = ["-m", "pip", "--disable-pip-version-check", "--quiet"]


def run(python: Path, *arguments: str | Path, cwd: Path = ROOT) -> str:
    """What `python arguments` prints, with the bytecode that pip or the first run has written.

    Raises:
        RuntimeError: it failed; with all that it printed.
    """
    dropped = {"PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME"}
    done = subprocess.run(
        [python, *arguments],
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name not in dropped},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        command = " ".join(map(str, [python, *arguments]))
        raise RuntimeError(f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time, of those that use this file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build_wheel(folder: Path, source: Path = ROOT) -> Path:
    """A wheel of `source`, built with what is installed here; in this tree of what `make build` compiled."""
    options = ["--no-build-isolation", "--no-deps", "--wheel-dir", folder]
    with locked(source / "build" / "distributions.lock"):
        # setuptools packs whatever lies there, modules that have been deleted since among them.
        for stale in (source / "build").glob("lib*"):
            shutil.rmtree(stale)
        run(Path(sys.executable), *_PIP, "wheel", *options, source)
    (wheel,) = folder.glob("*.whl")
    return wheel


def build_sdist(folder: Path) -> Path:
    """A source distribution of this tree."""
    backend = "from setuptools.build_meta import build_sdist; import sys; build_sdist(sys.argv[1])"
    with locked(ROOT / "build" / "distributions.lock"):  # both write resnet_cuda.egg-info
        run(Path(sys.executable), "-c", backend, folder)
    (sdist,) = folder.glob("*.tar.gz")
    return sdist


def unpack(sdist: Path, folder: Path) -> Path:
    """The source tree in a source distribution."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    return tree


def newest_torch() -> str:
    """The version that pip would install."""
    options = ["--dry-run", "--ignore-installed", "--no-deps", "--report", "-"]
    report = json.loads(run(Path(sys.executable), *_PIP, "install", *options, "torch"))
    version: str = report["install"][0]["metadata"]["version"]
    return version.partition("+")[0]


class Environment(NamedTuple):
    """A virtual environment that holds one torch, and whatever wheel was installed last."""

    torch: str

    @property
    def folder(self) -> Path:
        tag = sys.implementation.cache_tag
        return ENVIRONMENTS / f"torch-{self.torch}-{tag}"

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def _complete(self) -> Path:
        return self.folder / "complete"

    def exists(self) -> bool:
        """Whether it was made, to the end."""
        return self._complete.exists()

    def make(self) -> None:
        """Makes it with torch and what torch depends on; the first import compiles torch's modules."""
        shutil.rmtree(self.folder, ignore_errors=True)
        run(Path(sys.executable), "-m", "venv", self.folder)
        needed = (f"torch=={self.torch}", "numpy")
        run(self.python, *_PIP, "install", "--no-compile", *needed)
        self._complete.touch()

    def megabytes(self) -> int:
        """What it takes of the disk."""
        files = (path.lstat() for path in self.folder.rglob("*"))
        return sum(file.st_blocks for file in files) * 512 >> 20

    def install(self, wheel: Path) -> None:
        """Installs the wheel in place of the one before it, and what it needs beside torch."""
        run(self.python, *_PIP, "uninstall", "--yes", "resnet_cuda")
        run(self.python, *_PIP, "install", wheel)

    def smoke(self, folder: Path) -> str:
        """Runs the basic test (smoke.py) from a folder outside of the source tree."""
        return run(self.python, SMOKE, cwd=folder)

    def check(self, folder: Path) -> str:
        """Runs `python -m resnet_cuda check` there, half a minute of CPU time."""
        return run(self.python, "-m", "resnet_cuda", "check", cwd=folder)
