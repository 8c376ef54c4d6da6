"""What the recipes' tests share: weights that have learnt nothing, in place of the package's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from genaug.assets import save_asset
from genaug.generators.cgn_mnist import CGNMnist
from genaug.generators.conditional_digits import ConditionalDigits


@pytest.fixture
def untrained(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of untrained weights under the names that recipes ask for, set as GENAUG_ASSETS."""
    folder = tmp_path_factory.mktemp("assets")
    torch.manual_seed(0)
    state = CGNMnist().state_dict()
    for name in ("cgn-colored-mnist", "cgn-double-colored-mnist", "cgn-digits"):
        save_asset(folder / f"{name}.safetensors", state, "cgn-mnist")
    save_asset(folder / "cgan-digits.safetensors", ConditionalDigits().state_dict(), "conditional-digits")
    monkeypatch.setenv("GENAUG_ASSETS", str(folder))
    return folder
