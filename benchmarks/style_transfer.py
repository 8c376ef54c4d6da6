"""Style transfer, images a second: ours against the way of GenInt's released script, in one run.

The released way is one `torch.optim.LBFGS` over the whole batch, ten evaluations a call, through a Sequential of the
layers up to conv_5 with a loss module behind each convolution; the weights are as torchvision hands them out, so that
their gradients are computed, too. Ours is `gatys` with each image on its own. Both make the same number of evaluations
on the same network. Weights are random: speed does not depend on them. The ways take turns, in random order; figures
are medians over the rounds.

    python benchmarks/style_transfer.py --threads 1 --rounds 3 --clock process    # CPU: ten minutes a round on one core
    python benchmarks/style_transfer.py --threads 1 --rounds 3 --clock process --ablate --batch 2 --steps 10
    python benchmarks/style_transfer.py --device cuda --rounds 10    # and AdaIN in bfloat16

On a shared CPU, `--clock process` counts the processor's time of this process alone.

Writes benchmarks/results/style-transfer[-ablation]-SIZE-batchN-stepsN-DEVICE-torchVERSION.csv.
Without a GPU its rows are "not run".
"""

import argparse
import csv
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug._common.files import atomic_path
from genaug._common.imagenet import IMAGENET_MEAN, IMAGENET_STD
from genaug._common.records import processor
from genaug.transforms import style_transfer
from genaug.transforms.style_transfer import adain, gatys, gram, style_grams
from genaug.transforms.vgg import WIDTHS, Encoder, decoder

RELEASED = "gatys, released"
ADAIN_BATCHES = (1, 32, 64, 128, 256)


class Loss(nn.Module):
    """Passes its input on, and keeps how far what it measures of it is from a target."""

    def __init__(self, measure: Callable[[Tensor], Tensor], target: Tensor) -> None:
        super().__init__()
        self.measure = measure
        self.target = measure(target).detach()

    def forward(self, x: Tensor) -> Tensor:
        self.loss = F.mse_loss(self.measure(x), self.target)
        return x


class Normalise(nn.Module):
    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.mean, self.deviation = (
            torch.tensor(x, device=device).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD)
        )

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation


def gram_of_each(x: Tensor) -> Tensor:
    features = x.flatten(2)
    return torch.bmm(features, features.transpose(1, 2)) / features[0].numel()


def gram_of_batch(x: Tensor) -> Tensor:
    """Every channel of every image with every other; what the released file has commented out."""
    features = x.flatten(0, 1).flatten(1)
    return torch.mm(features, features.t()) / features.numel()


def as_released(
    network: Encoder,
    contents: Tensor,
    styles: Tensor,
    steps: int,
    *,
    frozen: bool = False,
    measure: Callable[[Tensor], Tensor] = gram_of_each,
) -> Tensor:
    """The released way; `frozen` without the gradients of weights, which nothing uses."""
    model, losses, weights = nn.Sequential(Normalise(contents.device)), [], []
    for i, ours in enumerate(network.convolutions, start=1):
        layer = nn.Conv2d(ours.in_channels, ours.out_channels, 3, padding=1, device=contents.device)
        layer.load_state_dict(ours.state_dict())
        model.append(layer.requires_grad_(not frozen))
        with torch.no_grad():
            if i == style_transfer.CONTENT_LAYER:
                losses.append(Loss(nn.Identity(), model(contents)))
                weights.append(0.1)
                model.append(losses[-1])
            losses.append(Loss(measure, model(styles)))
            weights.append(1e6)
        model.append(losses[-1])
        if i < len(network.convolutions):
            model.append(nn.ReLU())
            if i in (2, 4):
                model.append(nn.MaxPool2d(2))
    images = contents.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([images], lr=1, max_iter=10)
    evaluations = 0

    def closure() -> Tensor:
        nonlocal evaluations
        images.data.clamp_(0, 1)
        optimizer.zero_grad()
        model(images)
        loss = sum(weight * part.loss for weight, part in zip(weights, losses, strict=True))
        loss.backward()
        evaluations += 1
        return loss

    while evaluations < steps:
        optimizer.step(closure)
    return images.detach().clamp_(0, 1)


class PlainTap:
    """The Gram loss by autograd alone, in place of `_Tap`."""

    @staticmethod
    def apply(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return features.relu(), (gram(features) - targets).square().mean(dim=(1, 2))


@contextmanager
def all_together() -> Iterator[None]:
    """On a CPU, too, the batch goes through the network as one."""
    with mock.patch.object(style_transfer, "_together", lambda images: [slice(0, len(images))]):
        yield


def random_network(widths: Sequence[int], *, reflect: bool = False) -> Encoder:
    torch.manual_seed(0)
    network = Encoder(widths, reflect=reflect)
    for layer in network.convolutions:
        nn.init.kaiming_normal_(layer.weight)
    scale = 1 / torch.tensor(IMAGENET_STD)
    with torch.no_grad():
        network.colours.weight.copy_(scale.diag()[..., None, None])
        network.colours.bias.copy_(-torch.tensor(IMAGENET_MEAN) * scale)
    return network.eval().requires_grad_(False)


def pictures(count: int, size: int, seed: int) -> Tensor:
    """Smooth random colours with grain: a speed does not depend on what is seen."""
    noise = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=noise)
    images = F.interpolate(coarse, (size, size), mode="bicubic")
    return images.add_(torch.randn(images.shape, generator=noise).mul_(0.05)).clamp_(0, 1)


def style_loss(network: Encoder, images: Tensor, styles: Tensor) -> float:
    """Mean over the images of the sum over layers of mean squared differences of Gram matrices."""
    losses = [
        sum((a - b).square().mean() for a, b in zip(style_grams(network, x), style_grams(network, y), strict=True))
        for x, y in zip(images, styles, strict=True)
    ]
    return torch.stack(losses).mean().item()


def ways_of_gatys(
    networks: dict[bool, Encoder], contents: Tensor, styles: Tensor, steps: int, ablate: bool
) -> dict[str, Callable[[], Tensor]]:
    """`networks` by whether their weights are channels-last."""
    updates = torch.full((len(contents),), steps)
    ways: dict[str, Callable[[], Tensor]] = {
        "released": partial(as_released, networks[False], contents, styles, steps),
        "ours": lambda: gatys(networks[True], contents, styles, updates),
    }
    if not ablate:
        return ways

    def one_by_one() -> Tensor:
        pairs = zip(contents.split(1), styles.split(1), strict=True)
        return torch.cat([as_released(networks[False], *pair, steps, frozen=True) for pair in pairs])

    def batched() -> Tensor:
        with all_together():
            return ways["ours"]()

    def by_autograd() -> Tensor:
        with mock.patch.object(style_transfer, "_Tap", PlainTap):
            return ways["ours"]()

    return {
        **ways,
        "released, Gram over the batch": partial(ways["released"], measure=gram_of_batch),
        "released, weights frozen": partial(ways["released"], frozen=True),
        "released, weights frozen, one by one": one_by_one,
        "ours, the batch as one": batched,
        "ours, channels first": lambda: gatys(networks[False], contents, styles, updates),
        "ours, Gram by autograd": by_autograd,
        "ours, batch_coupled": lambda: gatys(networks[True], contents, styles, updates, batch_coupled=True),
    }


def write(
    path: Path,
    seconds: dict[tuple[str, int], list[float]],
    reached: dict[tuple[str, int], str],
    before: str,
    **same: str,
) -> None:
    """The table so far; `same` are columns that all rows share."""
    base = {batch: statistics.median(values) for (name, batch), values in seconds.items() if name == RELEASED}
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        head = ["way", "batch", "seconds_median", "lowest", "highest", "rounds", "images_per_second", "ratio"]
        table.writerow([*head, "style_loss_before", "style_loss_after", *same])
        for (name, batch), values in seconds.items():
            median, of_gatys = statistics.median(values), name.startswith("gatys")
            ratio = f"{base[batch] / median:.2f}" if of_gatys else ""
            losses = (before, reached[name, batch]) if of_gatys else ("", "")
            row = [name, batch, *(f"{x:.4g}" for x in (median, min(values), max(values))), len(values)]
            table.writerow([*row, f"{batch / median:.4g}", ratio, *losses, *same.values()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50, help="evaluations of the loss; a multiple of 10")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "process"), default="wall")
    parser.add_argument("--ablate", action="store_true", help="each optimisation's own gain")
    parser.add_argument("--out", default=Path(__file__).parent / "results", type=Path)
    args = parser.parse_args()
    if args.steps < 1 or args.steps % 10:
        parser.error(f"argument --steps: must be a positive multiple of 10, got {args.steps}")
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("CUDA rows: not run, there is no CUDA here")
        return
    plain = random_network(WIDTHS[:6]).to(device)
    networks = {False: plain, True: random_network(WIDTHS[:6]).to(device, memory_format=torch.channels_last)}
    contents, styles = (pictures(args.batch, args.size, seed).to(device) for seed in (1, 2))
    ways: dict[tuple[str, int], Callable[[], Tensor]] = {
        (f"gatys, {name}", args.batch): make
        for name, make in ways_of_gatys(networks, contents, styles, args.steps, args.ablate).items()
    }
    if device.type == "cuda" and not args.ablate:
        wanted = {"device": device, "dtype": torch.bfloat16, "memory_format": torch.channels_last}
        encoder, decode = random_network(WIDTHS, reflect=True).to(**wanted), decoder().to(**wanted)
        for batch in ADAIN_BATCHES:
            pair = [pictures(batch, args.size, seed).to(device) for seed in (1, 2)]
            ways["adain, bfloat16", batch] = partial(adain, encoder, decode, *pair)
    label = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu{args.threads}"
    stem = f"style-transfer{'-ablation' if args.ablate else ''}-{args.size}-batch{args.batch}-steps{args.steps}"
    path = args.out / f"{stem}-{label.replace(' ', '-')}-torch{torch.__version__.split('+')[0]}.csv"
    args.out.mkdir(parents=True, exist_ok=True)
    before = f"{style_loss(plain, contents, styles):.3g}"
    clock = time.process_time if args.clock == "process" else time.perf_counter
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in ways}
    reached: dict[tuple[str, int], str] = {}
    for i in range(args.rounds):
        # in another order each time: what one way leaves in caches and in the allocator, the next one finds
        for key in random.sample(list(ways), len(ways)):
            if device.type == "cuda":
                if not i:
                    ways[key]()  # chooses its kernels
                torch.cuda.synchronize()
            begin = clock()
            images = ways[key]()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[key].append(clock() - begin)
            print(f"round {i + 1}: {key[0]}, batch {key[1]}: {seconds[key][-1]:.1f} s", flush=True)
            if key[0].startswith("gatys"):
                reached[key] = f"{style_loss(plain, images, styles):.3g}"
        # after each round: one takes minutes on a CPU
        machine = processor()
        write(path, seconds, reached, before, steps=str(args.steps), clock=args.clock, machine=machine)
    print(path.read_text())
    if device.type != "cuda":
        print("GPU rows (Gatys, and AdaIN in bfloat16): not run")
    print(path)


if __name__ == "__main__":
    main()
