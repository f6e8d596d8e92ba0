"""Several networks, the same data, recipe and seeds: what most of the papers' experiments are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from resnet_cuda.training.batches import Augmentation, ImagesInMemory
from resnet_cuda.training.data import ImageData
from resnet_cuda.training.progress import progress_bar
from resnet_cuda.training.recipe import Recipe
from resnet_cuda.training.records import environment, write_csv, write_json
from resnet_cuda.training.trainer import Row, Trainer


class Setting(NamedTuple):
    """What all networks of a comparison have in common."""

    data: ImageData
    recipe: Recipe
    device: torch.device
    augment: Augmentation | None = None
    amp: str = "none"


# By network: the log of each seed, in the seeds' order.
Logs = dict[str, list[list[Row]]]


def compare(
    networks: Mapping[str, Callable[[], nn.Module]],
    setting: Setting,
    seeds: Sequence[int],
    out: Path,
    *,
    resume: bool = False,
    on_trained: Callable[[str, int, Trainer], None] = lambda name, seed, trainer: None,
) -> Logs:
    """Trains every network with every seed; the seed gives the weights and the batches.

    Args:
        networks: by name, what makes the network.
        setting: data, recipe, device.
        seeds: one run of every network for each.
        out: folder for a checkpoint of each run and for log.csv, which has the rows of all.
        resume: go on from the checkpoints that are there; runs that are finished are not repeated.
        on_trained: is given each network when it is trained.

    Raises:
        ValueError: `out` holds checkpoints and `resume` is false, or they are of other runs.
        DivergedError: a loss became infinite or not a number.
    """
    paths = {
        (name, seed): out / f"{name.replace(' ', '-')}-seed{seed}.pt"
        for seed in seeds
        for name in networks
    }
    for path in paths.values():
        refuse_to_overwrite(path, resume)
    for make in networks.values():
        with torch.device("meta"):
            make()  # one that cannot be made is known before the first is trained
    logs: Logs = {name: [] for name in networks}
    with progress_bar("training", len(paths) * setting.recipe.iterations) as advance:
        for (name, seed), path in paths.items():
            trainer = new_trainer(name, networks[name], setting, seed)
            if path.exists():
                trainer.resume(path)
                for _ in range(trainer.iteration):
                    advance(name)
            trainer.run(checkpoint=path, on_step=partial(_announce, advance, f"{name}, "))
            logs[name].append(trainer.log)
            write_csv(out / "log.csv", rows_of(logs, seeds))
            on_trained(name, seed, trainer)
    return logs


def new_trainer(name: str, make: Callable[[], nn.Module], setting: Setting, seed: int) -> Trainer:
    """A trainer of the network that `make` makes; the seed gives the weights and the batches."""
    torch.manual_seed(seed)
    recipe, device = setting.recipe, setting.device
    source = ImagesInMemory(
        setting.data, recipe.batch, device=device, augment=setting.augment, seed=seed
    )
    return Trainer(make(), source, recipe, device=device, name=name, amp=setting.amp)


def refuse_to_overwrite(checkpoint: Path, resume: bool) -> None:
    """Raises ValueError where a run would begin anew over another one's checkpoint."""
    if checkpoint.exists() and not resume:
        raise ValueError(
            f"out={str(checkpoint.parent)!r}: holds {checkpoint.name}; --resume goes on with it, or "
            "name another folder"
        )


def last_epochs(logs: Logs) -> dict[str, dict[str, Any]]:
    """By network: mean errors and loss of the last epoch, seconds of the run, and the training loss of every seed."""
    results = {}
    for name, of_seeds in logs.items():
        last = mean_log([log[-1:] for log in of_seeds])[0]
        results[name] = {
            **{key: last[key] for key in ("train_loss", "train_error", "test_error")},
            "seconds": sum(row["seconds"] for log in of_seeds for row in log) / len(of_seeds),
            "train_losses": [log[-1]["train_loss"] for log in of_seeds],
        }
    return results


def report(
    out: Path,
    setting: Setting,
    seeds: Sequence[int],
    results: Mapping[str, Mapping[str, Any]],
    **more: Any,
) -> None:
    """Writes summary.json, `more` with it, and prints the results."""
    summary = {
        **more,
        "seeds": list(seeds),
        "recipe": asdict(setting.recipe),
        "last_epoch": results,
        "environment": environment(setting.device),
    }
    write_json(out / "summary.json", summary)
    print_results(results)


def print_results(results: Mapping[str, Mapping[str, Any]]) -> None:
    """`last_epochs` as a table."""
    print(f"\n{'':24}{'training loss':>16}{'training error':>16}{'test error':>12}")
    for name, row in results.items():
        errors = f"{row['train_error']:16.2%}{row['test_error']:12.2%}"
        print(f"{name:24}{row['train_loss']:16.4f}{errors}")


def rows_of(logs: Logs, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """The logs as one table, with the network and the seed in front."""
    return [
        {"network": name, "seed": seed, **row}
        for name, of_seeds in logs.items()
        for seed, log in zip(seeds, of_seeds, strict=False)
        for row in log
    ]


def mean_log(logs: Sequence[Sequence[Row]]) -> list[Row]:
    """Epoch by epoch the mean over the seeds."""
    return [
        {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
        for rows in zip(*logs, strict=True)
    ]


def _announce(advance: Callable[[str], None], prefix: str, note: str) -> None:
    advance(prefix + note)
