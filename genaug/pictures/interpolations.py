"""Interpolate in the latent space of a counterfactual generator (CGN, appendix D, Figures 21 and 22; its blog post).

genaug interpolate cgn-wildlife-mnist --over texture --out sheet.png
genaug walk cgn-wildlife-mnist --music song.wav --out dance.mp4
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from genaug._common.arguments import check_choice, check_classes, check_integer, check_truncation
from genaug._common.files import one_line, writable_folder
from genaug._common.music import beats, keep_step, read_wav
from genaug._common.plotting import save_sheet
from genaug._common.progress import progress
from genaug._common.records import write_results
from genaug._common.video import RATE, moves, save_video
from genaug.datasets.factors import FACTORS
from genaug.datasets.generated import names_of
from genaug.generators.images import to_uint8
from genaug.interventions.random_streams import integers
from genaug.interventions.steering import generator_device, noise_of
from genaug.pictures.samples import AT_ONCE, found_generator, made_parts, save_image

Over = Literal["shape", "texture", "background", "all"]
Between = Literal["classes", "noises", "both"]

OVER: tuple[Over, ...] = (*FACTORS, "all")
BETWEEN: tuple[Between, ...] = ("classes", "noises", "both")
STRIDE = 0.8  # seconds from one point of a walk to the next, without music
MOST_POINTS = 1_000
FRAMES = "frames.json"  # in a folder of frames; lists the frames that genaug wrote
SMALLEST = 128  # pixels; smaller images are enlarged by the largest whole factor that stays within this side


def spherical(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Interpolate between two noises along an arc, so that every point has the length of a noise.

    Args:
        start: (..., D).
        end: (..., D).
        share: (..., 1) in [0, 1]: 0 is the start, 1 the end.
    """
    lengths = start.norm(dim=-1, keepdim=True) * end.norm(dim=-1, keepdim=True)
    angle = ((start * end).sum(dim=-1, keepdim=True) / lengths.clamp(min=1e-12)).clamp(-1, 1).acos()
    arc = angle.sin().clamp(min=1e-6)
    curved = ((1 - share) * angle).sin() / arc * start + (share * angle).sin() / arc * end
    return torch.where(angle < 1e-3, torch.lerp(start, end, share.expand_as(start)), curved)


class Way:
    """A closed path through points. Each point is a noise and a class for every mechanism; position k is at point k.

    Args:
        generator: the counterfactual generator.
        points: number of points, at least 1.
        over: the mechanism that changes along the path, or "all".
        between: what changes in it: "classes", "noises" or "both".
        classes: the classes of the points, in turn (default: drawn from all classes).
        seed: random seed of noises and classes.
        truncation: scale of the noise.
    """

    def __init__(
        self,
        generator: Any,
        points: int,
        *,
        over: Over,
        between: Between,
        classes: Sequence[int] | None,
        seed: int,
        truncation: float,
    ) -> None:
        self.generator, self.truncation = generator, truncation
        known = torch.tensor(check_classes(classes, generator.num_classes, names_of(generator)))
        places = torch.arange(points)
        drawn = known[integers(seed, places, len(known), "class")] if classes is None else known[places % len(known)]
        self.mixes = between != "noises"  # whether classes are mixed; if so, the generator takes shares of classes
        shares = nn.functional.one_hot(drawn, generator.num_classes).float() if self.mixes else drawn
        self.labels, self.noise, self.classes = [], [], drawn.tolist()
        tied: tuple[str, ...] = getattr(generator, "default_tie", ())
        for factor in FACTORS:
            lead = tied[0] if factor in tied else factor
            changes = over in (factor, lead, "all")
            fixed = torch.zeros_like(places)
            drawn_at = places if changes and between != "classes" else fixed
            self.noise.append(noise_of(generator, seed, drawn_at, truncation, lead))
            self.labels.append(shares[places if changes and self.mixes else fixed])

    def at(self, positions: Sequence[float]) -> dict[str, Tensor]:
        """Return the parts and the composites at these positions: (N, 1 or 3, H, W) floats in [-1, 1], on the CPU."""
        device, count = generator_device(self.generator), len(self.classes)
        where = torch.tensor(positions, dtype=torch.float64)
        start = where.floor().long()
        share = (where - start)[:, None].float()
        start, end = start % count, (start + 1) % count
        if getattr(self.generator, "discrete_noise", False):
            return self._faded(start, end, share)
        noise = [spherical(z[start], z[end], share).to(device) for z in self.noise]
        if not self.mixes:
            return made_parts(self.generator, noise, [y[start].to(device) for y in self.labels], self.truncation)
        labels = [torch.lerp(y[start], y[end], share.expand(-1, y.shape[1])).to(device) for y in self.labels]
        try:
            return made_parts(self.generator, noise, labels, self.truncation)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise TypeError(
                "between classes the generator is given labels (B, num_classes), the share of each class; this one may "
                f"take labels (B,) alone, which do for interpolate(between='noises') ({one_line(error)})"
            ) from error

    def _faded(self, start: Tensor, end: Tensor, share: Tensor) -> dict[str, Tensor]:
        """Fade from the parts at one point to those at the next, for noises that cannot be interpolated."""
        device = generator_device(self.generator)
        labels = [y.argmax(dim=1) if y.is_floating_point() else y for y in self.labels]
        ends = [
            made_parts(
                self.generator,
                [z[at].to(device) for z in self.noise],
                [y[at].to(device) for y in labels],
                self.truncation,
            )
            for at in (start, end)
        ]
        parts = {name: torch.lerp(first, ends[1][name], share[..., None, None]) for name, first in ends[0].items()}
        mask = (parts["mask"] + 1) / 2
        parts["counterfactual"] = self.generator.compose(mask, parts["texture"], parts["background"])
        return parts


def interpolate(
    generator: str | os.PathLike[str] | nn.Module,
    out: str | os.PathLike[str],
    *,
    over: Over = "all",
    between: Between = "both",
    classes: Sequence[int] | None = None,
    points: int = 2,
    steps: int = 8,
    seed: int = 0,
    truncation: float = 1.0,
    device: torch.device | str | None = None,
) -> Path:
    """Interpolate between counterfactual images: noises along an arc, classes by mixing their embeddings.

    Args:
        generator: a counterfactual generator: a name from `genaug assets list`, a converted checkpoint, or a module.
            Between classes, a module must take labels (B, num_classes), the share of each class.
        out: a picture such as .png has one column per step and one row per part. A .gif or .mp4 plays the composed
            images forth and back. A name without suffix is a folder of frames, 0000.png and so on, of the composed
            images. The folder must be new, empty, or written by an earlier call, whose frames are replaced.
        over: the mechanism that changes: "shape", "texture", "background" or "all"; the others stay as they are.
        between: what changes in it: "classes", "noises", or "both" as in the paper's figures.
        classes: the classes of the images, in turn (default: drawn from all classes).
        points: number of images to go through, at least 2.
        steps: number of steps from one image to the next.
        seed: random seed of noises and classes.
        truncation: scale of the noise, in (0, 1].
        device: device of the generator (default: CPU, or the device of a module).

    Returns:
        The file or folder that was written; without ffmpeg, an .mp4 becomes a .gif.

    Raises:
        TypeError: the generator has no mechanisms, or does not take shares of classes.
        ValueError: another argument is out of its range.
        genaug.AssetError: the generator is not available.
        OSError: `out` cannot be written.
    """
    check_choice("over", over, OVER)
    check_choice("between", between, BETWEEN)
    check_integer("points", points, 2, MOST_POINTS)
    check_integer("steps", steps, 1, MOST_POINTS)
    check_truncation(truncation)
    network, title, _ = found_counterfactual(generator, device)
    way = Way(network, points, over=over, between=between, classes=classes, seed=seed, truncation=truncation)
    positions = [i / steps for i in range((points - 1) * steps)] + [points - 1.0]
    parts = {name: to_uint8(part) for name, part in way.at(positions).items()}
    suffix = Path(out).suffix
    title += f", over {over if over != 'all' else 'shape, texture and background'}"
    if not suffix:
        save_frames(out, parts["counterfactual"])
    elif moves(out):
        frames = enlarged(parts["counterfactual"])
        return save_video(out, torch.cat([frames, frames.flip(0)[1:-1]]))
    else:
        moved = {"shape": {"pre-mask", "mask"}, "all": set(parts)}.get(over, {over})
        kept = moved | {"counterfactual"}
        heads = [f"class {way.classes[round(p)]}" if p.is_integer() and between != "noises" else "" for p in positions]
        save_sheet(
            out,
            {name: part for name, part in parts.items() if name in kept},
            title=title,
            columns=heads if any(heads) else (),
        )
    return Path(out)


def walk(
    generator: str | os.PathLike[str] | nn.Module,
    out: str | os.PathLike[str],
    *,
    music: str | os.PathLike[str] | None = None,
    points: int = 8,
    classes: Sequence[int] | None = None,
    seed: int = 0,
    truncation: float = 1.0,
    device: torch.device | str | None = None,
) -> Path:
    """Animate a walk through counterfactuals, in a loop or in step with music: the latent dance of CGN's blog post.

    Every mechanism goes from point to point on its own. With music, the walk leaves for the next point at every beat
    and is as long as the music.

    Args:
        generator: as `interpolate` takes it.
        out: .gif or .mp4; without ffmpeg, an .mp4 becomes a .gif.
        music: a .wav file.
        points: number of images to go through; they repeat if the music is longer.
        classes, seed, truncation, device: as `interpolate` takes them.

    Returns:
        The file that was written.

    Raises:
        TypeError, ValueError, genaug.AssetError, OSError: as `interpolate`; or the music is not a .wav file.
        RuntimeError: ffmpeg failed.
    """
    check_integer("points", points, 2, MOST_POINTS)
    check_truncation(truncation)
    if not moves(out):
        raise ValueError(
            f"out must end in .gif or .mp4 for a counterfactual generator, got {Path(out).name!r}. A sheet (.png) is "
            "for generators with principal directions"
        )
    if music is None:
        count = round(points * STRIDE * RATE)
        positions = [i * points / count for i in range(count)]
    else:
        samples, rate = read_wav(music)
        count = max(1, -(-len(samples) * RATE // rate))
        positions = keep_step([i / RATE for i in range(count)], beats(samples, rate).tolist())
    network, _, _ = found_counterfactual(generator, device)
    way = Way(network, points, over="all", between="both", classes=classes, seed=seed, truncation=truncation)
    chunks = [positions[i : i + 4 * AT_ONCE] for i in range(0, len(positions), 4 * AT_ONCE)]
    made = (enlarged(to_uint8(way.at(c)["counterfactual"])) for c in progress(chunks, description="walk", unit="chunk"))
    return save_video(out, made, music=music)


def found_counterfactual(
    generator: str | os.PathLike[str] | nn.Module, device: torch.device | str | None
) -> tuple[Any, str, torch.device]:
    """Return the module, its title and its device; raise TypeError if it has no mechanisms."""
    network, title, place = found_generator(generator, device)
    if not hasattr(network, "mechanisms"):
        raise TypeError(
            f"generator must have mechanisms for shape, texture and background, as cgn-digits has, but {title} has none"
        )
    return network, title, place


def enlarged(images: Tensor) -> Tensor:
    """Enlarge small images by the largest whole factor within 128 pixels, so that players do not blur them."""
    scale = max(1, SMALLEST // images.shape[-1])
    return images.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)


def save_frames(folder: str | os.PathLike[str], images: Tensor) -> None:
    """Write 0000.png and so on into a folder. They replace the frames of an earlier call.

    Raises:
        ValueError: the folder holds something else.
    """
    target = writable_folder(folder)
    record = target / FRAMES
    before: list[str] = []
    if record.exists():
        try:
            before = list(json.loads(record.read_text())["frames"])
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{record} is not of genaug: choose another folder") from None
    elif others := sorted(name for name in os.listdir(target) if not name.startswith(".")):
        raise ValueError(f"{target} holds something else ({others[0]}): choose another folder")
    names = [f"{number:04d}.png" for number in range(len(images))]
    # all names are recorded first, so that the next call recognizes the folder of an interrupted one
    write_results(record, {"frames": sorted({*before, *names})})
    for name, image in zip(names, images, strict=True):
        save_image(target / name, image)
    for name in set(before) - set(names):
        if Path(name).name == name:
            (target / name).unlink(missing_ok=True)
    write_results(record, {"frames": names})
