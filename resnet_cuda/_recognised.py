"""The classes that are fused as a whole: other packages' by name, and this package's own."""

from __future__ import annotations

from torch import nn

from resnet_cuda.models import PreActResNet, PreActResNetFeatures, ResNet, ResNetFeatures
from resnet_cuda.models._fused_resnet import FusedResNet, FusedTimmResNet
from resnet_cuda.models._fused_rows import FusedLayerGetter, FusedTimmFeatures
from resnet_cuda.nn import (
    AddReLU,
    BasicBlock,
    BNReLU,
    Bottleneck,
    ConvBNReLU,
    FusedStage,
    PreActBasicBlock,
    PreActBottleneck,
    WideBasicBlock,
)
from resnet_cuda.nn._fused import FusedModule, is_swapped, swapped_class
from resnet_cuda.nn._fused_block import (
    TIMM_BASIC,
    TIMM_BOTTLENECK,
    TORCHVISION_BASIC,
    TORCHVISION_BOTTLENECK,
    FusedBlock,
)


class TorchvisionBasicBlock(FusedBlock):
    """Mixin for torchvision.models.resnet.BasicBlock."""

    layout = TORCHVISION_BASIC


class TorchvisionBottleneck(FusedBlock):
    """Mixin for torchvision.models.resnet.Bottleneck."""

    layout = TORCHVISION_BOTTLENECK


class TimmBasicBlock(FusedBlock):
    """Mixin for timm.models.resnet.BasicBlock."""

    layout = TIMM_BASIC


class TimmBottleneck(FusedBlock):
    """Mixin for timm.models.resnet.Bottleneck."""

    layout = TIMM_BOTTLENECK


# Other packages' classes by module and name: neither package is imported here.
_FOREIGN: dict[tuple[str, str], type[FusedModule]] = {
    ("torchvision.models.resnet", "BasicBlock"): TorchvisionBasicBlock,
    ("torchvision.models.resnet", "Bottleneck"): TorchvisionBottleneck,
    ("torchvision.models.resnet", "ResNet"): FusedResNet,
    ("torchvision.models._utils", "IntermediateLayerGetter"): FusedLayerGetter,
    ("timm.models.resnet", "BasicBlock"): TimmBasicBlock,
    ("timm.models.resnet", "Bottleneck"): TimmBottleneck,
    ("timm.models.resnet", "ResNet"): FusedTimmResNet,
    ("timm.models._features", "FeatureListNet"): FusedTimmFeatures,
    ("timm.models._features", "FeatureDictNet"): FusedTimmFeatures,
}

_OWN: dict[type[nn.Module], type[FusedModule]] = {
    cls.plain_class: cls
    for cls in (
        *(AddReLU, BNReLU, BasicBlock, Bottleneck, ConvBNReLU, FusedStage),
        *(PreActBasicBlock, PreActBottleneck, WideBasicBlock),
        *(ResNet, ResNetFeatures, PreActResNet, PreActResNetFeatures),
    )
}


def fused_class_of(plain: type[nn.Module]) -> type[FusedModule] | None:
    """The fused subclass for exactly this class, or None where there is none."""
    mixin = _FOREIGN.get((plain.__module__, plain.__qualname__))
    return _OWN.get(plain) if mixin is None else swapped_class(plain, mixin)


def is_fused(module: nn.Module) -> bool:
    """Whether `fuse` could have given the module its class, which `unfuse` takes back; not so of a user's subclass."""
    return is_swapped(module) or type(module) in _OWN.values()


def plain_class_of(module: nn.Module) -> type[nn.Module]:
    """The class that the module has where it is not fused."""
    if isinstance(module, FusedModule) and is_fused(module):
        return module.plain_class
    return type(module)
