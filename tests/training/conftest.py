"""Small data sets in the formats of the real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnet_cuda.training import ImageData, load_cifar, make_cifar_like


@pytest.fixture(scope="session")
def cifar_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "cifar-10-batches-bin"
    make_cifar_like(folder, train_images=80, test_images=20)
    return folder


@pytest.fixture(scope="session")
def data(cifar_folder: Path) -> ImageData:
    return load_cifar(cifar_folder)
