"""Train AdaIN's decoder, which maps features with a style's statistics to an image (Huang and Belongie).

The encoder is frozen. The decoder learns to make an image whose features at relu4_1 match its input, and whose
features at relu1_1 to relu4_1 have the means and standard deviations of the style image's features.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2.functional import pil_to_tensor, resize

from genaug._common.arguments import check_device, check_integer, check_seed
from genaug._common.files import images_in, open_image, writable_folder
from genaug.assets import save_asset
from genaug.evaluation.scoring import MOST_WORKERS
from genaug.interventions.random_streams import integers, uniform
from genaug.training.shared.resumable import Run, machine, optimise, resume
from genaug.transforms.style_transfer import adaptive_instance_norm, statistics
from genaug.transforms.vgg import Encoder, decoder, load_encoder

SHOWN = 6  # images in each row of a sample sheet


@dataclass(frozen=True)
class Settings:
    """The training recipe."""

    steps: int = 160_000
    batch_size: int = 8
    learning_rate: float = 1e-4  # divided by 1 + decay * step
    decay: float = 5e-5
    style_weight: float = 10.0
    side: int = 512  # images are resized to this length of the shorter side, in pixels
    crop: int = 256  # side of the random crop, in pixels


SETTINGS = Settings()


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of a content and a style crop, (3, crop, crop) uint8 each; pair k is a function of (seed, k) alone."""

    def __init__(self, contents: list[Path], styles: list[Path], seed: int, settings: Settings) -> None:
        self.paths = {"content": contents, "style": styles}
        self.seed, self.settings = seed, settings

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._crop("content", index), self._crop("style", index)

    def _crop(self, name: str, index: int) -> Tensor:
        place = torch.tensor([index])
        paths = self.paths[name]
        file = open_image(paths[int(integers(self.seed, place, len(paths), name))])
        image = resize(pil_to_tensor(file), [self.settings.side])
        crop = self.settings.crop
        height, width = image.shape[1:]
        down, right = uniform(self.seed, place, 2, f"{name} crop")[0].tolist()
        top, left = int(down * (height - crop + 1)), int(right * (width - crop + 1))
        return image[:, top : top + crop, left : left + crop].contiguous()


def losses(encoder: Encoder, network: nn.Module, contents: Tensor, styles: Tensor) -> tuple[Tensor, Tensor]:
    """Return the content and style loss of a decoder's output.

    Args:
        encoder: the frozen encoder, up to relu4_1.
        network: the decoder.
        contents: (B, 3, H, W) float in [0, 1].
        styles: as `contents`.

    Returns:
        The content loss: mean squared difference at relu4_1 between the output's features and the decoder's input. The
        style loss: mean squared differences of means and of standard deviations between output and style features,
        summed over relu1_1, relu2_1, relu3_1 and relu4_1.
    """
    with torch.no_grad():
        wanted = [statistics(features) for features in encoder(styles)]
        given = adaptive_instance_norm(encoder(contents)[-1], wanted[-1])
    made = encoder(network(given))
    style = torch.zeros((), device=given.device)
    for features, (means, deviations) in zip(made, wanted, strict=True):
        mean, deviation = statistics(features)
        style = style + F.mse_loss(mean, means) + F.mse_loss(deviation, deviations)
    return F.mse_loss(made[-1], given), style


class _Run(Run):
    description = "training the decoder"
    shown = ("content", "style")

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.generator = decoder().to(device=device)
        self.optimizer = torch.optim.Adam(self.generator.parameters(), settings.learning_rate)
        super().__init__({"decoder": self.generator, "optimizer": self.optimizer})


@torch.inference_mode(False)  # in inference mode there are no gradients
def train(
    styles: str | os.PathLike[str],
    content: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    network: str | os.PathLike[str] = "vgg19",
    seed: int = 0,
    steps: int | None = None,
    workers: int = 0,
    device: torch.device | str | None = None,
) -> Path:
    """Train a decoder for `StyleTransferIntervention(..., method="adain", network=network, decoder=path)`.

    Calling it again with the same arguments resumes from the last checkpoint, at most 100 steps back. On one CPU the
    result is bitwise identical to an uninterrupted run.

    Args:
        styles: folder of style images, searched with all subfolders.
        content: folder of photographs, also searched with all subfolders.
        out: folder for `decoder.safetensors` (the result), `checkpoint.pt`, `log.jsonl` (every loss) and `samples/`
            (sheets of the same six pairs).
        network: encoder: a name, "vgg19" or "adain-encoder", or a `.safetensors` file.
        seed: random seed of initial weights, order and crops.
        steps: number of batches (default: the recipe's).
        workers: number of processes that read images. Does not change the result.
        device: device to train on (default: CPU).

    Returns:
        The path of `decoder.safetensors`.

    Raises:
        ValueError: a folder is missing or has no images, an image cannot be read, `out` has a run with other settings,
            or an argument is out of its range.
        genaug.AssetError: the encoder is not available.
        FloatingPointError: a loss is not finite. The last checkpoint stays.
        OSError: `out` cannot be written.
    """
    check_seed(seed)
    check_integer("workers", workers, 0, MOST_WORKERS)
    device = check_device("device", device)
    settings = SETTINGS
    if steps is not None:
        check_integer("steps", steps, 1)
        settings = replace(settings, steps=steps)
    pairs = Crops(images_in("content", content), images_in("styles", styles), seed, settings)
    encoder = load_encoder(network, ("vgg19", "adain-encoder"), 9, reflect=True).to(device)
    folder = writable_folder(out)
    described = {
        "seed": seed,
        "encoder": encoder.fingerprint,
        "content_images": len(pairs.paths["content"]),
        "style_images": len(pairs.paths["style"]),
        **asdict(settings),
    }
    # only the initial weights come from the global generator, whose state is restored; `Crops` makes all other draws
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        run = _Run(settings, device)
    resume(run, folder, described)
    batches = _batches(pairs, run.step, settings, workers)

    def step() -> dict[str, Tensor]:
        contents, styles = (_to_float(part, device) for part in next(batches))
        return _step(run, encoder, contents, styles, settings)

    optimise(
        run,
        settings.steps,
        folder,
        described,
        step=step,
        sheet=lambda path: _sample_sheet(run.generator, encoder, pairs, device, path),
    )
    return save_asset(
        folder / "decoder.safetensors",
        run.generator.state_dict(),
        "adain-decoder",
        encoder=encoder.fingerprint,
        source="genaug train adain",
        training=json.dumps(described),
        machine=machine(device),
    )


def _batches(pairs: Crops, first: int, settings: Settings, workers: int) -> Iterator[list[Tensor]]:
    """Return the batches from step `first` on."""
    size = settings.batch_size
    loader = DataLoader(
        pairs,
        batch_size=size,
        sampler=range(first * size, settings.steps * size),
        num_workers=workers,
        generator=torch.Generator(),  # else the loader would take a seed for its workers from the global generator
    )
    return iter(loader)


def _to_float(images: Tensor, device: torch.device) -> Tensor:
    return images.to(device).float() / 255


def _step(run: _Run, encoder: Encoder, contents: Tensor, styles: Tensor, settings: Settings) -> dict[str, Tensor]:
    for group in run.optimizer.param_groups:
        group["lr"] = settings.learning_rate / (1 + settings.decay * run.step)
    content, style = losses(encoder, run.generator, contents, styles)
    run.optimizer.zero_grad()
    (content + settings.style_weight * style).backward()
    run.optimizer.step()
    return {"content": content.detach(), "style": style.detach()}


@torch.no_grad()
def _sample_sheet(network: nn.Module, encoder: Encoder, pairs: Crops, device: torch.device, path: Path) -> None:
    """Draw the first pairs and the decoder's output for them."""
    from genaug._common.plotting import save_sheet

    contents, styles = (torch.stack(part) for part in zip(*(pairs[i] for i in range(SHOWN)), strict=True))
    features = encoder(_to_float(contents, device))[-1]
    style = statistics(encoder(_to_float(styles, device))[-1])
    made = network(adaptive_instance_norm(features, style)).clamp(0, 1).mul(255).round().to(torch.uint8).cpu()
    save_sheet(path, {"content": contents, "style": styles, "transferred": made})
