"""What every test shares: the development data where there are any, fixed seeds, one thread."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

# the tensors here are small: more threads would only wait for each other, long where the machine is busy
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data for development that may lie beside the checkout; a user's machine does not have it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared")
    return folder


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Networks that a test initialises are the same in every run and in every order."""
    torch.manual_seed(0)
