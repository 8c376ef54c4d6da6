from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.datasets import MNIST

from genaug.datasets.digits import load_digits

Writer = Callable[[Path, torch.Tensor, torch.Tensor], Path]


def file_labels(root: Path, train: bool) -> torch.Tensor:
    return MNIST(root, train=train).targets


@pytest.mark.parametrize("train", [True, False])
def test_official_split_is_the_files_own(mnist: Path, train: bool) -> None:
    digits = load_digits("mnist", mnist, train)
    assert torch.equal(digits.labels, file_labels(mnist, train))
    assert digits.grey.shape == (len(digits.labels), 32, 32)
    assert digits.grey.dtype == torch.uint8
    assert digits.first == 0


def test_other_split_cuts_the_training_file_at_five_sixths(mnist: Path) -> None:
    train, test = (load_digits("mnist", mnist, train, official_split=False) for train in (True, False))
    assert (len(train.labels), len(test.labels)) == (5000, 1000)
    assert (train.first, test.first) == (0, 5000)
    assert torch.equal(torch.cat([train.labels, test.labels]), file_labels(mnist, True))


def test_mnist_is_resized_by_nearest_neighbour_and_ink_begins_above_a_tenth(mnist: Path) -> None:
    digits = load_digits("mnist", mnist, False)
    bands = torch.tensor([0, 25, 26, 255], dtype=torch.uint8).repeat_interleave(8)
    assert torch.equal(digits.grey, bands.expand_as(digits.grey))
    assert (digits.grey[0, 0] > digits.ink).unique_consecutive(return_counts=True)[1].tolist() == [16, 16]


def test_real_mnist_has_the_papers_sizes(shared: Path) -> None:
    root = shared / "data" / "mnist"
    assert [len(load_digits("mnist", root, train).labels) for train in (True, False)] == [60_000, 10_000]
    cut = [load_digits("mnist", root, train, official_split=False) for train in (True, False)]
    assert [(len(d.labels), d.first) for d in cut] == [(50_000, 0), (10_000, 50_000)]


def test_sklearn_digits_are_split_between_writers() -> None:
    from sklearn.datasets import load_digits as scans

    train, test = (load_digits("sklearn", None, train) for train in (True, False))
    assert (len(train.labels), len(test.labels), test.first) == (1287, 510, 1287)
    assert torch.cat([train.labels, test.labels]).tolist() == scans().target.tolist()
    # a writer begins by writing 0 to 9 three times
    assert test.labels[:30].tolist() == [*range(10)] * 3


def test_sklearn_digits_are_the_scans_at_four_times_their_size() -> None:
    from sklearn.datasets import load_digits as scans

    digits = load_digits("sklearn", None, True)
    assert digits.grey.shape == (1287, 32, 32)
    assert (int(digits.grey.min()), int(digits.grey.max())) == (0, 255)
    small = torch.nn.functional.avg_pool2d(digits.grey.float(), 4)
    original = torch.from_numpy(scans().images[:1287]).float() * 255 / 16
    assert torch.corrcoef(torch.stack([small.flatten(), original.flatten()]))[0, 1] > 0.97


def test_sklearn_loads_on_use_only() -> None:
    code = "import sys, genaug.datasets.colored_mnist; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_source_is_refused(mnist: Path) -> None:
    with pytest.raises(ValueError, match=r"digits must be one of 'mnist', 'sklearn', got .mnsit."):
        load_digits("mnsit", mnist, True)


def test_missing_mnist_says_what_to_pass(tmp_path: Path) -> None:
    expected = f"^MNIST not found in {tmp_path}: pass the folder that holds MNIST/raw as root, or download=True$"
    with pytest.raises(ValueError, match=expected) as raised:
        load_digits("mnist", tmp_path, True)
    assert raised.value.__suppress_context__
    with pytest.raises(ValueError, match="pass the folder that holds MNIST/raw as root"):
        load_digits("mnist", None, True)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
@pytest.mark.parametrize("content", [b"", b"\x00\x00\x08", b"no idx file at all", "half"])
def test_damaged_mnist_is_one_clear_error(
    mnist_writer: Writer, tmp_path: Path, name: str, content: bytes | str
) -> None:
    labels = torch.arange(20) % 10
    file = mnist_writer(tmp_path, labels, labels) / "MNIST" / "raw" / name
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(ValueError, match=r"^MNIST in .* cannot be read, .*$") as raised:
        load_digits("mnist", tmp_path, True)
    assert "\n" not in str(raised.value)


def test_labels_beyond_nine_are_refused(mnist_writer: Writer, tmp_path: Path) -> None:
    labels = torch.arange(20)
    with pytest.raises(ValueError, match=r"all in 0\.\.9; it has 20 images and 20 labels, the highest 19"):
        load_digits("mnist", mnist_writer(tmp_path, labels, labels), True)


def test_failed_download_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(self: MNIST) -> None:
        raise RuntimeError("Error downloading file:\nTried here, got: no network\n")

    monkeypatch.setattr(MNIST, "download", download)
    with pytest.raises(RuntimeError, match=r"could not be downloaded to .*: Error .* Tried here, got: no network$"):
        load_digits("mnist", tmp_path, True, download=True)


@pytest.mark.slow
def test_plain_sklearn_digits_of_the_last_writers_can_be_learnt() -> None:
    train, test = (load_digits("sklearn", None, train) for train in (True, False))
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, epochs=12, steps_per_epoch=21)
    for _ in range(12):
        for batch in torch.randperm(len(train.labels)).split(64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(train.grey[batch, None] / 255), train.labels[batch])
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        correct = model.eval()(test.grey[:, None] / 255).argmax(1) == test.labels
    assert correct.float().mean() > 0.95
