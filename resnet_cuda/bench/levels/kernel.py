"""Every kernel pass on every distinct layer, beside the same arithmetic in ATen and cuDNN."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from resnet_cuda.bench import layers
from resnet_cuda.bench.computation import shrinkable
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.layers import Elementwise, Layer, Network, Pool
from resnet_cuda.bench.levels import batch_norm_passes as batch_norm
from resnet_cuda.bench.levels import convolution_passes as convolution
from resnet_cuda.bench.levels import elementwise_passes as elementwise
from resnet_cuda.bench.plan import Plan
from resnet_cuda.bench.workload import Workload

# Has every kind of layer that a pass exists for; lends one of a kind that the plan's network lacks.
_COMPLETE = "resnet50"


def workloads(device: Device, plan: Plan) -> Iterator[Workload]:
    """Nothing on a plain CPU: there our backend is ATen and oneDNN."""
    if device.kind == "cpu":
        return
    network, complete = (
        layers.network(name, plan.batch, plan.image_size) for name in (plan.networks[0], _COMPLETE)
    )
    for dtype in plan.dtypes:
        for make, select in PASSES:
            subjects = select(network)[: plan.first_layers]
            lent = not subjects
            for subject in select(complete)[:1] if lent else subjects:
                workload = shrinkable(partial(make, device, dtype), subject)
                workload.facts["network"] = _COMPLETE if lent else plan.networks[0]
                yield workload


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


def _reducing(network: Network) -> list[Layer]:
    return [layer for layer in network.convolutions if layer.reduces]


def _reducing_in_training(network: Network) -> list[Layer]:
    """Without regard to the ReLU, which comes later."""
    return layers.merge(replace(layer, relu=False) for layer in _reducing(network))


def _expanding(network: Network, projection: bool) -> list[Layer]:
    expands = (layer for layer in network.convolutions if layer.expands)
    return [layer for layer in expands if projection == (layer.projection is not None)]


def _expanding_in_training(network: Network) -> list[Layer]:
    """Without regard to what they add: that is added later."""
    expands = (layer for layer in network.convolutions if layer.expands)
    return layers.merge(replace(layer, residual=False, projection=None) for layer in expands)


def _norms(network: Network, residual: bool) -> list[Elementwise]:
    return [norm for norm in network.batch_norms if norm.residual == residual]


def _shapes(network: Network) -> list[Elementwise]:
    """Of batch norms, without regard to what follows them."""
    return layers.merge(Elementwise(n.shape, count=n.count) for n in network.batch_norms)


def _additions(network: Network) -> Sequence[Elementwise]:
    return network.additions


def _max_pools(network: Network) -> Sequence[Pool]:
    return network.max_pools


def _average_pools(network: Network) -> Sequence[Pool]:
    return network.average_pools


# (what makes the workload, on which parts of a network)
PASSES: Sequence[tuple[Callable[..., Workload], Callable[[Network], Sequence[Any]]]] = (
    (convolution.inference, partial(_with_batch_norm, residual=False)),
    (convolution.inference, partial(_with_batch_norm, residual=True)),
    (convolution.statistics, _convolutions),
    (convolution.dgrad, _inner_convolutions),
    (convolution.wgrad, _convolutions),
    (convolution.reduce, _reducing),
    (convolution.reduce_statistics, _reducing_in_training),
    (convolution.expand, partial(_expanding, projection=False)),
    (convolution.expand, partial(_expanding, projection=True)),
    (convolution.expand_statistics, _expanding_in_training),
    (batch_norm.bn_statistics, _shapes),
    (batch_norm.bn_finalize, _shapes),
    (batch_norm.bn_apply, partial(_norms, residual=False)),
    (batch_norm.bn_apply, partial(_norms, residual=True)),
    (batch_norm.bn_backward_reduce, partial(_norms, residual=False)),
    (batch_norm.bn_backward_reduce, partial(_norms, residual=True)),
    (batch_norm.bn_backward_finalize, _shapes),
    (batch_norm.bn_backward_apply, partial(_norms, residual=False)),
    (batch_norm.bn_backward_apply, partial(_norms, residual=True)),
    (elementwise.add_relu_forward, _additions),
    (elementwise.add_relu_backward, _additions),
    (elementwise.max_pool_forward, _max_pools),
    (elementwise.max_pool_backward, _max_pools),
    (elementwise.average_pool_forward, _average_pools),
    (elementwise.average_pool_backward, _average_pools),
)
