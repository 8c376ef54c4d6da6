"""What every test shares: the development data where there are any, fixed seeds, one thread."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from genaug.assets import save_asset
from genaug.generators.cgn_mnist import CGNMnist
from genaug.generators.digits_vae import ConditionalDigits

# One thread: the tensors here are small, and more threads would only wait for each other. OMP_NUM_THREADS=2 tests two.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data for development that may lie beside the checkout; a user's machine does not have it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared")
    return folder


# no test may download; those of downloads have servers of their own
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test sees or fills the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENAUG_CACHE", str(tmp_path_factory.mktemp("genaug-cache")))
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Networks that a test initialises are the same in every run and in every order."""
    torch.manual_seed(0)


@pytest.fixture
def untrained(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of untrained weights under the names that commands ask for, set as GENAUG_ASSETS."""
    folder = tmp_path_factory.mktemp("assets")
    torch.manual_seed(0)
    state = CGNMnist().state_dict()
    for name in ("cgn-colored-mnist", "cgn-double-colored-mnist", "cgn-digits"):
        save_asset(folder / f"{name}.safetensors", state, "cgn-mnist")
    save_asset(folder / "vae-digits.safetensors", ConditionalDigits().state_dict(), "conditional-digits")
    monkeypatch.setenv("GENAUG_ASSETS", str(folder))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)  # pytest keeps mktemp folders until the session ends, 10 MB for each test
