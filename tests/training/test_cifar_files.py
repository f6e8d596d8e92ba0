"""Reading CIFAR's batches: right values, and a message for everything that is not a batch."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnet_cuda.training import load_cifar, make_cifar_like
from resnet_cuda.training.cifar import CIFAR10, CIFAR100, CIFAR100_BINARY


@pytest.fixture
def folder(cifar_folder: Path, tmp_path: Path) -> Path:
    """The python version of those images."""
    data = load_cifar(cifar_folder)
    copy = tmp_path / "cifar-10-batches-py"
    copy.mkdir()
    parts = zip(data.train_images.chunk(5), data.train_labels.chunk(5), strict=True)
    for name, (images, labels) in zip(CIFAR10.train, parts, strict=True):
        write(copy / name, {b"data": images.flatten(1).numpy(), b"labels": labels.tolist()})
    test = {b"data": data.test_images.flatten(1).numpy(), b"labels": data.test_labels.tolist()}
    write(copy / CIFAR10.test, test)
    write(copy / CIFAR10.meta, {b"label_names": [name.encode() for name in data.classes]})
    return copy


def write(path: Path, content: object, protocol: int = 2) -> None:
    path.write_bytes(pickle.dumps(content, protocol=protocol))


def batch(images: int = 4, **changes: Any) -> dict[bytes, Any]:
    content = {b"data": np.zeros((images, 3072), np.uint8), b"labels": [0] * images}
    return content | {key.encode(): value for key, value in changes.items()}


def test_images_and_labels_are_those_of_the_files(folder: Path) -> None:
    pixels = np.arange(2 * 3072, dtype=np.uint64).reshape(2, 3072).astype(np.uint8)
    write(folder / "data_batch_1", batch(2, data=pixels, labels=[7, 3]))
    data = load_cifar(folder)
    assert data.train_images.shape == (2 + 4 * 16, 3, 32, 32)
    assert data.train_images.dtype == torch.uint8
    assert data.train_labels[:2].tolist() == [7, 3]
    # A row is the red plane, then the green, then the blue one, each row by row.
    assert data.train_images[1, 2, 5, 6].item() == pixels[1, 2 * 1024 + 5 * 32 + 6]
    assert data.test_images.shape == (20, 3, 32, 32)
    assert data.classes[3] == "class 3"


def test_cifar_100_is_recognised_by_its_files(tmp_path: Path) -> None:
    for name in (*CIFAR100.train, CIFAR100.test):
        write(tmp_path / name, {b"data": np.zeros((3, 3072), np.uint8), b"fine_labels": [99, 0, 1]})
    write(tmp_path / CIFAR100.meta, {b"fine_label_names": [b"%d" % i for i in range(100)]})
    data = load_cifar(tmp_path)
    assert data.train_labels.tolist() == [99, 0, 1] and len(data.classes) == 100


def test_both_versions_hold_the_same(cifar_folder: Path, folder: Path) -> None:
    binary, python = load_cifar(cifar_folder), load_cifar(folder)
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        assert torch.equal(getattr(binary, name), getattr(python, name)), name
    assert binary.classes == python.classes


def test_the_binary_version_of_cifar_100_is_read_by_its_fine_labels(tmp_path: Path) -> None:
    pixels = np.arange(2 * 3072, dtype=np.uint64).reshape(2, 3072).astype(np.uint8)
    records = np.concatenate((np.array([[19, 99], [3, 5]], np.uint8), pixels), axis=1)
    for name in (*CIFAR100_BINARY.train, CIFAR100_BINARY.test):
        (tmp_path / name).write_bytes(records.tobytes())
    (tmp_path / CIFAR100_BINARY.meta).write_text("".join(f"{i}\n" for i in range(100)))
    data = load_cifar(tmp_path)
    assert data.train_labels.tolist() == [99, 5] and len(data.classes) == 100
    assert torch.equal(data.train_images.flatten(1), torch.tensor(pixels))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (bytes(3072), "3072 bytes, expected a multiple of 3073"),
        (b"", "0 bytes"),
        (b"\x0a" + bytes(3072), "label 10, expected integers from 0 to 9"),
    ],
    ids=["cut off", "empty", "label"],
)
def test_a_binary_file_of_another_shape_is_named(tmp_path: Path, raw: bytes, message: str) -> None:
    make_cifar_like(tmp_path, train_images=5, test_images=1)
    (tmp_path / "data_batch_3.bin").write_bytes(raw)
    with pytest.raises(ValueError, match=f"data_batch_3.bin: {message}"):
        load_cifar(tmp_path)


def test_an_array_stored_by_columns_is_read(folder: Path) -> None:
    pixels = np.arange(2 * 3072, dtype=np.uint64).reshape(2, 3072).astype(np.uint8)
    write(folder / "data_batch_1", batch(2, data=np.asfortranarray(pixels)))
    data = load_cifar(folder)
    assert torch.equal(data.train_images[:2].flatten(1), torch.tensor(pixels))


def test_strings_of_python_2_are_read(folder: Path) -> None:
    """The original files, byte by byte of the form in which Python 2 wrote them."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    pixels = bytes(range(256)) * 12
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
        b"(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
        b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T\x00\x0c\x00\x00" + pixels + b"tb"
    )
    names = text(b"batch_label") + text(b"training batch 1 of 5")
    raw = b"\x80\x02}(" + names + text(b"labels") + b"](K\x06e" + text(b"data") + array + b"u."
    assert pickle.loads(raw, encoding="bytes")[b"labels"] == [6], "the test's own bytes are wrong"
    (folder / "data_batch_1").write_bytes(raw)
    data = load_cifar(folder)
    assert data.train_labels[0].item() == 6
    assert bytes(data.train_images[0].flatten().tolist()) == pixels


class Evil:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_batch_that_would_run_code_is_refused(
    folder: Path, tmp_path: Path, protocol: int
) -> None:
    write(folder / "data_batch_2", {b"data": Evil(tmp_path / "made")}, protocol)
    with pytest.raises(ValueError, match="data_batch_2: damaged, or not a batch"):
        load_cifar(folder)
    assert not (tmp_path / "made").exists(), "unpickling a batch ran what it contained"


def test_harmless_classes_that_no_batch_needs_are_refused_too(folder: Path) -> None:
    write(folder / "test_batch", OrderedDict(batch()))
    with pytest.raises(ValueError, match=r"test_batch.*collections\.OrderedDict"):
        load_cifar(folder)


def test_an_archive_of_numpy_1_is_read(folder: Path) -> None:
    raw = pickle.dumps(batch(), protocol=2)
    old = raw.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (folder / "data_batch_5").write_bytes(old)
    assert len(load_cifar(folder).train_images) == 4 * 16 + 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (batch(data=np.zeros((4, 3071), np.uint8)), r"data is uint8 \[4, 3071\].*\[images, 3072\]"),
        (batch(data=np.zeros((4, 3072), np.float32)), r"data is float32 \[4, 3072\]"),
        (batch(data=[1, 2]), r"a list under b'data', expected a ndarray"),
        (batch(labels=[0] * 3), "3 labels for 4 images"),
        (batch(labels=[0, 1, 2, 10]), "label 10, expected integers from 0 to 9"),
        (batch(labels=[0, 1, 2, -1]), "label -1"),
        (batch(labels=[0, 1, 2, "3"]), "label b?'3'"),
        ({b"data": np.zeros((4, 3072), np.uint8)}, "nothing under b'labels'"),
        ([1, 2], "holds a list, expected a dict"),
    ],
)
def test_a_batch_of_another_shape_is_named(folder: Path, content: object, message: str) -> None:
    write(folder / "data_batch_3", content)
    with pytest.raises(ValueError, match=f"data_batch_3: {message}"):
        load_cifar(folder)


@pytest.mark.parametrize("damage", [b"", b"not a pickle", None], ids=["empty", "text", "cut off"])
def test_a_damaged_file_is_named(folder: Path, damage: bytes | None) -> None:
    path = folder / "data_batch_4"
    path.write_bytes(path.read_bytes()[:-1000] if damage is None else damage)
    with pytest.raises(ValueError, match="data_batch_4: damaged"):
        load_cifar(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "data_batch_3").unlink()
    with pytest.raises(
        ValueError, match="data_batch_3 missing; expected the python version of CIFAR-10"
    ):
        load_cifar(folder)


def test_a_folder_that_is_not_cifar_is_told_what_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not a folder of CIFAR.*batches\.meta"):
        load_cifar(tmp_path)
    with pytest.raises(ValueError, match="not a folder"):
        load_cifar(tmp_path / "nowhere")


def test_generated_batches_need_equal_parts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train_images=12"):
        make_cifar_like(tmp_path, train_images=12)
