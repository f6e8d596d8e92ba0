"""The source distribution: all that building and testing need, and nothing that a build left behind.

`python -m tests.packaging --sdist` compiles it.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.packaging.distributions import ROOT, build_sdist

# For working on the repository alone.
OF_THE_REPOSITORY = {".ci/run", ".gitignore", ".pre-commit-config.yaml"}
# What setuptools adds.
GENERATED = ("PKG-INFO", "setup.cfg", "resnet_cuda.egg-info/")


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    with tarfile.open(build_sdist(tmp_path_factory.mktemp("sdist"))) as archive:
        files = [member.name for member in archive if member.isfile()]
    return {name.partition("/")[2] for name in files}


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: what belongs to the project is what git tracks")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return {name for name in listed.split("\0") if name and (ROOT / name).exists()}


def test_the_sdist_holds_every_file_of_the_project(names: set[str], tracked: set[str]) -> None:
    missing = sorted(tracked - OF_THE_REPOSITORY - names)
    assert not missing, f"MANIFEST.in leaves out: {missing}"


def test_the_sdist_holds_nothing_that_a_build_or_a_test_left(
    names: set[str], tracked: set[str]
) -> None:
    more = sorted(name for name in names - tracked if not name.startswith(GENERATED))
    assert not [name for name in more if Path(name).suffix in {".so", ".pyc", ".o", ".json"}], more
    assert not [name for name in more if name.startswith(("build/", "dist/"))], more
