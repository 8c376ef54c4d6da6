from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from genaug import AssetError, load_generator
from genaug.assets import save_asset
from genaug.assets.layouts import shapes_of
from genaug.generators.biggan import BIGGAN_CONFIGS, BigGANDeep, FastBigGAN
from genaug.generators.cgn_mnist import CGNMnist

TINY = {
    **BIGGAN_CONFIGS[256],
    "output_dim": 16,
    "z_dim": 4,
    "channel_width": 8,
    "num_classes": 5,
    "n_stats": 3,
    "layers": [(True, 16, 8), (False, 8, 8), (True, 8, 4), (False, 4, 2), (False, 2, 1)],
    "attention_layer_position": 1,
}


def test_a_saved_biggan_comes_back_as_its_fast_form(tmp_path: Path) -> None:
    trained = BigGANDeep(TINY).eval().power_iterate()
    path = save_asset(tmp_path / "tiny.safetensors", trained.state_dict(), "biggan-deep", config=json.dumps(TINY))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    loaded = load_generator(path)
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(loaded, FastBigGAN)
    z, labels = torch.randn(3, 4), torch.tensor([0, 4, 2])
    with torch.no_grad():
        assert_close(loaded(z, labels, 0.5), trained(z, labels, 0.5), atol=1e-5, rtol=0)


def test_the_type_asked_for_is_that_of_the_images(tmp_path: Path) -> None:
    trained = BigGANDeep(TINY).eval().power_iterate()
    path = save_asset(tmp_path / "tiny.safetensors", trained.state_dict(), "biggan-deep", config=json.dumps(TINY))
    assert load_generator(path, dtype=torch.bfloat16)(torch.randn(1, 4), torch.tensor([1]), 1.0).dtype == torch.bfloat16
    assert (
        load_generator("cgn-digits", dtype=torch.float64)(torch.randn(1, 36), torch.tensor([1])).dtype == torch.float64
    )


def test_what_makes_no_images_is_no_generator(tmp_path: Path) -> None:
    state = {name: torch.zeros(shape) for name, shape in shapes_of("adain-decoder").items()}
    path = save_asset(tmp_path / "decoder.safetensors", state, "adain-decoder")
    with pytest.raises(
        AssetError, match="is not a generator: its kind is 'adain-decoder', expected biggan-deep or cgn-"
    ):
        load_generator(path)


def test_a_negative_variance_is_refused(tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in CGNMnist().state_dict().items()}
    state["f_shape.5.running_var"][0] = -0.5
    path = save_asset(tmp_path / "broken.safetensors", state, "cgn-mnist")
    with pytest.raises(AssetError, match=r"f_shape\.5\.running_var has negative entries"):
        load_generator(path)
