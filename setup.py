"""Builds the compiled parts by driving CMakeLists.txt with ninja; everything else is in pyproject.toml."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    """`build_ext` that configures, builds and installs into the package folder (in place or of the wheel)."""

    def run(self) -> None:
        # Tools that pip installed beside this Python are found although its folder need not be on PATH.
        path = os.pathsep.join(
            [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        )
        cmake, ninja = (shutil.which(tool, path=path) for tool in ("cmake", "ninja"))
        if cmake is None or ninja is None:
            raise SystemExit("the build needs cmake >= 3.24 and ninja: pip install cmake ninja")
        build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        package = Path(self.get_ext_fullpath("resnet_cuda._C")).resolve().parent
        options = [f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DPython_EXECUTABLE={sys.executable}"]
        for name in ("RNC_CUDA", "RNC_TESTS", "CMAKE_CUDA_ARCHITECTURES", "CMAKE_BUILD_TYPE"):
            if value := os.environ.get(name):
                options.append(f"-D{name}={value}")
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        subprocess.check_call([cmake, "-S", ROOT, "-B", build, "-G", "Ninja", *options])
        subprocess.check_call([cmake, "--build", build, "-j", jobs])
        subprocess.check_call([cmake, "--install", build, "--prefix", package])


setup(
    ext_modules=[
        Extension("resnet_cuda._C", [], py_limited_api=True),
        Extension("resnet_cuda._host", []),
    ],
    cmdclass={"build_ext": CMakeBuild},
)
