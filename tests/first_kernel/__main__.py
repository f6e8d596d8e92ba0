"""Runs the example kernel on one backend: python -m tests.first_kernel [emulated|checked|cuda]"""

from __future__ import annotations

import sys

import numpy as np

from tests.device_library.library import DeviceError, DeviceLibrary, library_path


def scaled(backend: str, x: np.ndarray, scale: int, **options: int | str) -> np.ndarray:
    """scale * x by the kernel; raises DeviceError with what the emulator has against it."""
    path = library_path("first_kernel", backend)
    if path is None:
        raise DeviceError(f"the library first_kernel is not built for the backend '{backend}'")
    library = DeviceLibrary(path)
    library.describe()  # fails where there is no device
    if backend != "cuda":
        library.set_options(check=int(backend == "checked"), **options)
    buffers = [library.allocate(x.nbytes, "y"), library.upload(x, "x")]
    try:
        library.launch("scale", list(buffers), [*x.shape, scale])
        return library.download(buffers[0], x)
    finally:
        for buffer in buffers:
            library.free(buffer)


def main() -> int:
    backend = sys.argv[1] if len(sys.argv) > 1 else "checked"
    x = np.arange(20 * 100, dtype=np.float32).reshape(20, 100)
    try:
        y = scaled(backend, x, 3)
    except DeviceError as error:
        print(error)
        return 1
    right = np.array_equal(y, 3 * x)
    print(f"{backend}: {'right' if right else 'wrong'}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
