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
        return {key: value for key, value in state.items() if key != _CACHES}


class SwappedModule(FusedModule):
    """Mixin of classes made at run time for other packages' modules, which pickle cannot find by name.

    Such an instance is pickled as its plain class's name plus its state.
    """

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _rebuild, (self.plain_class,), self.__getstate__()


_swapped_classes: dict[type[nn.Module], type[FusedModule]] = {}


def swapped_class(plain: type[nn.Module], mixin: type[FusedModule]) -> type[FusedModule]:
    """The fused subclass of another package's class; made once per class, so `type(a) is type(b)` holds."""
    found = _swapped_classes.get(plain)
    if found is None:
        body = {"plain_class": plain, "__module__": __name__, "__doc__": plain.__doc__}
        found = type(f"Fused{plain.__name__}", (SwappedModule, mixin, plain), body)
        _swapped_classes[plain] = found
    return found


def _rebuild(plain: type[nn.Module]) -> nn.Module:
    """An empty instance of the fused class of `plain`, for pickle and deepcopy to fill."""
    from resnet_cuda.fuse import fused_class_of

    cls = fused_class_of(plain)
    if cls is None:
        raise RuntimeError(
            f"cannot restore a fused {plain.__module__}.{plain.__qualname__}: "
            "this version of resnet_cuda does not fuse that class"
        )
    module: nn.Module = cls.__new__(cls)
    return module


def is_traced(x: Tensor) -> bool:
    """True under symbolic tracing (torch.fx), which wants to see the children."""
    return type(x) is not Tensor and isinstance(x, torch.fx.Proxy)
