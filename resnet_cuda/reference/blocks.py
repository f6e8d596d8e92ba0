"""The residual blocks in plain torch: the readable oracle of `resnet_cuda.nn`, and its fallback.

Every class here has torchvision's attribute names and state-dict keys and runs its children one by one.
The fused classes in `resnet_cuda.nn` are subclasses: they own the same children and differ only in how
`forward` computes.

Sources: He et al., "Deep Residual Learning for Image Recognition", 2015 (sec. 3.3: shortcut options A, B, C; sec. 4.1:
bottleneck); the stride sits in the 3x3 convolution ("v1.5") unless `stride_in_1x1=True` asks for the paper's placement.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

NormLayer = Callable[[int], nn.Module]

SHORTCUT_OPTIONS = ("A", "B", "C", "none")


def conv3x3(
    in_channels: int, out_channels: int, stride: int = 1, groups: int = 1, dilation: int = 1
) -> nn.Conv2d:
    """A 3x3 convolution without bias, padded to keep the image size at stride 1."""
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size=3,
        stride=stride,
        padding=dilation,
        dilation=dilation,
        groups=groups,
        bias=False,
    )


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)


class ZeroPadShortcut(nn.Module):
    """Shortcut option A: every `stride`-th pixel, new channels filled with zeros; no parameters.

    x [N, C, H, W] -> [N, out_channels, ceil(H / stride), ceil(W / stride)].
    He et al. 2015, sec. 3.3 (A).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        if out_channels < in_channels:
            raise ValueError(
                f"out_channels={out_channels}: a zero-padded shortcut cannot drop channels, "
                f"expected at least in_channels={in_channels}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.out_channels - x.shape[1]))

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, stride={self.stride}"


class NoShortcut(nn.Module):
    """The shortcut of a plain net's block (He et al. 2015, sec. 3.3): the block adds nothing.

    Our blocks recognise it and leave the addition out. Another package's block adds what this gives, a zero
    without dimensions.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(())


def check_shortcut(option: str) -> None:
    """Raises ValueError for what is not one of `SHORTCUT_OPTIONS`."""
    if option not in SHORTCUT_OPTIONS:
        raise ValueError(f"shortcut={option!r}: expected one of {', '.join(SHORTCUT_OPTIONS)}")


def make_shortcut(
    option: str, in_channels: int, out_channels: int, stride: int, norm_layer: NormLayer
) -> nn.Module | None:
    """The shortcut module of a block, or None for the identity.

    option: "A" zero-padding where the shape changes; "B" projection where the shape changes; "C" projection everywhere;
    "none" no addition at all, a plain net.
    Raises ValueError for any other option.
    """
    check_shortcut(option)
    if option == "none":
        return NoShortcut()
    same_shape = stride == 1 and in_channels == out_channels
    if same_shape and option != "C":
        return None
    if option == "A":
        return ZeroPadShortcut(in_channels, out_channels, stride)
    return nn.Sequential(conv1x1(in_channels, out_channels, stride), norm_layer(out_channels))


def add_shortcut(out: Tensor, downsample: nn.Module | None, x: Tensor) -> Tensor:
    """out + shortcut(x), where the block has a shortcut."""
    if isinstance(downsample, NoShortcut):
        return out
    return out + (x if downsample is None else downsample(x))


class BasicBlock(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)), two 3x3 convolutions.

    x [N, inplanes, H, W] -> [N, planes, ceil(H / stride), ceil(W / stride)].

    Args:
        inplanes: channels of x.
        planes: channels of the output.
        stride: stride of conv1 and of the shortcut.
        downsample: the shortcut module; None leaves the choice to `shortcut`.
        groups, base_width: accepted for drop-in use; only 1 and 64 exist for this block (as in torchvision).
        dilation: dilation of both convolutions.
        norm_layer: makes a normalisation from a channel count; default nn.BatchNorm2d.
        shortcut: "A", "B", "C" or "none", used when `downsample` is None (see `make_shortcut`).
        stride_in_1x1: accepted for a common signature; this block has no 1x1 convolution.

    Raises:
        ValueError: groups, base_width or shortcut outside the accepted values.
    """

    expansion: ClassVar[int] = 1

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: NormLayer | None = None,
        *,
        shortcut: str = "B",
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__()
        if groups != 1 or base_width != 64:
            raise ValueError(
                f"BasicBlock: groups={groups}, base_width={base_width}; "
                "only groups=1 and base_width=64 are accepted"
            )
        norm_layer = norm_layer or nn.BatchNorm2d
        if downsample is None:
            downsample = make_shortcut(shortcut, inplanes, planes, stride, norm_layer)
        self.conv1 = conv3x3(inplanes, planes, stride, dilation=dilation)
        self.bn1 = norm_layer(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(planes, planes, dilation=dilation)
        self.bn2 = norm_layer(planes)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(add_shortcut(out, self.downsample, x))


class Bottleneck(nn.Module):
    """relu(bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x)))))))) + shortcut(x)): 1x1 reduce, 3x3, 1x1 expand.

    x [N, inplanes, H, W] -> [N, 4 * planes, ceil(H / stride), ceil(W / stride)].

    Args:
        inplanes: channels of x.
        planes: the output has `4 * planes` channels; the 3x3 has `int(planes * base_width / 64) * groups`.
        stride: stride of the 3x3 convolution (of the first 1x1 with `stride_in_1x1`) and of the shortcut.
        downsample: the shortcut module; None leaves the choice to `shortcut`.
        groups: groups of the 3x3 convolution (Xie et al. 2017, ResNeXt).
        base_width: width factor (Zagoruyko and Komodakis 2016, wide residual networks).
        dilation: dilation of the 3x3 convolution.
        norm_layer: makes a normalisation from a channel count; default nn.BatchNorm2d.
        shortcut: "A", "B", "C" or "none", used when `downsample` is None (see `make_shortcut`).
        stride_in_1x1: put the stride in the first 1x1 convolution, as He et al. 2015 and apex do.

    Raises:
        ValueError: shortcut outside the accepted values.
    """

    expansion: ClassVar[int] = 4

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: NormLayer | None = None,
        *,
        shortcut: str = "B",
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__()
        norm_layer = norm_layer or nn.BatchNorm2d
        width = int(planes * (base_width / 64.0)) * groups
        outplanes = planes * self.expansion
        if downsample is None:
            downsample = make_shortcut(shortcut, inplanes, outplanes, stride, norm_layer)
        stride1, stride2 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = conv1x1(inplanes, width, stride1)
        self.bn1 = norm_layer(width)
        self.conv2 = conv3x3(width, width, stride2, groups, dilation)
        self.bn2 = norm_layer(width)
        self.conv3 = conv1x1(width, outplanes)
        self.bn3 = norm_layer(outplanes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(add_shortcut(out, self.downsample, x))


class ConvBNReLU(nn.Module):
    """relu(bn(conv(x)) + residual): the plain twin of `resnet_cuda.nn.ConvBNReLU`.

    x [N, in_channels, H, W] -> [N, out_channels, P, Q]; residual has the output's shape or is None.

    Args:
        padding: None pads to keep the image size at stride 1; this needs an odd kernel size.
        relu: False leaves the ReLU out.

    Raises:
        ValueError: padding=None with an even kernel size.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        relu: bool = True,
    ) -> None:
        super().__init__()
        if padding is None:
            if kernel_size % 2 == 0:
                raise ValueError(
                    f"padding=None needs an odd kernel_size, got {kernel_size}; give the padding explicitly"
                )
            padding = dilation * (kernel_size - 1) // 2
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=False,
        )
        self.bn = nn.BatchNorm2d(out_channels, eps=eps, momentum=momentum)
        self.relu = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        out = self.bn(self.conv(x))
        return self.relu(out if residual is None else out + residual)


class BNReLU(nn.Module):
    """relu(bn(x) + residual): the plain twin of `resnet_cuda.nn.BNReLU`. x and residual [N, num_features, H, W]."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(num_features, eps, momentum, affine, track_running_stats)
        self.relu = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        out = self.bn(x)
        return self.relu(out if residual is None else out + residual)


class AddReLU(nn.Module):
    """relu(x + residual): the plain twin of `resnet_cuda.nn.AddReLU`. x and residual have one shape."""

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return F.relu(x + residual)
