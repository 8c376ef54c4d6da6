from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from genaug import CounterfactualDataset
from genaug._common import precision
from genaug.cli.options import Dtype
from genaug.training.classifier.digits import fit_classifier

IMAGES, LABELS = torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.arange(4)


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], object]]:
    """Set the instructions that the CPU says it has."""
    monkeypatch.setattr(precision, "CPU_FLAGS", tmp_path / "cpuinfo")
    yield lambda flags: precision.CPU_FLAGS.write_text(f"flags : {flags}")
    precision._warn.cache_clear()


@pytest.mark.parametrize(
    "use",
    [
        lambda: CounterfactualDataset("cgn-double-colored-mnist", dtype=torch.bfloat16),
        lambda: fit_classifier(IMAGES, LABELS, seed=0, steps=1, dtype=torch.bfloat16),
    ],
    ids=["dataset", "training"],
)
def test_bfloat16_on_a_slow_cpu_is_said_once(use: Callable[[], object], has: Callable[[str], object]) -> None:
    precision._warn.cache_clear()
    has("avx2")
    with pytest.warns(UserWarning, match="no instructions for dtype=torch.bfloat16"):
        use()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        use()
        precision._warn.cache_clear()
        has("avx2 avx512_bf16")
        use()


def test_float32_and_other_devices_are_left_alone(has: Callable[[str], object]) -> None:
    has("avx2")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dtype in (None, torch.float32):
            with precision.autocast(torch.device("cpu"), dtype):
                assert torch.ones(2, 2).mm(torch.ones(2, 2)).dtype == torch.float32
        precision.warn_of_slow_type(torch.device("cuda"), torch.bfloat16)


def test_recipes_choose_the_type_for_which_the_cpu_has_instructions(
    has: Callable[[str], object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    has("avx2 avx512f")
    assert Dtype.auto.of_torch("cpu") == torch.float32
    has("avx2 avx512_bf16")
    assert Dtype.auto.of_torch("cpu") == torch.bfloat16
    assert Dtype.float32.of_torch("cpu") == torch.float32
    monkeypatch.setattr(precision, "CPU_FLAGS", tmp_path / "absent")  # as on macOS and Windows
    assert Dtype.auto.of_torch("cpu") == torch.float32


@pytest.mark.parametrize(("capability", "dtype"), [((8, 0), torch.bfloat16), ((7, 5), torch.float32)])
def test_a_gpu_that_emulates_bfloat16_gets_float32(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert precision.fast_type(torch.device("cuda", 0)) == dtype
