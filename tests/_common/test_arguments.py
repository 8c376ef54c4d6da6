from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from genaug import CounterfactualDataset
from genaug._common.arguments import check_device, check_indices, check_integer, check_number, check_seed, near
from genaug.evaluation import mutual_information
from genaug.training.classifier.digits import fit_classifier


def test_integers_of_numpy_are_integers() -> None:
    assert type(check_integer("seed", np.int64(3))) is int
    assert check_integer("seed", -3) == -3


@pytest.mark.parametrize("value", [True, np.bool_(True), 3.0, np.float64(3), "3", None])
def test_what_is_no_integer_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match=f"seed must be an int, got {type(value).__name__}"):
        check_integer("seed", value)


def test_an_integer_below_the_least_is_a_value_error() -> None:
    assert check_integer("steps", 1, 1) == 1
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        check_integer("steps", 0, 1)


def test_seeds_are_those_that_torch_takes() -> None:
    for seed in (-(2**63), 0, 2**64 - 1):
        torch.Generator().manual_seed(check_seed(seed))
    for seed in (-(2**63) - 1, 2**64):
        with pytest.raises(ValueError, match=f"seed must be at (least|most) .*, got {seed}"):
            check_seed(seed)


@pytest.mark.parametrize("seed", [-(2**63) - 1, 2**64])
def test_functions_that_draw_by_torch_name_the_seed(seed: int) -> None:
    values, classes = torch.rand(4, 1), torch.tensor([0, 0, 1, 1])
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    for call in (
        lambda: fit_classifier(images, classes[:2], seed=seed),
        lambda: mutual_information(values, classes, seed=seed),
        lambda: CounterfactualDataset("cgn-digits", length=2, seed=seed),
    ):
        with pytest.raises(ValueError, match=f"seed must be at (least|most) .*, got {seed}"):
            call()


def test_numbers_are_floats_within_their_range() -> None:
    assert [check_number("bias", value, 1) for value in (0, np.float32(0.5), 1)] == [0.0, 0.5, 1.0]
    with pytest.raises(ValueError, match=re.escape("bias must be in [0, 1], got 1.5")):
        check_number("bias", 1.5, 1)
    for value in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"jitter must be at least 0 and finite, got {value}"):
            check_number("jitter", value)
    for value in (True, "1", None):
        with pytest.raises(TypeError, match=f"bias must be a number, got {value!r}"):
            check_number("bias", value)


def test_a_name_with_the_same_number_is_nearer_than_names_with_as_many_equal_letters() -> None:
    known = [f"car/{number:03}.jpg" for number in range(100)]
    assert near("car/3.jpg", known) == "; did you mean 'car/003.jpg'?"
    assert near("car/0003.jpg", iter(known)) == "; did you mean 'car/003.jpg'?"
    assert near("cat/003.jpg", known).startswith("; did you mean 'car/003.jpg'")
    assert near("car/30.jpg", ["car/3.jpg", "car/300.jpg", "dog"]) == "; did you mean 'car/300.jpg' or 'car/3.jpg'?"


@pytest.mark.parametrize(
    "indices", [[0, 9, -1, -10], np.array([0, 9, -1, -10]), torch.tensor([0, 9, -1, -10], dtype=torch.int8)]
)
def test_negative_indices_count_from_the_end(indices: object) -> None:
    found = check_indices(indices, 10)
    assert found.dtype == torch.int64
    assert found.tolist() == [0, 9, 9, 0]


def test_no_indices_and_all_indices() -> None:
    assert (check_indices([], 10).shape, check_indices([], 10).dtype) == ((0,), torch.int64)
    # bytes do not wrap where there are more samples than they can count
    assert check_indices(torch.arange(256, dtype=torch.uint8), 1000).tolist() == list(range(256))


@pytest.mark.parametrize("index", [10, -11])
def test_an_index_outside_is_an_index_error(index: int) -> None:
    with pytest.raises(IndexError, match=f"index {index} is out of range for 10 samples"):
        check_indices([0, index], 10)


@pytest.mark.parametrize("indices", [[0.0], [True], [1j], [[0, 1]], 3, ["0"], [[0], [1, 2]], None])
def test_what_are_no_indices_is_a_type_error(indices: object) -> None:
    with pytest.raises(TypeError, match="indices must be one-dimensional integers, got"):
        check_indices(indices, 10)


def test_several_indices_for_one_sample_are_named_as_they_came() -> None:
    with pytest.raises(TypeError, match=r"got \[\[0, 1\]\] \(dataset\[i\] takes a single index\)"):
        check_indices([[0, 1]], 10)  # as from dataset[[0, 1]]


@pytest.mark.parametrize(
    ("cuda", "mps", "xpu", "here"),
    [
        (0, False, 0, "cpu, since this machine has no other device"),
        (1, False, 0, "one of cpu, cuda:0"),
        (2, False, 0, "one of cpu, cuda:0, cuda:1"),
        (0, True, 0, "one of cpu, mps:0"),
        (0, False, 2, "one of cpu, xpu:0, xpu:1"),
    ],
)
def test_devices_that_the_machine_has(
    monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, xpu: int, here: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.mps, "device_count", lambda: int(mps))
    monkeypatch.setattr(torch.xpu, "device_count", lambda: xpu)
    counts = {"cuda": cuda, "mps": int(mps), "xpu": xpu}
    for kind, count in counts.items():
        for device in (f"{kind}:{count}", torch.device(kind, count)):
            message = f"device must be {here}, got '{device}'"
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                check_device("device", device)
        if count:
            assert check_device("device", kind) == torch.device(kind)
            assert check_device("device", f"{kind}:{count - 1}").index == count - 1


def test_devices() -> None:
    assert check_device("device", None) == check_device("device", "cpu") == torch.device("cpu")
    for device in ("gpu", "meta", ""):
        with pytest.raises(ValueError, match=f"^device must be .*, got '{device}'$"):
            check_device("device", device)
    with pytest.raises(TypeError, match=r"device must be a string or a torch\.device, got int"):
        check_device("device", 0)
