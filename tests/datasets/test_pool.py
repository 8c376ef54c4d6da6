"""A pool makes what is missing, and nothing else; what does not fit is said before it is tried."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genaug.datasets import pool
from genaug.datasets.pool import CHANNELS, Pool, blend_uint8, check_fits

CPU = torch.device("cpu")


class Maker:
    """Makes an entry whose mask, texture and background are flat, each at a grey level that its number tells."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def __call__(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.calls.append(numbers.tolist())
        flat = numbers[:, None, None, None].float().expand(-1, 3, 2, 2)
        return flat[:, :1] / 255, (flat + 50) / 127.5 - 1, (flat + 100) / 127.5 - 1


def levels(parts: tuple[Tensor, Tensor, Tensor] | None) -> list[list[int]]:
    assert parts is not None
    assert [(tuple(part.shape[1:]), part.dtype) for part in parts] == [
        ((channels, 2, 2), torch.uint8) for channels in (1, 3, 3)
    ]
    assert all((part == part[:, :1, :1, :1]).all() for part in parts)
    return [part[:, 0, 0, 0].tolist() for part in parts]


def test_parts_are_those_of_the_entries_and_are_made_once() -> None:
    make = Maker()
    held = Pool(5, 2, CPU, make, most=2)
    numbers = torch.tensor([1, 7]), torch.tensor([7, 9]), torch.tensor([3, 1])
    assert levels(held.parts(*numbers)) == [[1, 7], [57, 59], [103, 101]]
    assert make.calls == [[1, 3], [7, 9]]  # two at a time
    assert levels(held.parts(*numbers)) == [[1, 7], [57, 59], [103, 101]]
    assert make.calls == [[1, 3], [7, 9]]


def test_an_entry_takes_the_place_of_the_one_with_its_number_modulo_the_size() -> None:
    make = Maker()
    held = Pool(5, 2, CPU, make, most=9)
    one, six, two = (torch.tensor([number]) for number in (1, 6, 2))
    held.parts(one, two, two)
    assert levels(held.parts(six, two, two)) == [[6], [52], [102]]
    assert levels(held.parts(one, two, two)) == [[1], [52], [102]]
    assert make.calls == [[1, 2], [6], [1]]


def test_entries_of_one_place_are_refused_and_entries_that_are_there_are_not() -> None:
    make = Maker()
    held = Pool(5, 2, CPU, make, most=9)
    zero, five = torch.tensor([0]), torch.tensor([5])
    assert held.parts(zero, five, zero) is None
    assert make.calls == []
    assert levels(held.parts(zero, zero, zero)) == [[0], [50], [100]]


def test_an_entry_that_was_not_finished_is_made_again() -> None:
    make = Maker()
    held = Pool(5, 2, CPU, make, most=9)
    one, six = torch.tensor([1]), torch.tensor([6])
    held.parts(one, one, one)

    def broken(images: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "to_uint8", broken)
        with pytest.raises(KeyboardInterrupt):
            held.parts(six, six, six)
    assert levels(held.parts(one, one, one)) == [[1], [51], [101]]
    assert make.calls == [[1], [6], [1]]


def test_masks_are_rounded_to_the_nearest_of_256_levels() -> None:
    def make(numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mask = torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 1.0]).view(1, 1, 2, 2).expand(len(numbers), -1, -1, -1)
        return mask.double(), torch.ones(len(numbers), 3, 2, 2), -torch.ones(len(numbers), 3, 2, 2)

    one = torch.tensor([0])
    parts = Pool(1, 2, CPU, make, most=1).parts(one, one, one)
    assert parts is not None
    assert parts[0].flatten().tolist() == [0, 0, 1, 255]
    assert (parts[1].unique().tolist(), parts[2].unique().tolist()) == ([255], [0])


def test_blending_pixels_is_rounded_arithmetic() -> None:
    draw = torch.Generator().manual_seed(0)
    mask, texture, background = (torch.randint(256, (9, c, 4, 4), generator=draw).byte() for c in (1, 3, 3))
    mask[0], mask[1] = 0, 255
    exact = (mask.double() * texture.double() + (255 - mask.double()) * background.double()) / 255
    blended = blend_uint8(mask, texture, background)
    assert blended.dtype == torch.uint8
    assert (blended.double() - exact).abs().max() <= 0.5 + 1e-4
    assert torch.equal(blended[0], background[0])
    assert torch.equal(blended[1], texture[1])


def test_a_pool_takes_seven_bytes_a_pixel_and_may_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CHANNELS == 7
    monkeypatch.setattr(pool, "_free", lambda device: 3 * 7 * 16 * 16)
    check_fits(3, 16, CPU)
    with pytest.raises(
        ValueError,
        match=r"4 entries of 1792 bytes each .* of 16 x 16 pixels\) are 0\.0 GB, of 0\.0 GB .*: 3 entries at most",
    ):
        check_fits(4, 16, CPU)
    monkeypatch.setattr(pool, "_free", lambda device: 10**9)
    with pytest.raises(ValueError, match=r"are 1\.4 GB, of 1\.0 GB that are free: 139508 entries at most"):
        check_fits(195_313, 32, CPU)
    monkeypatch.setattr(pool, "_free", lambda device: None)  # the system does not tell
    check_fits(10**9, 256, CPU)


def test_free_memory_of_a_gpu_is_the_drivers_and_what_torch_keeps_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("memory_reserved", 50), ("memory_allocated", 20), ("mem_get_info", (1000, 8000))):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert pool._free(torch.device("cuda")) == 1030


def test_free_memory_of_a_cpu_is_what_the_kernel_calls_available(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "MemTotal:       24000000 kB\nMemFree:         1000000 kB\nMemAvailable:    2000000 kB\n"
    monkeypatch.setattr(pool.Path, "read_text", lambda path: text)
    assert pool._free(CPU) == 2_000_000 * 1024

    def missing(path: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(pool.Path, "read_text", missing)
    assert pool._free(CPU) is None
