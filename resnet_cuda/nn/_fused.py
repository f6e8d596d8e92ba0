"""What every fused module class shares: its plain class, its inference caches, and how it is copied and pickled.

A fused class is a subclass of a plain one. It has the same children and the same state-dict keys and overrides only the
computation; where a child is not what the fused path supports, it runs the plain class's forward.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from resnet_cuda.ops._folding import FoldedConv

_CACHES = "_resnet_cuda_folded"
FORWARD_PLANS = "_resnet_cuda_forward_plans"
_DERIVED = (_CACHES, FORWARD_PLANS)  # attributes that are made again where they are missing


class FusedModule(nn.Module):
    """Mixin placed before the plain class: `class BasicBlock(FusedModule, reference.BasicBlock)`."""

    plain_class: ClassVar[type[nn.Module]]

    @classmethod
    def blocker_of(cls, module: Any) -> str | None:
        """Why `module`, which has the plain class's children, must run them one by one; None where it can run fused."""
        return None

    @classmethod
    def parts_of(cls, module: Any) -> Iterable[nn.Module]:
        """The modules whose work the fused call does."""
        return list(module.children())

    @classmethod
    def note_of(cls, module: Any) -> str:
        """What is fused, for reports."""
        return "one call"

    def blocker(self) -> str | None:
        """Why this module runs its children one by one; None where it runs fused."""
        return self.blocker_of(self)

    def folded(self, name: str) -> FoldedConv | None:
        """The inference cache of the convolution called `name`; None where nothing may be cached."""
        if torch.compiler.is_compiling():
            return None
        caches: dict[str, FoldedConv] = self.__dict__.setdefault(_CACHES, {})
        cache = caches.get(name)
        if cache is None:
            cache = caches[name] = FoldedConv()
        return cache

    def clear_folded(self) -> None:
        """Drop all folded weights. They would be recognised as stale anyway; this also frees their memory."""
        self.__dict__.pop(_CACHES, None)

    def clear_derived(self) -> None:
        """Drop everything that is made again where it is missing."""
        for name in _DERIVED:
            self.__dict__.pop(name, None)

    def train(self, mode: bool = True) -> Any:
        self.clear_folded()
        return super().train(mode)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.clear_folded()
        super()._load_from_state_dict(*args, **kwargs)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self.clear_folded()
        return super()._apply(*args, **kwargs)

    def _replicate_for_data_parallel(self) -> Any:
        replica = super()._replicate_for_data_parallel()
        replica.__dict__.pop(_CACHES, None)
        return replica

    def __getstate__(self) -> dict[str, Any]:
        get = getattr(super(), "__getstate__", None)  # object has it since Python 3.11
        state = self.__dict__ if get is None else get()
        return {key: value for key, value in state.items() if key not in _DERIVED}


class SwappedModule(FusedModule):
    """Mixin of classes made at run time for other packages' modules, which pickle cannot find by name.

    Such an instance is pickled as the names of its plain class and its mixin plus its state.
    """

    _mixin: ClassVar[type[FusedModule]]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _rebuild, (self.plain_class, self._mixin), self.__getstate__()


_swapped_classes: dict[tuple[type[nn.Module], type[FusedModule]], type[SwappedModule]] = {}


def swapped_class(plain: type[nn.Module], mixin: type[FusedModule]) -> type[SwappedModule]:
    """The subclass of `plain`, another package's, that computes as `mixin` does; made once."""
    found = _swapped_classes.get((plain, mixin))
    if found is None:
        body = {
            "plain_class": plain,
            "_mixin": mixin,
            "__module__": __name__,
            "__doc__": plain.__doc__,
        }
        found = type(f"Fused{plain.__name__}", (SwappedModule, mixin, plain), body)
        _swapped_classes[plain, mixin] = found
    return found


def is_swapped(module: nn.Module) -> bool:
    """Whether the module's class is one that `swapped_class` made, not a subclass of it."""
    cls = type(module)
    return issubclass(cls, SwappedModule) and "_mixin" in cls.__dict__


def _rebuild(plain: type[nn.Module], mixin: type[FusedModule]) -> nn.Module:
    """An empty instance of the swapped class, for pickle and deepcopy to fill."""
    cls = swapped_class(plain, mixin)
    module: nn.Module = cls.__new__(cls)
    return module


def is_traced(x: Tensor) -> bool:
    """True under symbolic tracing (torch.fx), which wants to see the children, and torch.onnx.export, which knows no
    other operations than torch's."""
    if type(x) is Tensor and not torch.compiler.is_compiling() and not torch._C._is_tracing():
        return False  # exporters trace or compile; asking them takes microseconds
    if isinstance(x, torch.fx.Proxy):
        return True
    return torch.onnx.is_in_onnx_export()
