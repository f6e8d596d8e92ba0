"""Other packages' weights in our modules, against plain restatements of what those packages compute."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_cuda import convert
from resnet_cuda import nn as fused_nn
from tests.networks import assert_close


class FrozenNorm(nn.Module):
    """apex's FrozenBatchNorm2d: buffers, and no eps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(channels, dtype=torch.float64) + 0.1)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * self.running_var.rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


class ApexBottleneck(nn.Module):
    """apex.contrib.bottleneck.Bottleneck: the stride is the first 1x1's."""

    def __init__(
        self,
        inplanes: int,
        width: int,
        outplanes: int,
        stride: int = 1,
        explicit_nhwc: bool = False,
    ) -> None:
        super().__init__()
        self.stride, self.explicit_nhwc = stride, explicit_nhwc
        shapes = [(width, inplanes, 1), (width, width, 3), (outplanes, width, 1)]
        convolutions = [nn.Conv2d(c, k, r, bias=False).double() for k, c, r in shapes]
        self.conv1, self.conv2, self.conv3 = convolutions
        self.bn1, self.bn2, self.bn3 = (FrozenNorm(k) for k, *_ in shapes)
        self.downsample = None
        if stride != 1 or inplanes != outplanes:
            projection = nn.Conv2d(inplanes, outplanes, 1, bias=False).double()
            self.downsample = nn.Sequential(projection, FrozenNorm(outplanes))
        if explicit_nhwc:
            for p in self.parameters():
                p.data = p.data.permute(0, 2, 3, 1).contiguous()

    def filters(self, conv: nn.Conv2d) -> Tensor:
        return conv.weight.permute(0, 3, 1, 2) if self.explicit_nhwc else conv.weight

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(F.conv2d(x, self.filters(self.conv1), stride=self.stride)))
        out = F.relu(self.bn2(F.conv2d(out, self.filters(self.conv2), padding=1)))
        out = self.bn3(F.conv2d(out, self.filters(self.conv3)))
        if self.downsample is not None:
            x = self.downsample[1](
                F.conv2d(x, self.filters(self.downsample[0]), stride=self.stride)
            )
        return F.relu(out + x)


def images(channels: int) -> Tensor:
    return torch.randn(2, channels, 7, 6, dtype=torch.float64)


@pytest.mark.parametrize("explicit_nhwc", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("shape", [(8, 4, 16, 2), (16, 4, 16, 1), (8, 6, 16, 1)], ids=str)
def test_an_apex_bottleneck_computes_the_same(
    shape: tuple[int, int, int, int], explicit_nhwc: bool
) -> None:
    theirs = ApexBottleneck(*shape, explicit_nhwc=explicit_nhwc)
    x = images(shape[0]).requires_grad_()
    dz = torch.randn_like(theirs(x))
    for source in (theirs, theirs.state_dict()):
        ours = convert.from_apex_bottleneck(
            source, stride=shape[3], explicit_nhwc=explicit_nhwc, eps=1e-3
        )
        assert ours.blocker() is None, f"the fused path is off: {ours.blocker()}"
        assert_close(ours(x), theirs(x), "output")
        of_ours = torch.autograd.grad(ours(x), [x, ours.conv2.weight], dz)
        of_theirs = torch.autograd.grad(theirs(x), [x, theirs.conv2.weight], dz)
        assert_close(of_ours[0], of_theirs[0], "gradient of the input")
        dw = of_theirs[1].permute(0, 3, 1, 2) if explicit_nhwc else of_theirs[1]
        assert_close(of_ours[1], dw, "gradient of a filter")
        frozen = [
            p for name, p in ours.named_parameters() if "bn" in name or "downsample.1" in name
        ]
        assert not any(p.requires_grad for p in frozen), "a frozen batch norm wants a gradient"


def test_an_apex_module_says_its_stride_and_layout_itself() -> None:
    theirs = ApexBottleneck(8, 4, 16, 2, explicit_nhwc=True)
    x = images(8)
    assert_close(convert.from_apex_bottleneck(theirs)(x), theirs(x), "output")


class ABN(nn.Module):
    """InPlaceABN's arithmetic, with `inplace`, or ABN's: batch norm and a leaky ReLU."""

    def __init__(self, channels: int, inplace: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(channels, dtype=torch.float64))
        self.register_buffer("running_mean", torch.randn(channels, dtype=torch.float64))
        self.register_buffer("running_var", torch.rand(channels, dtype=torch.float64) * 0.01)
        self.inplace, self.slope, self.eps = inplace, 0.01, 1e-3

    def forward(self, x: Tensor) -> Tensor:
        gain = self.weight.abs() + self.eps if self.inplace else self.weight
        x = F.batch_norm(
            x, self.running_mean, self.running_var, gain, self.bias, False, 0.0, self.eps
        )
        return x if self.slope is None else F.leaky_relu(x, self.slope)


class ABNBlock(nn.Module):
    """Residual block of the InPlaceABN repository: convs.conv1, convs.bn1, ... and proj_conv, proj_bn."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.convs = nn.Module()
        self.convs.conv1 = nn.Conv2d(4, 6, 3, 2, 1, bias=False).double()
        self.convs.bn1 = ABN(6, inplace)
        self.convs.conv2 = nn.Conv2d(6, 6, 3, 1, 1, bias=False).double()
        self.convs.bn2 = ABN(6, inplace)
        self.proj_conv = nn.Conv2d(4, 6, 1, 2, bias=False).double()
        self.proj_bn = ABN(6, inplace)
        self.convs.bn2.slope = self.proj_bn.slope = None

    def forward(self, x: Tensor) -> Tensor:
        out = self.convs.conv2(self.convs.bn1(self.convs.conv1(x)))
        return F.leaky_relu(self.convs.bn2(out) + self.proj_bn(self.proj_conv(x)), 0.01)


def renamed(key: str) -> str:
    key = key.replace("proj_conv", "downsample.0").replace("proj_bn", "downsample.1")
    return key.removeprefix("convs.")


@pytest.mark.parametrize("eps", [1e-3, 1e-5])
@pytest.mark.parametrize("inplace", [True, False], ids=["InPlaceABN", "ABN"])
def test_abn_weights_compute_the_same(inplace: bool, eps: float) -> None:
    theirs = ABNBlock(inplace)
    ours = fused_nn.BasicBlock(4, 6, 2, norm_layer=lambda c: nn.BatchNorm2d(c, eps=eps)).double()
    state = convert.from_inplace_abn(
        theirs.state_dict(), rename=renamed, inplace=inplace, source_eps=1e-3, eps=eps
    )
    ours.load_state_dict(state, strict=True)
    ours.relu = nn.LeakyReLU(0.01)
    x = images(4)
    assert_close(ours.eval()(x), theirs(x), "output")


def test_with_equal_eps_only_the_gain_changes() -> None:
    state = ABNBlock(True).state_dict()
    converted = convert.from_inplace_abn(state, source_eps=1e-3, eps=1e-3)
    for key, value in state.items():
        norm = key.endswith(("bn1.weight", "bn2.weight", "proj_bn.weight"))
        assert torch.equal(converted[key], value.abs() + 1e-3 if norm else value), key


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda s: s.pop("bn1.bias"), "bn1 lacks bias"),
        (lambda s: s["bn2.running_var"].zero_(), "bn2.running_var \\+ 0 is not positive"),
        (lambda s: s.pop("conv3.weight"), "lacks conv3.weight"),
        (lambda s: s.update({"conv3.weight": torch.zeros(18, 4, 1, 1)}), "18 outside"),
    ],
)
def test_a_state_that_does_not_fit_is_described(spoil: object, words: str) -> None:
    state = ApexBottleneck(8, 4, 16, 2).state_dict()
    spoil(state)  # type: ignore[operator]
    with pytest.raises(ValueError, match=words):
        convert.from_apex_bottleneck(state, stride=2)


def test_every_fault_is_listed_at_once() -> None:
    state = ApexBottleneck(8, 4, 16, 2).state_dict()
    del state["bn1.bias"], state["bn3.running_var"]
    with pytest.raises(ValueError, match=r"bn1 lacks bias; bn3 lacks running_var"):
        convert.from_apex(state)
    state = ApexBottleneck(8, 4, 16, 2).state_dict()
    state["extra"] = state.pop("conv2.weight")
    with pytest.raises(RuntimeError, match=r"(?s)Missing.*conv2\.weight.*Unexpected.*extra"):
        convert.from_apex_bottleneck(state, stride=2)


def test_a_stride_is_asked_for_and_names_stay_distinct() -> None:
    state = ApexBottleneck(8, 4, 16, 2).state_dict()
    with pytest.raises(ValueError, match="stride=None"):
        convert.from_apex_bottleneck(state)
    with pytest.raises(ValueError, match="bn2.weight -> weight"):
        convert.from_inplace_abn(state, rename=lambda key: key.rpartition(".")[2])
