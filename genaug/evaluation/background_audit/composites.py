"""The images of an audit: each photograph of a bank, and composites of its object, outline and background.

The seed and the photograph's number alone determine the background behind an object, and the object's position. So two
audits with the same bank and seed show their models the same images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import resize

from genaug.interventions.random_streams import generator_of, uniform
from genaug.interventions.steering import isolated
from genaug.photographs.format import BankFiles

SAME = 2  # backgrounds of the photograph's own class
SIZES = (0.3, 0.5, 0.7, 0.9)  # longer side of the object, as a share of the image's side
PLACED = 1  # index in SIZES of the size of objects that are moved
GRAY = 128
_STRIP = 1 / 16  # the narrowest background that is tiled, as a share of the image's side
_PATCHES = 8  # along each side of a texture


@dataclass(frozen=True)
class Design:
    """The images that an audit shows for each of N photographs.

    Attributes:
        labels: (N,) class of each photograph.
        classes: names of the classes.
        same: (N, 2) photographs of the object's class that give the background; -1 if the class has no other one.
        random: (N, K) photographs of random classes that give the background.
        texture: (N,) photographs of another class whose object fills the outline.
        edge: (N,) in 0..3, the edge that an object is moved to: left, right, top, bottom.
        corner: (N,) in 0..3, the corner that an object is moved to: top left, top right, bottom left, bottom right.
        seed: random seed.
        kinds: name of the image in each of V columns, such as "random:0".
    """

    labels: np.ndarray
    classes: tuple[str, ...]
    same: np.ndarray
    random: np.ndarray
    texture: np.ndarray
    edge: np.ndarray
    corner: np.ndarray
    seed: int
    kinds: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        kinds = ["original", "gray", "noise", "inpainted", "tiled", "texture"]
        kinds += [f"same:{number}" for number in range(SAME)]
        kinds += [f"random:{number}" for number in range(self.random.shape[1])]
        kinds += [f"size:{number}" for number in range(len(SIZES))]
        object.__setattr__(self, "kinds", (*kinds, "edge", "corner"))

    def columns(self, kind: str) -> list[int]:
        """Return the columns of a kind, such as all backgrounds of "random"."""
        return [column for column, name in enumerate(self.kinds) if name.partition(":")[0] == kind]

    def second(self) -> np.ndarray:
        """Return the second photograph that each image uses, besides the object's: (N, V), -1 for none."""
        found = np.full((len(self.labels), len(self.kinds)), -1)
        found[:, self.columns("same")] = self.same
        found[:, self.columns("random")] = self.random
        found[:, self.columns("texture")] = self.texture[:, None]
        for kind in ("size", "edge", "corner"):
            found[:, self.columns(kind)] = self.same[:, :1]
        return found


@isolated()
def draw(labels: Tensor, classes: Sequence[str], backgrounds: int, seed: int) -> Design:
    """Draw the background behind each object.

    Args:
        labels: (N,) class of each photograph; at least two classes must be present.
        classes: names of the classes.
        backgrounds: number of backgrounds of random classes for each object.
        seed: random seed, any integer.
    """
    count = len(labels)
    places = torch.arange(count)
    members = {number: (labels == number).nonzero()[:, 0] for number in range(len(classes))}
    members = {number: found for number, found in members.items() if len(found)}
    present = torch.tensor(list(members))

    def pick(wanted: Tensor, draws: Tensor) -> Tensor:
        """Return a photograph of this class other than the object's own, or -1 if there is none."""
        found = torch.full((count,), -1)
        for number, photographs in members.items():
            rows = (wanted == number).nonzero()[:, 0]
            own = labels[rows] == number
            number_of = (draws[rows] * (len(photographs) - own.long())).long()
            position = torch.searchsorted(photographs, rows)
            number_of += (own & (number_of >= position)).long()  # skips the object's own photograph
            picked = photographs[number_of.clamp(max=len(photographs) - 1)]
            found[rows] = torch.where(own & (len(photographs) == 1), -1, picked)
        return found

    def other(draws: Tensor) -> Tensor:
        """Return a class other than the object's."""
        own = torch.searchsorted(present, labels)
        step = 1 + (draws * (len(present) - 1)).long()
        return present[(own + step) % len(present)]

    draws = uniform(seed, places, 2 * backgrounds + SAME + 4, "audit")
    random = []
    for number in range(backgrounds):
        wanted = present[(draws[:, 2 * number] * len(present)).long()]
        alone = torch.tensor([len(members[int(label)]) == 1 for label in labels])
        wanted = torch.where(alone & (wanted == labels), other(draws[:, 2 * number]), wanted)
        random.append(pick(wanted, draws[:, 2 * number + 1]))
    rest = draws[:, 2 * backgrounds :]
    return Design(
        labels.numpy(),
        tuple(classes),
        torch.stack([pick(labels, rest[:, number]) for number in range(SAME)], 1).numpy(),
        torch.stack(random, 1).numpy(),
        pick(other(rest[:, SAME]), rest[:, SAME + 1]).numpy(),
        (rest[:, SAME + 2] * 4).long().numpy(),
        (rest[:, SAME + 3] * 4).long().numpy(),
        seed,
    )


class Images(Dataset[tuple[Tensor, int]]):
    """All images of an audit, photograph by photograph.

    Args:
        bank: the bank of photographs.
        numbers: (N,) the bank's entries that take part.
        design: the images that are made of them.
        transform: (B, 3, S, S) uint8 -> what the model takes.
    """

    def __init__(self, bank: BankFiles, numbers: Tensor, design: Design, transform: Callable[[Tensor], Tensor]) -> None:
        self.bank, self.numbers, self.design, self.transform = bank, numbers, design, transform
        self.second = design.second()
        self.paths = _Names(self)

    def __len__(self) -> int:
        return self.second.size

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        return list(zip(self.transform(self.images(indices)), indices, strict=True))

    @isolated()
    def images(self, indices: Sequence[int]) -> Tensor:
        """Return the images before `transform`, (B, 3, S, S) uint8. Images that cannot be made are gray."""
        first, column = np.divmod(np.asarray(indices), len(self.design.kinds))
        second = self.second[first, column]
        used = np.unique(np.concatenate([first, second[second >= 0]]))
        parts = self.bank.parts(self.numbers[torch.from_numpy(used)])
        position = dict(zip(used.tolist(), range(len(used)), strict=True))
        made = []
        for photograph, kind, background in zip(first.tolist(), column.tolist(), second.tolist(), strict=True):
            one = _Parts(*(part[position[photograph]] for part in parts))
            two = _Parts(*(part[position[background]] for part in parts)) if background >= 0 else None
            made.append(self._image(photograph, self.design.kinds[kind], one, two))
        return torch.stack(made)

    def _image(self, number: int, name: str, one: _Parts, two: _Parts | None) -> Tensor:
        kind, _, which = name.partition(":")
        gray = torch.full_like(one.photograph, GRAY)
        if kind == "original":
            return one.photograph
        if kind == "gray":
            return paste(one.object, one.mask, gray)
        if kind == "noise":
            noise = torch.randint(
                0, 256, gray.shape, generator=generator_of(self.design.seed, number, "noise"), dtype=torch.uint8
            )
            return paste(one.object, one.mask, noise)
        if kind == "inpainted":
            return one.background
        if kind == "tiled":
            tiled = tile(one.photograph, self.box(number))
            return gray if tiled is None else tiled
        if two is None:
            return gray
        if kind == "texture":
            draws = generator_of(self.design.seed, number, "texture")
            return paste(patches(two.object, two.mask, draws), one.mask, gray)
        if kind in ("same", "random"):
            return paste(one.object, one.mask, two.background)
        right, down = 0.5, 0.5
        if kind == "edge":
            right, down = ((0.0, 0.5), (1.0, 0.5), (0.5, 0.0), (0.5, 1.0))[self.design.edge[number]]
        elif kind == "corner":
            right, down = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))[self.design.corner[number]]
        size = SIZES[int(which) if kind == "size" else PLACED]
        return place(one.object, one.mask, self.box(number), two.background, size, right, down)

    def box(self, number: int) -> tuple[int, int, int, int]:
        """Return the bounding box of a photograph's object: x0, y0, x1, y1 in pixels."""
        return tuple(self.bank.entries[int(self.numbers[number])].box)  # type: ignore[return-value]

    def made(self) -> np.ndarray:
        """Return which images can be made, (N, V) bool.

        Some photographs have no other of their class, or no strip to tile.
        """
        found = np.ones(self.second.shape, dtype=bool)
        for kind in ("same", "random", "texture", "size", "edge", "corner"):
            columns = self.design.columns(kind)
            found[:, columns] = self.second[:, columns] >= 0
        tiles = [strip(self.box(number), self.bank.size) is not None for number in range(len(found))]
        found[:, self.design.columns("tiled")] = np.array(tiles)[:, None]
        return found


@dataclass(frozen=True)
class _Parts:
    photograph: Tensor
    object: Tensor
    mask: Tensor
    background: Tensor


class _Names(Sequence[str]):
    """Names of the images for error messages."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        photograph, column = divmod(index, len(self.images.design.kinds))
        file = self.images.bank.entries[int(self.images.numbers[photograph])].file
        return f"{file} ({self.images.design.kinds[column].partition(':')[0]})"


def paste(colours: Tensor, mask: Tensor, background: Tensor) -> Tensor:
    """Put an object on a background: (3, H, W), (1, H, W) and (3, H, W) uint8 -> (3, H, W) uint8."""
    weight = mask.float().mul_(1 / 255)
    return torch.lerp(background.float(), colours.float(), weight).round_().to(torch.uint8)


def place(
    colours: Tensor,
    mask: Tensor,
    box: tuple[int, int, int, int],
    background: Tensor,
    size: float,
    right: float,
    down: float,
) -> Tensor:
    """Put an object on a background in another size and position.

    Args:
        colours: (3, S, S) uint8, the object's colors.
        mask: (1, S, S) uint8.
        box: bounding box of the object, x0, y0, x1, y1 in pixels.
        background: (3, S, S) uint8.
        size: longer side of the object, as a share of S.
        right: 0 puts the object at the left edge, 1 at the right one.
        down: 0 puts it at the top, 1 at the bottom.
    """
    x0, y0, x1, y1 = box
    side = background.shape[-1]
    scale = size * side / max(x1 - x0, y1 - y0)
    high, wide = (max(1, min(side, round(scale * length))) for length in (y1 - y0, x1 - x0))
    cut = torch.cat([colours, mask])[:, y0:y1, x0:x1]
    cut = resize(cut, [high, wide], antialias=True)
    top, left = round(down * (side - high)), round(right * (side - wide))
    result = background.clone()
    where = (slice(None), slice(top, top + high), slice(left, left + wide))
    result[where] = paste(cut[:3], cut[3:], background[where])
    return result


def strip(box: tuple[int, int, int, int], side: int) -> tuple[bool, int, int] | None:
    """Return the widest strip of an image beside, above or below a box: whether it is vertical, and its ends in pixels.

    Return None if the strip is narrower than a sixteenth of the image.
    """
    x0, y0, x1, y1 = box
    strips = [(True, 0, x0), (True, x1, side), (False, 0, y0), (False, y1, side)]
    widest = max(strips, key=lambda found: found[2] - found[1])
    return widest if widest[2] - widest[1] >= _STRIP * side else None


def tile(image: Tensor, box: tuple[int, int, int, int]) -> Tensor | None:
    """Fill the object's box with tiles of the widest strip of background beside it; None if there is no such strip."""
    found = strip(box, image.shape[-1])
    if found is None:
        return None
    down, start, end = found
    x0, y0, x1, y1 = box
    result = image.clone()
    if down:
        result[:, y0:y1, x0:x1] = image[:, y0:y1, start + torch.arange(x1 - x0) % (end - start)]
    else:
        result[:, y0:y1, x0:x1] = image[:, start + torch.arange(y1 - y0) % (end - start), x0:x1]
    return result


def patches(colours: Tensor, mask: Tensor, draws: torch.Generator) -> Tensor:
    """Return a texture: a grid of random patches from inside an object, like CGN's textures.

    Args:
        colours: (3, S, S) uint8, the object's colors.
        mask: (1, S, S) uint8.
        draws: random generator for the patches.
    """
    side = mask.shape[-1]
    length = max(1, side // _PATCHES)
    covered = torch.nn.functional.avg_pool2d(mask.float() / 255, length, stride=max(1, length // 2))[0]
    best = covered.flatten().argsort(descending=True, stable=True)
    inside = int((covered.flatten() > 0.95).sum())
    candidates = best[: max(inside, min(4, len(best)))]  # a thin object may cover no patch whole
    chosen = candidates[torch.randint(len(candidates), (_PATCHES**2,), generator=draws)]
    step = max(1, length // 2)
    rows, columns = (chosen // covered.shape[1]) * step, (chosen % covered.shape[1]) * step
    within = torch.arange(length)
    cut = colours[:, (rows[:, None] + within)[:, :, None], (columns[:, None] + within)[:, None, :]]
    grid = cut.reshape(3, _PATCHES, _PATCHES, length, length).permute(0, 1, 3, 2, 4)
    grid = grid.reshape(3, _PATCHES * length, _PATCHES * length)
    over = side - grid.shape[-1]
    return torch.nn.functional.pad(grid[None].float(), (0, over, 0, over), mode="replicate")[0].to(torch.uint8)
