"""The wheel: what it holds, what it says that it runs on, and that it works outside of the source tree.

`python -m tests.packaging` also runs it with the newest torch, and `resnet_cuda check` with each.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from resnet_cuda import _raw
from tests.packaging.distributions import (
    OLDEST_TORCH,
    ROOT,
    RUNNING_TORCH,
    Environment,
    build_wheel,
    locked,
    run,
)

SAMPLE = Path(__file__).with_name("sample_user.py")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A folder of this run of pytest, the same one for all of its workers."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if hasattr(request.config, "workerinput") else own


@pytest.fixture(scope="session")
def wheel(shared: Path) -> Path:
    """The wheel, which the first worker that asks builds for all of them."""
    if not _raw.is_built():
        pytest.skip("resnet_cuda._C is not built: run `make build`")
    with locked(shared / "wheel.lock"):
        made = list((shared / "wheel").glob("*.whl"))
        return made[0] if made else build_wheel(shared / "wheel")


@pytest.fixture(scope="session")
def installed(shared: Path, wheel: Path) -> Environment:
    """An environment with the torch that runs here and the wheel."""
    environment, done = Environment(RUNNING_TORCH), shared / "installed"
    with locked(shared / "installed.lock"):
        if not environment.exists():
            environment.make()
        if not done.exists():
            environment.install(wheel)
            done.touch()
    return environment


@pytest.fixture(scope="session")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_says_what_it_runs_on(wheel: Path) -> None:
    # _C serves every Python from 3.10 on, _host the one that it is built for. Neither is tied to an older glibc than
    # this machine's, and _C needs torch's libtorch_cpu.so: a manylinux tag would promise more.
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.stem.split("-")[2:] == [python, python, platform]


def test_the_wheel_holds_the_package_whole_with_stubs_and_libraries(names: set[str]) -> None:
    sources = {path for path in (ROOT / "resnet_cuda").rglob("*") if path.suffix in {".py", ".pyi"}}
    wanted = {str(path.relative_to(ROOT)) for path in sources}
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    libraries = ("_C.abi3.so", f"_host{suffix}", "librnc_emulated.so", "librnc_emulated_checked.so")
    wanted |= {f"resnet_cuda/{name}" for name in (*libraries, "py.typed")}
    missing = sorted(wanted - names)
    assert not missing, f"the wheel lacks: {missing}"
    more = {name for name in names - wanted if ".dist-info/" not in name}
    assert more <= {"resnet_cuda/kernel_resources.json"}, f"not of the package: {sorted(more)}"


def test_the_wheel_works_in_an_environment_of_its_own(
    installed: Environment, tmp_path: Path
) -> None:
    assert " 0 failed" in installed.smoke(tmp_path)


def test_a_user_s_code_has_types(installed: Environment, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    shutil.copy(SAMPLE, tmp_path)  # where mypy finds the package installed, not this tree
    options: list[str | Path] = ["--strict", "--python-executable", installed.python]
    options += ["--cache-dir", installed.folder / "mypy"]  # kept: torch's types take a while
    run(Path(sys.executable), "-m", "mypy", *options, SAMPLE.name, cwd=tmp_path)


def test_the_same_wheel_works_with_the_oldest_torch(wheel: Path, tmp_path: Path) -> None:
    environment = Environment(OLDEST_TORCH)
    if not environment.exists():
        pytest.skip(
            f"no environment has torch {OLDEST_TORCH}, 5 GB: python -m tests.packaging --environments {OLDEST_TORCH}"
        )
    environment.install(wheel)
    assert " 0 failed" in environment.smoke(tmp_path)
