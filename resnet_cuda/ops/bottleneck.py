"""The two 1x1 ends of a bottleneck block (He et al. 2015, fig. 5) as launches of their own, without im2col, one block's
end with the next one's beginning as one launch, and a whole block as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from resnet_cuda import _backend
from resnet_cuda.ops import _validate
from resnet_cuda.ops._branch import requires_grad
from resnet_cuda.ops._interface import Pair
from resnet_cuda.ops._layout import is_channels_last, match_format
from resnet_cuda.ops._running import restored_on_error
from resnet_cuda.ops._unit_call import run_unit, run_unit_plainly
from resnet_cuda.ops.conv_unit import ConvUnit, check_unit


def bottleneck_reduce(
    x: Tensor,
    weight: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    stride: int | Pair = 1,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """relu(bn(conv1x1(x))): the convolution that narrows a bottleneck.

    Args:
        x: [N, Cin, H, W]; float64, float32, bfloat16 or float16.
        weight: [C, Cin, 1, 1] in x's dtype.
        gamma, beta, running_mean, running_var: [C], as in `conv_bn_relu`.
        stride: in pixels, the same both ways.
        training, momentum, eps, process_group: as in `conv_bn_relu`.

    Returns:
        [N, C, P, Q] with P = (H - 1) // stride + 1, in x's dtype.

    Raises:
        TypeError, ValueError: as `conv_bn_relu`, and for a kernel other than 1x1 or unequal strides.
    """
    _validate.pointwise_weight(weight)
    if type(stride) is not int and len(set(_validate.pair(stride, "stride", 1))) > 1:
        raise ValueError(f"stride is {stride!r}; accepted: the same stride both ways")
    unit = ConvUnit(
        weight,
        gamma,
        beta,
        running_mean,
        running_var,
        stride,
        training=training,
        momentum=momentum,
        eps=eps,
        process_group=process_group,
    )
    return run_unit(x, unit, None, True, launch="reduce")


def bottleneck_expand(
    x: Tensor,
    weight: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    residual: Tensor,
    *,
    projection: ConvUnit | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """relu(bn(conv1x1(x)) + shortcut): the convolution that widens a bottleneck and ends the block.

    Args:
        x: [N, C, P, Q]; float64, float32, bfloat16 or float16.
        weight: [K, C, 1, 1] in x's dtype.
        gamma, beta, running_mean, running_var: [K], as in `conv_bn_relu`.
        residual: the block's input: [N, K, P, Q], or with a projection [N, Cin, H, W].
        projection: the shortcut's convolution and batch norm (its own training, momentum, eps and
            process_group; its ReLU flag is ignored), or None: the shortcut is `residual` itself.
        training, momentum, eps, process_group: as in `conv_bn_relu`.

    Returns:
        [N, K, P, Q] in x's dtype.

    Raises:
        TypeError, ValueError: as `conv_bn_relu`, and for a kernel other than 1x1.
    """
    _validate.pointwise_weight(weight)
    unit = ConvUnit(
        weight,
        gamma,
        beta,
        running_mean,
        running_var,
        training=training,
        momentum=momentum,
        eps=eps,
        process_group=process_group,
    )
    if projection is None:
        return run_unit(x, unit, residual, True, launch="expand")
    return expand_and_project(x, unit, residual, projection)


def expand_and_project(x: Tensor, unit: ConvUnit, residual: Tensor, projection: ConvUnit) -> Tensor:
    """`bottleneck_expand` with a projection, by the unit that expands."""
    _validate.activation(x, "x")
    check_unit(projection, "projection")
    z = _fused_projection(x, unit, residual, projection)
    if z is not None:
        return z
    _validate.activation(residual, "residual")
    with restored_on_error(projection):
        shortcut = run_unit(residual, projection, None, False, launch="conv", restores=False)
        return run_unit(x, unit, shortcut, True, launch="expand", donate_residual=True)


def bottleneck_expand_reduce(
    x: Tensor, expand: ConvUnit, residual: Tensor, reduce: ConvUnit
) -> tuple[Tensor, Tensor]:
    """(y, z): y = relu(bn(conv1x1(x)) + residual) ends a block, z = relu(bn(conv1x1(y))) begins the next one.

    At inference on our kernels this is one pass: for bfloat16 and float16 on compute capability 9.0 one launch that
    does not read y back, where C and K are multiples of 64, C is at most 256 and L 64, 128 or 256; else two.
    Elsewhere it is two calls.

    Args:
        x: [N, C, P, Q]; float64, float32, bfloat16 or float16.
        expand: the convolution that ends the block, [K, C, 1, 1], and its batch norm (its ReLU flag is ignored: the
            ReLU follows the addition).
        residual: [N, K, P, Q].
        reduce: the convolution that begins the next block, [L, K, 1, 1], and its batch norm (its ReLU flag is
            ignored: there is one).

    Returns:
        y [N, K, P, Q] and z [N, L, P, Q] in x's dtype.

    Raises:
        TypeError, ValueError: as `conv_bn_relu`, and for a kernel other than 1x1.
    """
    for name, unit in (("expand", expand), ("reduce", reduce)):
        check_unit(unit, name)
        _validate.pointwise_weight(unit.weight)
    plain = _backend.undisturbed(x)
    if plain is not None:
        with restored_on_error(expand, reduce):
            y = run_unit_plainly(plain, x, expand, residual, True, restores=False)
            return y, run_unit_plainly(plain, y, reduce, None, True, restores=False)
    if not may_share_launch(x, expand, residual, reduce):
        with restored_on_error(expand, reduce):
            y = run_unit(x, expand, residual, True, launch="expand", restores=False)
            return y, run_unit(y, reduce, None, True, launch="reduce", restores=False)
    read = x
    for unit in (expand, reduce):
        shape = _validate.convolution(read, unit.weight, unit.geometry())
        _validate.weight_dtype(unit.weight, x.dtype)
        _validate.batch_norm(read, x.dtype, unit.bn(), shape, *unit.spec())
        if unit is expand:
            _validate.residual(x, residual, shape)
            read = residual  # of y's shape
    backend = _backend.resolve(x)
    y, z = backend.expand_reduce_inference(
        backend.prepare(x), expand, backend.prepare(residual), reduce
    )
    channels_last = is_channels_last(x) or is_channels_last(expand.weight)
    y = match_format(y, channels_last)
    return y, match_format(z, is_channels_last(y) or is_channels_last(reduce.weight))


def bottleneck_block(x: Tensor, reduce: ConvUnit, convolve: ConvUnit, expand: ConvUnit) -> Tensor:
    """relu(bn(conv1x1(b)) + x) of b = relu(bn(conv3x3(relu(bn(conv1x1(x)))))): a whole block with an identity shortcut,
    at inference.

    On our kernels this is one launch that reads x and writes the result, and stores nothing between, for bfloat16 and
    float16 on compute capability 9.0 where C is 256, K 64, and the image as `explain` says; else three, with the same
    bits. Elsewhere it is three calls.

    Args:
        x: [N, C, H, W]; float64, float32, bfloat16 or float16.
        reduce: the convolution that begins the block, [K, C, 1, 1], and its batch norm.
        convolve: the 3x3 between, [K, K, 3, 3] with stride 1 and padding 1, and its batch norm.
        expand: the convolution that ends the block, [C, K, 1, 1], and its batch norm.
            (The units' ReLU flags are ignored: each is followed by one, the last one behind the addition.)

    Returns:
        [N, C, H, W] in x's dtype.

    Raises:
        TypeError, ValueError: as `conv_bn_relu`, of the unit that is named; ValueError for filters or numbers other
            than those above, for batch norms in training, and for a unit without batch norm or with dropout.
    """
    _validate.activation(x, "x")
    units = {"reduce": reduce, "convolve": convolve, "expand": expand}
    _check_block(x, units)
    plain = _backend.undisturbed(x)
    backend = plain or _backend.resolve(x)
    name = "reduce"
    try:
        if plain is not None:
            b = run_unit_plainly(plain, x, reduce, None, True)
            name = "convolve"
            b = run_unit_plainly(plain, b, convolve, None, True)
            name = "expand"
            return run_unit_plainly(plain, b, expand, x, True)
        if not backend.fuses_block or not _is_inference(x, reduce, convolve, expand):
            b = run_unit(x, reduce, None, True, launch="reduce")
            name = "convolve"
            b = run_unit(b, convolve, None, True, launch="conv")
            name = "expand"
            return run_unit(b, expand, x, True, launch="expand")
        flow: Tensor | _validate.Planned = x
        for name, unit in units.items():  # noqa: B007  # what fails, see below
            shape = _validate.convolution(flow, unit.weight, unit.geometry())
            _validate.weight_dtype(unit.weight, x.dtype)
            _validate.batch_norm(flow, x.dtype, unit.bn(), shape, *unit.spec())
            flow = _validate.Planned(shape, x.device)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None
    y = backend.bottleneck_block_inference(backend.prepare(x), reduce, convolve, expand)
    return match_format(
        y, is_channels_last(x) or any(is_channels_last(u.weight) for u in units.values())
    )


_OPTIONS = ("training", "batch_norm", "dropout", "stride", "padding", "dilation", "groups")


def _check_block(x: Tensor, units: dict[str, ConvUnit]) -> None:
    """What the block asks of its units beyond what calls of their own do."""
    c, k = x.shape[1], 0
    for name, unit in units.items():
        check_unit(unit, name)
        k = k or unit.weight.shape[0]  # of the first one
        size = 3 if name == "convolve" else 1
        padding = size // 2
        found = (unit.training, unit.batch_norm, unit.dropout)
        found += (unit.stride, unit.padding, unit.dilation, unit.groups)  # type: ignore[assignment]
        accepted = (False, True, 0.0, (1, 1), (padding, padding), (1, 1), 1)
        if found != accepted:
            for option, value, wanted in zip(_OPTIONS, found, accepted, strict=True):
                first = wanted[0] if isinstance(wanted, tuple) else wanted
                if value not in (wanted, first):
                    raise ValueError(f"{name}.{option} is {value}; accepted: {first}")
        sizes = (c if name == "expand" else k, c if name == "reduce" else k, size, size)
        if unit.weight.shape != sizes:
            raise ValueError(
                f"{name}.weight has shape {list(unit.weight.shape)}; accepted: {list(sizes)}"
            )


def is_block_launch(x: Tensor, units: Sequence[ConvUnit]) -> bool:
    """Whether the backend has one launch for the block of these units and an identity, and nothing is differentiated or
    trained."""
    backend = _backend.resolve(x)
    return (
        backend.fuses_block
        and are_units_of_block(x.shape, units)
        and _is_inference(x, *units)
        and backend.has_block_kernel(x, units[0].weight.shape[0])
    )


def are_units_of_block(x_size: Sequence[int], units: Sequence[ConvUnit]) -> bool:
    """Whether the units are those of `bottleneck_block`, of x [N, C, H, W]."""
    if len(units) != 3:
        return False
    reduce, convolve, expand = units
    c, k = x_size[1], reduce.weight.shape[0]
    return (
        reduce.relu
        and convolve.relu
        and all(u.batch_norm for u in units)
        and [tuple(u.weight.shape) for u in units] == [(k, c, 1, 1), (k, k, 3, 3), (c, k, 1, 1)]
        and all(u.groups == 1 for u in units)
        and all(of in (1, (1, 1)) for u in units for of in (u.stride, u.dilation))
        and convolve.padding in (1, (1, 1))
        and all(u.padding in (0, (0, 0)) for u in (reduce, expand))
    )


def may_share_launch(x: Tensor, expand: ConvUnit, residual: Tensor, reduce: ConvUnit) -> bool:
    """Whether the backend has one pass for both convolutions, and nothing is differentiated or trained."""
    _validate.activation(x, "x")
    return (
        _backend.resolve(x).fuses_next_reduce
        and all(u.is_pointwise and u.stride in (1, (1, 1)) for u in (expand, reduce))
        and _is_inference(x, expand, reduce, adds=residual)
    )


def _is_inference(x: Tensor, *units: ConvUnit, adds: Tensor | None = None) -> bool:
    """Whether there are images, and of these units and what they add nothing is cast, differentiated or trained."""
    return (
        x.shape[0] != 0
        and not torch.is_autocast_enabled(x.device.type)
        and all(u.batch_norm and not u.training and not u.dropout for u in units)
        and not (
            torch.is_grad_enabled()
            and requires_grad(x, adds, *(t for u in units for t in (u.weight, u.gamma, u.beta)))
        )
    )


def _fused_projection(
    x: Tensor, unit: ConvUnit, residual: Tensor, projection: ConvUnit
) -> Tensor | None:
    """Both convolutions in one inference launch where the backend has one; None where it does not apply."""
    backend = _backend.resolve(x)
    weight, p = unit.weight, projection
    if (
        not backend.fuses_projection
        or unit.training
        or p.training
        or x.shape[0] == 0
        or torch.is_autocast_enabled(x.device.type)
        or not p.is_pointwise
        or (
            torch.is_grad_enabled()
            and requires_grad(x, weight, unit.gamma, unit.beta, residual, p.weight, p.gamma, p.beta)
        )
    ):
        return None
    shape = _validate.convolution(x, weight, unit.geometry())
    _validate.weight_dtype(weight, x.dtype)
    _validate.batch_norm(x, x.dtype, unit.bn(), shape, *unit.spec())
    _validate.activation(residual, "residual")
    shortcut_shape = _validate.convolution(residual, p.weight, p.geometry())
    _validate.weight_dtype(p.weight, residual.dtype)
    _validate.batch_norm(residual, residual.dtype, p.bn(), shortcut_shape, *p.spec())
    if shortcut_shape != shape or residual.dtype != x.dtype or residual.device != x.device:
        return None  # the unfused path raises the error
    z = backend.expand_projection_inference(
        backend.prepare(x), weight, unit.bn(), backend.prepare(residual), p, unit.eps
    )
    return match_format(z, is_channels_last(x) or is_channels_last(weight))
