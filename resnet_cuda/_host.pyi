from typing import Any

cuda_compiled: bool
cuda_version: str | None
passes: tuple[str, ...]

def device_count() -> int: ...

class EmulatorOptions:
    schedule: int
    seed: int
    workers: int
    check: int
    count: int
    max_errors: int
    cp_async: int
    tma: int
    wgmma: int
    multiprocessors: int

class Emulator:
    def __init__(self, path: str) -> None: ...
    @property
    def checked(self) -> bool: ...
    @property
    def options(self) -> EmulatorOptions: ...
    def launches(self) -> list[dict[str, Any]]: ...
    def clear(self) -> None: ...

def conv_plan(
    op: str,
    dtype: str,
    x_size: tuple[int, int, int, int],
    weight_size: tuple[int, int, int, int],
    *,
    stride: tuple[int, int] = ...,
    padding: tuple[int, int] = ...,
    dilation: tuple[int, int] = ...,
    groups: int = ...,
    narrow: bool = ...,
    normalises: bool = ...,
    takes_sums: bool = ...,
    allow_tf32: bool = ...,
    max_pool: bool = ...,
    capability: tuple[int, int] = ...,
    multiprocessors: int = ...,
) -> dict[str, Any]: ...
def bottleneck_block_plan(
    dtype: str,
    x_size: tuple[int, int, int, int],
    reduced: int,
    *,
    capability: tuple[int, int] = ...,
    multiprocessors: int = ...,
) -> dict[str, Any]: ...
def expand_reduce_plan(
    dtype: str,
    x_size: tuple[int, int, int, int],
    weight_size: tuple[int, int, int, int],
    reduced: int,
    *,
    capability: tuple[int, int] = ...,
) -> dict[str, Any]: ...
