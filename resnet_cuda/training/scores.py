"""Classification by several views of each image and several networks: He et al. 2015, sec. 3.4 and tables 3 to 5."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from resnet_cuda.training.image_folder import ImageFiles, read
from resnet_cuda.training.views import Views


class Errors(NamedTuple):
    """Fractions of images whose class is not the first, or not among the first five."""

    top1: float
    top5: float


def probabilities(models: Sequence[nn.Module], views: Iterable[Tensor]) -> Tensor:
    """float32 [classes]: the mean of all networks' softmax over all views, each [3, H, W].

    Views of one shape run as one batch.
    """
    by_shape: dict[torch.Size, list[Tensor]] = {}
    for view in views:
        by_shape.setdefault(view.shape, []).append(view)
    scores = []
    with torch.no_grad():
        for group in by_shape.values():
            x = torch.stack(group).contiguous(memory_format=torch.channels_last)
            scores += [model(x).float().softmax(1) for model in models]
    return torch.cat(scores).mean(0)


def classification_errors(
    models: Sequence[nn.Module],
    files: ImageFiles,
    views: Views,
    device: torch.device,
    on_image: Callable[[str], None] = lambda note: None,
) -> Errors:
    """Top-1 and top-5 errors of an ensemble of networks in eval mode (of one: of that network).

    Raises:
        RuntimeError: an image cannot be read.
    """
    for model in models:
        model.eval()
    wrong = torch.zeros(2)
    for count, (label, inputs) in enumerate(_inputs(files, views), 1):
        scores = probabilities(models, [view.to(device) for view in inputs]).cpu()
        # Not "greater": a score that is not a number is no right answer.
        better = (~(scores <= scores[label])).sum()
        wrong += torch.stack([better >= 1, better >= 5])
        on_image(f"top-1 error {wrong[0] / count:.2%}")
    top1, top5 = (wrong / len(files.paths)).tolist()
    return Errors(top1, top5)


def _inputs(files: ImageFiles, views: Views) -> Iterator[tuple[int, list[Tensor]]]:
    for path, label in zip(files.paths, files.labels, strict=True):
        yield label, read(path, views)
