"""Every kernel pass on every distinct layer, beside the same arithmetic in ATen and cuDNN."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any

from resnet_cuda.bench import layers
from resnet_cuda.bench.computation import Source, shrinkable
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.layers import Elementwise, Layer, Network
from resnet_cuda.bench.levels import batch_norm_passes as batch_norm
from resnet_cuda.bench.levels import closed_form_matrices
from resnet_cuda.bench.levels import closed_form_passes as closed_form
from resnet_cuda.bench.levels import convolution_passes as convolution
from resnet_cuda.bench.levels import elementwise_passes as elementwise
from resnet_cuda.bench.levels.bottleneck_block_pass import bottleneck_block, ending_whole_blocks
from resnet_cuda.bench.plan import Plan
from resnet_cuda.bench.workload import Workload


def workloads(device: Device, plan: Plan) -> Iterator[Workload]:
    """Nothing on a plain CPU: there our backend is ATen and oneDNN."""
    if device.kind == "cpu":
        return
    source = Source(plan)
    for dtype in plan.dtypes:
        for make, select in PASSES:
            for subject, facts in source.subjects(select):
                yield shrinkable(partial(make, device, dtype), subject, facts)


def _convolutions(network: Network) -> list[Layer]:
    """Without regard to what follows them."""
    return layers.merge(
        Layer(layer.conv, input_gradient=layer.input_gradient, count=layer.count)
        for layer in network.convolutions
    )


def _inner_convolutions(network: Network) -> list[Layer]:
    """Those whose input has a gradient."""
    return [layer for layer in _convolutions(network) if layer.input_gradient]


def _with_batch_norm(network: Network, residual: bool) -> list[Layer]:
    """A projection is one more residual here: only one launch, of its own kind, computes both."""
    wanted = (x for x in network.convolutions if x.batch_norm and x.residual == residual)
    return layers.merge(replace(layer, projection=None) for layer in wanted)


def _reducing_in_training(network: Network) -> list[Layer]:
    """Without regard to the ReLU, which comes later."""
    return layers.merge(replace(layer, relu=False) for layer in network.reducing())


def _expanding_in_training(network: Network) -> list[Layer]:
    """Without regard to what they add: that is added later."""
    expands = (layer for layer in network.convolutions if layer.expands)
    return layers.merge(replace(layer, residual=False, projection=None) for layer in expands)


def _expanding_into_a_block(network: Network) -> list[Layer]:
    """Expands behind which another block of the same shape begins: all but the last."""
    expands = network.expanding(projection=False)
    return [replace(layer, count=layer.count - 1) for layer in expands if layer.count > 1]


def _in_closed_form(network: Network) -> list[Layer]:
    """Expands whose batch norm can be had from what they read."""
    return [layer for layer in _expanding_in_training(network) if closed_form.serves(layer)]


def _norms(network: Network, residual: bool) -> list[Elementwise]:
    return [norm for norm in network.batch_norms if norm.residual == residual]


def _shapes(network: Network) -> list[Elementwise]:
    """Of batch norms, without regard to what follows them."""
    return layers.merge(Elementwise(n.shape, count=n.count) for n in network.batch_norms)


# (what makes the workload, on which parts of a network)
CONVOLUTIONS: Sequence[tuple[Callable[..., Workload], Callable[[Network], Sequence[Layer]]]] = (
    (convolution.inference, partial(_with_batch_norm, residual=False)),
    (convolution.inference, partial(_with_batch_norm, residual=True)),
    (convolution.statistics, _convolutions),
    (convolution.statistics_on_load, _inner_convolutions),
    (convolution.dgrad, _inner_convolutions),
    (convolution.wgrad, _convolutions),
    (convolution.wgrad_on_load, _inner_convolutions),
)
PASSES: Sequence[tuple[Callable[..., Workload], Callable[[Network], Sequence[Any]]]] = (
    *CONVOLUTIONS,
    (convolution.max_pool, Network.pooled_stems),
    (convolution.reduce, Network.reducing),
    (convolution.reduce_statistics, _reducing_in_training),
    (convolution.expand, partial(Network.expanding, projection=False)),
    (convolution.expand, partial(Network.expanding, projection=True)),
    (convolution.expand_reduce, _expanding_into_a_block),
    (bottleneck_block, ending_whole_blocks),
    (convolution.expand_statistics, _expanding_in_training),
    (closed_form.expand, _in_closed_form),
    (closed_form.bottleneck_expand, _in_closed_form),
    (closed_form.gram, _in_closed_form),
    (closed_form.expand_wgrad, _in_closed_form),
    (closed_form.expand_dgrad, _in_closed_form),
    (closed_form_matrices.finalize, _in_closed_form),
    (closed_form_matrices.backward_reduce, _in_closed_form),
    (closed_form_matrices.backward_finalize, _in_closed_form),
    (batch_norm.bn_statistics, _shapes),
    (batch_norm.bn_finalize, _shapes),
    (batch_norm.bn_apply, partial(_norms, residual=False)),
    (batch_norm.bn_apply, partial(_norms, residual=True)),
    (batch_norm.bn_backward_reduce, partial(_norms, residual=False)),
    (batch_norm.bn_backward_reduce, partial(_norms, residual=True)),
    (batch_norm.bn_backward_finalize, _shapes),
    (batch_norm.bn_backward_apply, partial(_norms, residual=False)),
    (batch_norm.bn_backward_apply, partial(_norms, residual=True)),
    (elementwise.add_relu_forward, attrgetter("additions")),
    (elementwise.add_relu_backward, attrgetter("additions")),
    (elementwise.max_pool_forward, attrgetter("max_pools")),
    (elementwise.max_pool_backward, attrgetter("max_pools")),
    (elementwise.average_pool_forward, attrgetter("average_pools")),
    (elementwise.average_pool_backward, attrgetter("average_pools")),
)
