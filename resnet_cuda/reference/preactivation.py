"""The pre-activation blocks in plain torch: the readable oracle of `resnet_cuda.nn`, and its fallback.

Batch norm and ReLU come before every convolution, and nothing after the addition, so that the identity runs through the
whole network. A projection is a convolution alone, and reads what the first ReLU lets through (as in the papers'
networks); the identity and option A read the block's input.

Sources: He et al., "Identity Mappings in Deep Residual Networks", 2016 (arXiv 1603.05027, fig. 4e and appendix);
Zagoruyko and Komodakis, "Wide Residual Networks", 2016 (arXiv 1605.07146, sec. 2: fig. 1c, d).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from resnet_cuda.reference.blocks import (
    NormLayer,
    NoShortcut,
    ZeroPadShortcut,
    add_shortcut,
    check_shortcut,
    conv1x1,
    conv3x3,
)


def make_preactivated_shortcut(
    option: str, in_channels: int, out_channels: int, stride: int
) -> nn.Module | None:
    """The shortcut module of a pre-activation block, or None for the identity.

    option: "A" zero-padding where the shape changes; "B" a 1x1 convolution where the shape changes; "C" one everywhere;
    "none" no addition at all, a plain net.
    Raises ValueError for any other option.
    """
    check_shortcut(option)
    if option == "none":
        return NoShortcut()
    if stride == 1 and in_channels == out_channels and option != "C":
        return None
    if option == "A":
        return ZeroPadShortcut(in_channels, out_channels, stride)
    return conv1x1(in_channels, out_channels, stride)


def _add_shortcut(
    out: Tensor, downsample: nn.Module | None, x: Tensor, activated: Tensor
) -> Tensor:
    reads_x = downsample is None or isinstance(downsample, ZeroPadShortcut)
    return add_shortcut(out, downsample, x if reads_x else activated)


class PreActBasicBlock(nn.Module):
    """conv2(relu(bn2(conv1(a)))) + shortcut, a = relu(bn1(x)): two 3x3 convolutions.

    x [N, inplanes, H, W] -> [N, planes, ceil(H / stride), ceil(W / stride)].

    Args:
        inplanes: channels of x.
        planes: channels of the output.
        stride: stride of conv1 and of the shortcut.
        downsample: the shortcut module, which reads a (a ZeroPadShortcut: x); None leaves the choice to `shortcut`.
        dilation: dilation of both convolutions.
        norm_layer: makes a normalisation from a channel count; default nn.BatchNorm2d.
        shortcut: "A", "B", "C" or "none", used when `downsample` is None (see `make_preactivated_shortcut`).

    Raises:
        ValueError: shortcut outside the accepted values.
    """

    expansion: ClassVar[int] = 1

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        dilation: int = 1,
        norm_layer: NormLayer | None = None,
        *,
        shortcut: str = "B",
    ) -> None:
        super().__init__()
        norm_layer = norm_layer or nn.BatchNorm2d
        if downsample is None:
            downsample = make_preactivated_shortcut(shortcut, inplanes, planes, stride)
        self.bn1 = norm_layer(inplanes)
        self.conv1 = conv3x3(inplanes, planes, stride, dilation=dilation)
        self.bn2 = norm_layer(planes)
        self.conv2 = conv3x3(planes, planes, dilation=dilation)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu(self.bn1(x))
        out = self.relu(self.bn2(self.conv1(activated)))
        return _add_shortcut(self.conv2(out), self.downsample, x, activated)


class PreActBottleneck(nn.Module):
    """conv3(relu(bn3(conv2(relu(bn2(conv1(a))))))) + shortcut, a = relu(bn1(x)): 1x1 reduce, 3x3, 1x1 expand.

    x [N, inplanes, H, W] -> [N, 4 * planes, ceil(H / stride), ceil(W / stride)].

    Args:
        inplanes: channels of x.
        planes: channels of the 3x3; the output has `4 * planes`.
        stride: stride of the 3x3 convolution and of the shortcut.
        downsample, dilation, norm_layer, shortcut: as in `PreActBasicBlock`; dilation is the 3x3's.
        groups: groups of the 3x3 convolution.

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
        dilation: int = 1,
        norm_layer: NormLayer | None = None,
        *,
        shortcut: str = "B",
    ) -> None:
        super().__init__()
        norm_layer = norm_layer or nn.BatchNorm2d
        outplanes = planes * self.expansion
        if downsample is None:
            downsample = make_preactivated_shortcut(shortcut, inplanes, outplanes, stride)
        self.bn1 = norm_layer(inplanes)
        self.conv1 = conv1x1(inplanes, planes)
        self.bn2 = norm_layer(planes)
        self.conv2 = conv3x3(planes, planes, stride, groups, dilation)
        self.bn3 = norm_layer(planes)
        self.conv3 = conv1x1(planes, outplanes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu(self.bn1(x))
        out = self.relu(self.bn2(self.conv1(activated)))
        out = self.relu(self.bn3(self.conv2(out)))
        return _add_shortcut(self.conv3(out), self.downsample, x, activated)


class WideBasicBlock(PreActBasicBlock):
    """conv2(dropout(relu(bn2(conv1(a))))) + shortcut, a = relu(bn1(x)): the block of wide residual networks.

    x [N, inplanes, H, W] -> [N, planes, ceil(H / stride), ceil(W / stride)].

    Args:
        inplanes, planes, stride: as in `PreActBasicBlock`; `planes` is the widened number of channels.
        dropout: the probability with which an element between the convolutions is dropped in training (sec. 2.4).
        downsample, dilation, norm_layer, shortcut: as in `PreActBasicBlock`.

    Raises:
        ValueError: dropout outside 0 to 1, shortcut outside the accepted values.
    """

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        dropout: float = 0.0,
        downsample: nn.Module | None = None,
        dilation: int = 1,
        norm_layer: NormLayer | None = None,
        *,
        shortcut: str = "B",
    ) -> None:
        super().__init__(
            inplanes, planes, stride, downsample, dilation, norm_layer, shortcut=shortcut
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu(self.bn1(x))
        out = self.dropout(self.relu(self.bn2(self.conv1(activated))))
        return _add_shortcut(self.conv2(out), self.downsample, x, activated)
