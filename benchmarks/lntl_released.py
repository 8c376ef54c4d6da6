"""Does LNTL help? Its authors' training and Table 2's, each with the method and without it, on colored digits.

"table" is row lntl of CGN's Table 2. "released" is the training of Kim et al.'s released code, whose classifier has the
same layers: SGD, one step for the classifier and one for both networks, a predictor for each channel, and batches of
128. It starts from random weights and has 20 epochs instead of 100 (`--epochs`). Without the method, "table" gives
both terms of the loss a weight of zero, and "released" leaves them out.

    python benchmarks/lntl_released.py --root DIR --seeds 0,1,2

Not for choosing anything, since it looks at test digits: it explains a figure of Table 2. Run it again to resume.
"""

import argparse
import math
import time
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug._common.files import writable_folder
from genaug._common.progress import progress
from genaug._common.records import circumstances, read_runs, spread, write_runs
from genaug.datasets.colored_mnist import load_variant
from genaug.evaluation.measures.accuracy import accuracy, batches
from genaug.generators.images import from_uint8
from genaug.models.mnist_cnn import MnistCNN
from genaug.papers import lntl
from genaug.papers.irm import EPOCHS
from genaug.papers.lntl import ColourPredictor, colour_levels, colour_loss, negative_entropy, reverse_gradient
from genaug.training.classifier.digits import shuffled

# the released options; a tenth of the learning rate after 40% and 80% of the epochs
BATCH, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 128, 0.01, 0.9, 5e-4
KEYS = ("training", "epochs", "method", "seed")


class Predictors(nn.Module):
    """A predictor for each channel. `ColourPredictor` is one for all three."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = nn.ModuleList(ColourPredictor() for _ in range(3))

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([each(features)[:, :, 0] for each in self.channels], dim=2)


def draw_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        fan = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan))


def released(images: Tensor, labels: Tensor, *, seed: int, epochs: int, method: bool) -> nn.Module:
    torch.manual_seed(seed)
    model, predictors = MnistCNN(), Predictors()
    model.apply(draw_weights)
    networks = [network.to(memory_format=torch.channels_last) for network in (model, predictors)]
    optimizers = [
        torch.optim.SGD(network.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY)
        for network in networks
    ]
    drops = [round(0.4 * epochs), round(0.8 * epochs)]
    schedules = [torch.optim.lr_scheduler.MultiStepLR(optimizer, drops) for optimizer in optimizers[: 1 + method]]
    images = images.contiguous(memory_format=torch.channels_last)
    length = -(-len(labels) // BATCH)
    order = shuffled(len(labels), BATCH, epochs, seed=seed, device=torch.device("cpu"))

    def step(loss: Tensor, which: slice) -> None:
        loss.backward()
        for optimizer in optimizers[which]:
            optimizer.step()
        for optimizer in optimizers:
            optimizer.zero_grad()

    for number, batch in enumerate(progress(order, total=epochs * length, description="LNTL", unit="step"), 1):
        pixels = images[batch]
        with torch.autocast("cpu", torch.bfloat16):
            features = model.features(from_uint8(pixels))
            loss = F.cross_entropy(model.classify(features).float(), labels[batch])
            if method:
                predictors.requires_grad_(False)
                loss = loss + lntl.LNTL_ENTROPY * negative_entropy(predictors(features).float())
                predictors.requires_grad_(True)
        step(loss, slice(1))
        if method:
            with torch.autocast("cpu", torch.bfloat16):
                features = model.features(from_uint8(pixels))
                guessed = predictors(reverse_gradient(features, lntl.LNTL_REVERSAL)).float()
            step(colour_loss(guessed, colour_levels(pixels, features.shape[-1])), slice(2))
        if number % length == 0:
            for schedule in schedules:
                schedule.step()
    return model.eval()


def as_in_the_table(images: Tensor, labels: Tensor, *, seed: int, epochs: int, method: bool) -> nn.Module:
    weights = {name: method * getattr(lntl, name) for name in ("LNTL_ENTROPY", "LNTL_REVERSAL")}
    with mock.patch.multiple(lntl, **weights):
        return lntl.fit_lntl(images, labels, seed=seed, epochs=epochs, dtype=torch.bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, help="the folder that holds MNIST/raw")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=20, help="of the released training")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "lntl-released")
    options = parser.parse_args()
    data, test = (load_variant("colored", root=options.root, train=train) for train in (True, False))
    images, labels, held = data.images(), data.targets, (test.images(), test.targets)
    settings = {"variant": "colored", "images": len(data), "dtype": "bfloat16"}
    file = writable_folder(options.out) / "results.json"
    runs = read_runs(file, "this benchmark", settings, KEYS)
    for training, fit, epochs in (("table", as_in_the_table, EPOCHS), ("released", released, options.epochs)):
        for method in (False, True):
            for seed in map(int, options.seeds.split(",")):
                key = training, epochs, method, seed
                if key in runs:
                    continue
                start = time.perf_counter()
                model = fit(images, labels, seed=seed, epochs=epochs, method=method)
                found = {"test": accuracy(model, batches(*held)), **circumstances(start, torch.device("cpu"))}
                runs[key] = found
                print(f"{', '.join(map(str, key))}: test {found['test']:.4f}", flush=True)
                summary = {
                    ", ".join(map(str, row)): spread([run["test"] for key, run in runs.items() if key[:3] == row])
                    for row in sorted({key[:3] for key in runs})
                }
                write_runs(file, "lntl-released", settings, KEYS, runs, sorted(runs), summary=summary)
    print(file)


if __name__ == "__main__":
    main()
