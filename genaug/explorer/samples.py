"""Make the samples of a view, with the same calls that `code` writes for the user."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from genaug._common.plotting import image_grid
from genaug.datasets.counterfactual import CounterfactualDataset
from genaug.datasets.factors import FACTORS
from genaug.datasets.generative_intervention import GenerativeInterventionDataset
from genaug.explorer.sources import Sources, Traits
from genaug.explorer.views import ANY_BLEND, REACH, View
from genaug.interventions.blending import BLENDS
from genaug.photographs.bank import PhotographBank

FRAMES = 25  # of a walk, one way
SECOND = 1000  # milliseconds
LEAST = 128  # pixels; smaller images are enlarged by the largest whole factor that stays within this side
_HELD = 32  # datasets that are kept; they are cheap compared with their generator


@dataclass(frozen=True)
class Tile:
    """An image of the page.

    Attributes:
        image: (3, H, W) or (1, H, W) uint8.
        caption: the text below it.
        words: description of the image, for those who do not see it.
    """

    image: Tensor
    caption: str
    words: str


@dataclass(frozen=True)
class Call:
    """A dataset and the arguments of the method that makes a view's images.

    Attributes:
        bank: arguments of `PhotographBank` besides the path; {} if the name alone is enough.
        dataset: arguments of the dataset besides the generator.
        numbers: arguments of `combine`, or of `moved`; a range for a grid.
    """

    bank: dict[str, Any]
    dataset: dict[str, Any]
    numbers: dict[str, Any]


def call_of(view: View, traits: Traits) -> Call:
    """Return the calls that make a view's images. A walk adds offsets or values to their arguments."""
    common: dict[str, Any] = {"seed": view.seed}
    if traits.truncated and view.truncation != 1:
        common["truncation"] = view.truncation
    grid = range(view.first, view.first + view.count)
    if not traits.counterfactual:
        subject = view.subject
        dataset = {**common, "components": traits.components, "interventions_per_noise": 1}
        if subject.label is not None:
            dataset["classes"] = [subject.label]
        noise = subject.draw if view.tab != "samples" or subject.locked else grid
        moved: dict[str, Any] = {"noise": noise}
        moved |= {name: dict(value) for name in ("offsets", "nuisances") if (value := _changes(view, name))}
        return Call({}, dataset, moved)
    bank: dict[str, Any] = {}
    if traits.bank and (view.placement or traits.own_settings):
        bank["placement"] = view.placement
    if traits.bank and (view.blend != ANY_BLEND or traits.own_settings):
        bank["blend"] = BLENDS if view.blend == ANY_BLEND else view.blend
    dataset = {**common, "counterfactuals_per_noise": 1}
    if view.tie != traits.default_tie:
        dataset["tie"] = view.tie
    classes = {name: view.factor(name).label for name in FACTORS}
    if any(label is not None for label in classes.values()):
        named = traits.class_names if traits.bank else range(traits.num_classes)
        dataset["classes"] = {name: None if label is None else named[label] for name, label in classes.items()}
    numbers: dict[str, Any] = {}
    for name in FACTORS:
        if name == "shape" or not {name, "shape"} <= set(view.tie):  # else the shape's draw is the default
            choice = view.factor(name)
            numbers[name] = grid if view.tab == "samples" and not choice.locked else choice.draw
    return Call(bank, dataset, numbers)


def _changes(view: View, name: str) -> Mapping[Any, Any]:
    return view.moves if name == "offsets" else view.nuisances


def walk_steps(view: View, traits: Traits) -> list[float] | list[str]:
    """Return the values that a walk sets in turn: offsets, or the values of a nuisance."""
    if isinstance(view.walk, str):
        return list(traits.nuisances[view.walk])
    return torch.linspace(-REACH, REACH, FRAMES).tolist()


class Studio:
    """Make the samples of views, with datasets that are reused between views."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self._lock = threading.Lock()
        self._held: OrderedDict[str, Any] = OrderedDict()

    def dataset(self, view: View) -> Any:
        """Return the dataset that a view's images come from."""
        call = call_of(view, self.sources.traits(view.generator))
        key = repr((view.generator, call.bank, call.dataset))
        with self._lock:
            if key not in self._held:
                self._held[key] = self._opened(view.generator, call)
                if len(self._held) > _HELD:
                    self._held.popitem(last=False)
            self._held.move_to_end(key)
            return self._held[key]

    def _opened(self, name: str, call: Call) -> Any:
        generator = self.sources.generator(name)
        if call.bank:
            generator = PhotographBank(name, **call.bank).to(self.sources.device)
        if self.sources.traits(name).counterfactual:
            return CounterfactualDataset(generator, **call.dataset)
        return GenerativeInterventionDataset(generator, **call.dataset)

    def images(self, view: View) -> Tensor:
        """Return what the copied code calls `images`, (N, 3, H, W) uint8."""
        return self._made(view)[0]

    def tiles(self, view: View) -> list[Tile]:
        """Return the images of a view, with words for each: one image with its parts, a grid, or the steps of a walk.

        Raises:
            ValueError: the generator cannot make them; the message says why.
        """
        traits = self.sources.traits(view.generator)
        images, more = self._made(view)
        if view.tab == "walk":
            steps = walk_steps(view, traits)
            words = [step if isinstance(step, str) else signed(step) for step in steps]
            return [Tile(image, word, word) for image, word in zip(images, words, strict=True)]
        if not traits.counterfactual:
            labels = self.dataset(view).labels(_numbers(call_of(view, traits).numbers["noise"])).tolist()
            names = [f"class {traits.class_names[label]}" for label in labels]
            if view.tab == "samples":
                return [Tile(image, name, name) for image, name in zip(images, names, strict=True)]
            changed = bool(view.moves or view.nuisances)
            plain = self.images(replace(view, moves={}, nuisances={}))
            return [
                Tile(images[0], names[0].capitalize(), f"{names[0]}, moved" if changed else names[0]),
                Tile(plain[0], "As drawn", f"{names[0]}, as drawn"),
            ]
        columns = {name: [traits.class_names[i] for i in values.tolist()] for name, values in more.labels.items()}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        words = [", ".join(f"{name} {label}" for name, label in row.items()) for row in rows]
        if view.tab == "samples":
            shown = [name for name in FACTORS if name == "shape" or not {name, "shape"} <= set(view.tie)]
            captions = [" / ".join(row[name] for name in shown) for row in rows]
            return [Tile(*tile) for tile in zip(images, captions, words, strict=True)]
        parts = [f"{name.capitalize()}: {rows[0][name]}" for name in FACTORS]
        tiles = [Tile(images[0], words[0].capitalize(), words[0])]
        return tiles + [Tile(part[0], text, text) for part, text in zip(more[:3], parts, strict=True)]

    def _made(self, view: View) -> tuple[Tensor, Any]:
        """Return the images, and their parts for a counterfactual generator."""
        traits = self.sources.traits(view.generator)
        dataset, numbers = self.dataset(view), call_of(view, traits).numbers
        if traits.counterfactual:
            made = dataset.combine(**{name: _numbers(value) for name, value in numbers.items()})
            return made.image.cpu(), made
        noise = _numbers(numbers["noise"])
        if view.tab != "walk":
            return dataset.moved(**{**numbers, "noise": noise}).cpu(), None
        frames = []
        for step in walk_steps(view, traits):
            changes: dict[str, dict[Any, Any]] = {"offsets": {**view.moves}, "nuisances": {**view.nuisances}}
            changes["nuisances" if isinstance(step, str) else "offsets"][view.walk] = step
            frames.append(dataset.moved(noise, **changes))
        return torch.cat(frames).cpu(), None

    def picture(self, view: View) -> bytes:
        """Return the view as a PNG file: its images in rows, small ones enlarged. A walk gives an animated PNG.

        Raises:
            ValueError: the view is a report, or its images cannot be made.
        """
        if view.tab == "report":
            raise ValueError("a report has no picture: choose another tab")
        if view.tab == "walk":
            return self.animation(view)
        tiles = [_coloured(tile.image) for tile in self.tiles(view)]
        columns = len(tiles) if view.tab == "image" else columns_of(len(tiles))
        return as_png(image_grid(torch.stack(tiles), columns, scale=enlargement(tiles[0])))

    def animation(self, view: View) -> bytes:
        """Return a walk as an animated PNG file, which plays forth and back in a loop. No colors are lost."""
        images = self.images(replace(view, tab="walk"))
        scale = enlargement(images[0])
        images = images.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
        frames = [to_pil_image(image) for image in images]
        frames += frames[-2:0:-1]
        rate = 12.5 if not isinstance(view.walk, str) else 1
        file = BytesIO()
        options: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": SECOND / rate, "loop": 0}
        frames[0].save(file, "PNG", **options)
        return file.getvalue()


def columns_of(count: int) -> int:
    """Return the number of columns of a grid of images that is about square."""
    return max(1, round(count**0.5 + 0.49))


def enlargement(image: Tensor) -> int:
    return max(1, LEAST // image.shape[-1])


def as_png(image: Tensor) -> bytes:
    """Return an image (3 or 1, H, W) uint8 as a PNG file."""
    file = BytesIO()
    to_pil_image(image).save(file, "PNG", compress_level=1)  # size hardly matters on one machine
    return file.getvalue()


def signed(number: float) -> str:
    """Return a number with a minus sign instead of a hyphen, which is too short."""
    return f"{number:+.2g}".replace("-", "\N{MINUS SIGN}") if number else "0"


def _coloured(image: Tensor) -> Tensor:
    return image.expand(3, -1, -1)


def _numbers(value: int | range) -> Sequence[int]:
    return [value] if isinstance(value, int) else list(value)
