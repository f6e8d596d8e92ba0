"""The raw ops as torch.library sees them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from resnet_cuda import _fakes
from resnet_cuda.testing import emulated
from tests.citizen import raw_calls

pytestmark = pytest.mark.usefixtures("built")

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# They read no activation but a tensor of one pixel, or 1x1 filters, which are in every format at once.
WITHOUT_FORMAT = {
    *("_bn_finalize", "_bn_backward_finalize", "_global_avg_pool_backward"),
    *("_closed_form_finalize", "_closed_form_backward_reduce", "_closed_form_backward_finalize"),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", raw_calls.NAMES)
def test_every_op_passes_opcheck_in_channels_last(name: str, dtype: torch.dtype) -> None:
    op = getattr(torch.ops.resnet_cuda, name).default
    with emulated():
        for call in raw_calls.calls(name, dtype):
            torch.library.opcheck(op, call.args, call.options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [n for n in raw_calls.NAMES if n not in WITHOUT_FORMAT])
def test_every_op_refuses_other_memory_formats_by_name(name: str, dtype: torch.dtype) -> None:
    def as_nchw(t: Tensor) -> Tensor:
        return t.contiguous()

    op = getattr(torch.ops.resnet_cuda, name).default
    with emulated():
        for call in raw_calls.calls(name, dtype):
            args, options = call.mapped(as_nchw)
            with pytest.raises(RuntimeError, match="expected dense channels_last memory"):
                op(*args, **options)


def test_every_raw_op_has_a_fake() -> None:
    prefix = "resnet_cuda::"
    registered = {
        schema.name.removeprefix(prefix)
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith(prefix)
    }
    without_tensors = {"_select_emulator", "_allows_tf32", "_build_info", "_start_early"}
    assert registered - without_tensors == {fake.__name__ for fake in _fakes.FAKES}
