"""What a device without float64, such as Apple's "mps", is given: simulated on the CPU, by tests/simulated_device.py.

Not run on hardware. The device stays in a process, so each test has one of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import backend_registration

from genaug.interventions import random_streams

TESTS = Path(__file__).resolve().parent

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no devices that are written in Python",
)

BEGIN = f"""
import sys, tempfile
from pathlib import Path
import torch
from torch import nn
sys.path[:0] = [{str(TESTS / "transforms")!r}, {str(TESTS / "evaluation")!r}, {str(TESTS)!r}]
from banks import write_bank
from contract import Conditional
from simulated_device import NAME, simulate
from genaug import *
folder = Path(tempfile.mkdtemp())
write_bank(folder / "bank", [0, 0, 0, 1, 1, 2, 2])
"""


def run(code: str, folder: Path) -> str:
    """The last line that a program prints."""
    command = [sys.executable, "-c", BEGIN + code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.splitlines()[-1]


def test_datasets_and_directions_without_float64_are_those_of_the_cpu(tmp_path: Path) -> None:
    code = """
def fitted(device, **options):
    return fit_directions(Conditional().to(device), components=4, **options)

def datasets(device):
    bank = lambda **options: PhotographBank(folder / "bank", placement=0.5)
    mnist, where = "cgn-colored-mnist", {"device": device}
    yield CounterfactualDataset(mnist, backgrounds="other", mask_jitter=0.5, targets="all", **where)
    yield CounterfactualDataset(mnist, pool=10, backgrounds="other", refresh=0.5, **where)
    yield CounterfactualDataset(bank(), **where)
    yield CounterfactualDataset(bank(), tie=(), pool=6, **where)
    yield GenerativeInterventionDataset("vae-digits", components=4, **where)
    yield GenerativeInterventionDataset(
        Conditional(), components=4, mode="activation", layer="act",
        directions=fitted(device, layer="act", samples=500), **where)
    yield GenerativeInterventionDataset(
        Conditional(), directions=fitted(device), components=3, scale="released", draws=2,
        recognized_by=lambda x: x.new_zeros(len(x), 10).index_fill(1, torch.tensor([3], device=x.device), 1.0), **where)

def results(device):
    for dataset in datasets(device):
        images = dataset.images(range(12))
        assert images.device.type == device
        assert dataset[3][0].device.type == device
        yield images.cpu(), dataset.descriptions(range(3))

here = list(results("cpu"))
simulate()
row, refused = torch.arange(3.0).to(NAME), 0
for work in (row.double, lambda: torch.ones(3).double().to(NAME), lambda: row + torch.ones(3)):
    try:
        work()
    except TypeError:
        refused += 1
assert refused == 3
there = list(results(NAME))
for (images, described), (others, told) in zip(here, there, strict=True):
    assert (images.int() - others.int()).abs().max() <= 1
    assert described == told
print(len(here))
"""
    assert run(code, tmp_path) == "7"


@pytest.mark.slow
def test_training_transforms_pictures_and_measures_run(tmp_path: Path) -> None:
    code = """
simulate()
import test_global_state
from conftest import random_weights
from torch.utils.data import DataLoader, TensorDataset
from torchvision import tv_tensors
from genaug.assets import save_asset
from genaug.generators.biggan import BIGGAN_CONFIGS, BigGANDeep
from genaug.pictures import interpolations, samples
from genaug.training.classifier.digits import fit_classifier

images = torch.randint(256, (24, 3, 32, 32), dtype=torch.uint8)
labels = torch.arange(24) % 3
away = images.to(NAME)

fit_classifier(images, labels, seed=0, epochs=1, device=NAME)
biggan = BigGANDeep({**BIGGAN_CONFIGS[128], "channel_width": 4, "num_classes": 3}).power_iterate()
for network in (biggan, biggan.fast()):
    print(GenerativeInterventionDataset(network, 10, components=3, truncation=0.51, device=NAME).images([0, 1]).shape)

weights = {kind: save_asset(folder / f"{kind}.safetensors", random_weights(kind), kind)
           for kind in ("vgg19", "adain-encoder", "adain-decoder")}
StyleTransferIntervention(images, method="adain", network=weights["adain-encoder"], decoder=weights["adain-decoder"])(
    away[:2])
StyleTransferIntervention(images, steps=3, network=weights["vgg19"])(away[:2])
BackgroundSwap(PhotographBank(folder / "bank"))(away[:2], tv_tensors.Mask(torch.ones(2, 32, 32, dtype=torch.uint8)))
samples.run("cgn-colored-mnist", folder / "sample.png", device=NAME)
samples.walk("vae-digits", folder / "walk.png", device=NAME)
for name in ("cgn-colored-mnist", folder / "bank"):
    interpolations.interpolate(name, folder / "between.png", device=NAME)

model = MultiHeadResNet("resnet18", num_classes=10, weights=None).to(NAME)
counterfactuals = CounterfactualDataset(
    "cgn-colored-mnist", 32, targets="all", device=NAME, transform=lambda image: image / 127.5 - 1)
real = DataLoader(TensorDataset(images / 127.5 - 1, labels), 8)
for batch, targets in MixedLoader(real, DataLoader(counterfactuals, 8), device=NAME):
    MultiHeadLoss()(model(batch, heads=True), targets).backward()
    break

network = test_global_state.network
test_global_state.network = lambda *classes: network(*classes).to(NAME)
needs = test_global_state.NEEDS
for name, measure in test_global_state.MEASURES.items():
    try:
        __import__(needs.get(name, "sys"))
    except ImportError:
        continue
    (folder / name).mkdir()
    measure(folder / name)
print("done")
"""
    assert run(code, tmp_path) == "done"


def test_numbers_are_drawn_on_the_cpu_wherever_the_indices_are(monkeypatch: pytest.MonkeyPatch) -> None:
    indices = torch.arange(3)
    for name in ("uniform", "uniform_float32", "normal", "truncated_normal", "permutation"):
        assert getattr(random_streams, name)(0, indices, 2, "draw").device.type == "cpu"
    # 0.99999999 rounds to 1 in float32, which would choose one more than there are
    monkeypatch.setattr(random_streams, "uniform", lambda *_: torch.full((1, 1), 1 - 1e-9, dtype=torch.float64))
    assert random_streams.uniform_float32(0, indices, 1, "draw").item() < 1
