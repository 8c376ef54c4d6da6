"""Masks of photographs, from files, saliency networks or any callable, and their post-processing.

Throughout the package, `masks=` accepts:

- `"u2netp"`, which ships with the package, or `"u2net"`: saliency networks, in batches and on any device;
- `"rembg:NAME"`: a model of the rembg library, if that is installed;
- `"alpha"`: the photographs' own transparency;
- a folder of PNG masks: either with the same subfolders as the photographs (`masks/dog/1.png` for
  `photographs/dog/1.jpg`), or the folder of photographs itself (`dog/1_mask.png` next to `dog/1.jpg`). Values are 0 and
  255, 0 and 1, soft (0 to 255), or trimaps as in Oxford-IIIT Pets (1 object, 2 background, 3 border). A palette of
  grays is read by its grays, any other palette by its indices;
- a COCO file of polygons or RLE (`.json`), with the `pycocotools` library;
- a callable that maps a PIL image to a mask (H, W): bool, float in [0, 1], or uint8.
"""

from __future__ import annotations

import json
import os
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from PIL import Image

from genaug._common.arguments import check_device, near
from genaug._common.files import (
    MASK_SUFFIX,
    ImageError,
    ImageFiles,
    checksum,
    images_below,
    lower_suffix,
    one_line,
    open_with_alpha,
)
from genaug._common.imagenet import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from genaug.generators.u2net import FastU2Net

Masks = str | os.PathLike[str] | Callable[[Any], Any]
NETWORKS = ("u2netp", "u2net")
# Side of the networks' input, in pixels. They were trained at 320. At 256, masks are a little better and take two
# thirds of the time (docs/cutouts.md).
_SIDE = 256

# How masks of networks are cleaned; docs/cutouts.md explains each number.
_SURE = 0.5  # a pixel with at least this probability belongs to the object
_PIECE = 0.2  # pieces smaller than this share of the largest one are dropped
_HOLE = 0.02  # holes smaller than this share of the object are filled
_EDGE = (0.25, 0.75)  # probabilities that become 0 and 1 at the object's edge


class MaskSource(Protocol):
    """A source of masks.

    `name` identifies it in a bank's settings. `cleaned` says whether `build.cutout` must post-process its masks.
    """

    name: str
    cleaned: bool

    def __call__(self, files: Sequence[str], images: Sequence[Image.Image]) -> list[np.ndarray]:
        """Return masks (H, W) float32 in [0, 1] of photographs, of any size with the proportions of the photograph.

        Args:
            files: paths of the photographs, relative to their folder.
            images: the photographs, RGB or RGBA.
        """
        ...

    def fingerprint(self, file: str) -> str | int | None:
        """Return a checksum of a photograph's mask, or None if it is not read from a file of masks."""
        return None


def mask_source(masks: Masks, photographs: ImageFiles, device: torch.device | str | None = None) -> MaskSource:
    """Return the source for `masks=`, checked against the photographs.

    Args:
        masks: one of the forms at the top of this module.
        photographs: the photographs that need masks.
        device: device of a saliency network (default: CPU).

    Raises:
        ValueError: the name is unknown, a photograph has no mask, or a mask has no photograph; the message names it.
        FileNotFoundError: the folder or file does not exist.
        ModuleNotFoundError: the library that it needs is not installed.
        TypeError: `masks` is an object of another type.
    """
    if callable(masks):
        return _Callable(masks)
    if not isinstance(masks, (str, os.PathLike)):
        raise TypeError(f"masks must be a name, a path or a callable, got {type(masks).__name__}")
    name = os.fspath(masks)
    if name in NETWORKS:
        return SaliencyNetwork(name, device)
    if name == "alpha":
        return _Alpha()
    if name.startswith("rembg:"):
        return _Rembg(name.removeprefix("rembg:"))
    path = Path(name)
    if path.is_dir():
        return _Folder(path, photographs)
    if path.is_file() and path.suffix == ".json":
        return _Coco(path, photographs)
    if path.suffix or len(path.parts) > 1 or isinstance(masks, os.PathLike):
        raise FileNotFoundError(f"masks must be a folder or a COCO .json file, got {name}, which is neither")
    known = (*NETWORKS, "alpha", "rembg:NAME")
    raise ValueError(
        f"masks must be one of {', '.join(map(repr, known))}, a folder, a COCO .json file or a callable, got {name!r}"
        f"{near(name, known)}"
    )


def saliency_network(name: str, device: torch.device | str = "cpu") -> FastU2Net:
    """Load one of `NETWORKS` in its fast form. `normalized` prepares its input."""
    from genaug.assets import load_asset
    from genaug.generators.u2net import KIND, KIND_SMALL

    build = (KIND_SMALL if name == "u2netp" else KIND).build
    assert build is not None
    with torch.device("meta"):
        network: Any = build({})
    network.load_state_dict(load_asset(name)[0], assign=True)
    return network.eval().fast(device)


def normalized(images: torch.Tensor) -> torch.Tensor:
    """Return images (..., 3, H, W) in [0, 1], normalized with ImageNet's mean and standard deviation."""
    mean, deviation = (images.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / deviation


class SaliencyNetwork(MaskSource):
    """Masks by U2-Net or U2-Net-p, which find the pixels that stand out, whatever the class.

    On a CPU, each photograph is computed alone, so that its mask does not depend on the batch.
    """

    cleaned = True

    def __init__(self, name: str, device: torch.device | str | None = None) -> None:
        self.name = name
        self._device = check_device("device", device)
        self._network = saliency_network(name, self._device)

    def __call__(self, files: Sequence[str], images: Sequence[Image.Image]) -> list[np.ndarray]:
        batch = torch.stack([self._prepared(image) for image in images]).to(self._device)
        return list(self._network(batch)[:, 0].cpu().numpy())

    @staticmethod
    def _prepared(image: Image.Image) -> torch.Tensor:
        """Return the input (3, 256, 256), normalized as by the authors: divided by its maximum, then as ImageNet."""
        pixels = np.asarray(image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0))
        values = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float()
        values /= values.max().clamp(min=1)
        return normalized(values)


class _Rembg(MaskSource):
    """Masks by a model of the rembg library, which downloads it at first use."""

    cleaned = True

    def __init__(self, model: str) -> None:
        try:
            from rembg import new_session, remove
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                f"masks='rembg:{model}' needs the rembg library: pip install 'rembg[cpu]'"
            ) from None
        self.name = f"rembg:{model}"
        try:
            self._session, self._remove = new_session(model), remove
        except Exception as error:  # an unknown name, or any error of a download
            raise RuntimeError(
                f"masks='rembg:{model}' could not be opened ({one_line(error)}). rembg downloads its models at first "
                "use; u2netp needs no download"
            ) from error

    def __call__(self, files: Sequence[str], images: Sequence[Image.Image]) -> list[np.ndarray]:
        masks = (self._remove(image.convert("RGB"), session=self._session, only_mask=True) for image in images)
        return [np.asarray(mask.convert("L"), dtype=np.float32) / 255 for mask in masks]


class _Alpha(MaskSource):
    """Masks from the photographs' own transparency."""

    name, cleaned = "alpha", False

    def __call__(self, files: Sequence[str], images: Sequence[Image.Image]) -> list[np.ndarray]:
        for file, image in zip(files, images, strict=True):
            if image.mode != "RGBA":
                raise ValueError(f"masks='alpha' needs photographs with transparency, but {file} has none")
        return [np.asarray(image.getchannel("A"), dtype=np.float32) / 255 for image in images]


class _Callable(MaskSource):
    """Masks from a user's callable."""

    cleaned = False

    def __init__(self, function: Callable[[Image.Image], Any]) -> None:
        self.name = f"callable {getattr(function, '__qualname__', type(function).__qualname__)}"
        self._function = function

    def __call__(self, files: Sequence[str], images: Sequence[Image.Image]) -> list[np.ndarray]:
        return [self._one(file, image.convert("RGB")) for file, image in zip(files, images, strict=True)]

    def _one(self, file: str, image: Image.Image) -> np.ndarray:
        made = self._function(image)
        mask = np.asarray(made.cpu() if isinstance(made, torch.Tensor) else made)
        if mask.ndim == 3 and 1 in (mask.shape[0], mask.shape[-1]):
            mask = mask[0] if mask.shape[0] == 1 else mask[..., 0]
        if mask.shape != (image.height, image.width):
            raise ValueError(
                f"masks must return a mask of shape {(image.height, image.width)} for {file}, got {mask.shape}"
            )
        if mask.dtype == np.uint8:
            return _values(mask, f"the mask of {file}")
        mask = mask.astype(np.float32)
        if not (np.isfinite(mask).all() and mask.min() >= 0 and mask.max() <= 1):
            raise ValueError(f"masks must return values in [0, 1], or uint8, for {file}, got others")
        return mask


class _Folder(MaskSource):
    """Masks in files, in a folder with the same subfolders as the photographs, or next to them."""

    cleaned = False

    def __init__(self, folder: Path, photographs: ImageFiles) -> None:
        root = photographs.root.resolve()
        beside = folder.resolve() == root
        if not beside and folder.resolve().is_relative_to(root):
            raise ValueError(
                f"masks must be in a folder outside {photographs.root}, whose folders are classes, or beside their "
                f"photographs, got {folder}. Move it"
            )
        self.name = "beside" if beside else f"folder {folder.resolve().name}"
        found, _, others = ([], 0, photographs.others) if beside else images_below(folder, folder)
        paths = {lower_suffix(name): folder / name for name in (*others, *found)}
        suffix = MASK_SUFFIX if beside else ".png"
        wanted = {file: f"{Path(file).with_suffix('').as_posix()}{suffix}" for file, _ in photographs.files}
        if missing := [file for file, name in wanted.items() if name not in paths]:
            raise ValueError(
                f"masks must have one for each photograph, but {len(missing)} of {len(wanted)} have none; "
                f"the first is {missing[0]}, whose mask would be {folder / wanted[missing[0]]}"
            )
        self._paths = {file: paths[name] for file, name in wanted.items()}
        known = set(wanted.values())
        if extra := [name for name in map(lower_suffix, found) if name.endswith(".png") and name not in known]:
            first = paths[extra[0]]
            raise ValueError(f"masks must belong to photographs, but {len(extra)} have none, such as {first}")

    def __call__(self, files: Sequence[str], images: Sequence[Image.Image]) -> list[np.ndarray]:
        return [self._one(file, image) for file, image in zip(files, images, strict=True)]

    def fingerprint(self, file: str) -> int:
        return zlib.crc32(self._paths[file].read_bytes())

    def _one(self, file: str, image: Image.Image) -> np.ndarray:
        path = self._paths[file]
        try:
            with Image.open(path) as opened:
                if opened.mode not in ("1", "L", "P", "I;16"):
                    raise ValueError(f"a mask must be gray, but its mode is {opened.mode}")
                values = np.asarray(opened)
                if opened.mode == "P":
                    colors = np.asarray(opened.convert("RGBA"))[..., :3]
                    # programs order a palette of grays as they like; colors stand for the numbers of classes
                    values = colors[..., 0] if (colors == colors[..., :1]).all() else values
        except Exception as error:
            raise ImageError(f"{path} does not open as a mask ({one_line(error)})") from None
        if values.shape != (image.height, image.width):
            turned = (
                " The photograph has an EXIF orientation: masks must be upright."
                if (values.shape == (image.width, image.height))
                else ""
            )
            raise ValueError(
                f"{path} must have the size of its photograph, {image.width} x {image.height} pixels, "
                f"got {values.shape[1]} x {values.shape[0]}.{turned}"
            )
        if values.dtype == np.uint16:
            values = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return _values(values.astype(np.uint8), str(path))


def _values(values: np.ndarray, what: str) -> np.ndarray:
    """Return a uint8 mask as float32 in [0, 1]. Its values are 0 and 1, a trimap's 1, 2 and 3, or 0 to 255."""
    largest = int(values.max(initial=0))
    if largest <= 1:
        return values.astype(np.float32)
    if largest <= 3:
        if values.min() < 1:
            raise ValueError(f"{what} must have 0 and 1, 0 to 255, or a trimap's 1, 2 and 3, got 0 to {largest}")
        return _trimap(values)
    return values.astype(np.float32) / 255


def _trimap(values: np.ndarray) -> np.ndarray:
    """Return the mask of a trimap (1 object, 2 background). In the border, 3, it depends on the distance to both."""
    import cv2

    to_object = cv2.distanceTransform((values != 1).astype(np.uint8), cv2.DIST_L2, 5)
    to_background = cv2.distanceTransform((values != 2).astype(np.uint8), cv2.DIST_L2, 5)
    return (to_background / np.maximum(to_object + to_background, 1e-6)).astype(np.float32)


class _Coco(MaskSource):
    """Masks from a COCO file: all annotations of a photograph together."""

    cleaned = False

    def __init__(self, path: Path, photographs: ImageFiles) -> None:
        try:
            from pycocotools import mask as coco
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                f"{path}: COCO masks need the pycocotools library: pip install pycocotools"
            ) from None
        self.name, self._coco = f"coco {path.name}", coco
        try:
            content = json.loads(path.read_text())
            sizes = {row["id"]: (row["file_name"], row["height"], row["width"]) for row in content["images"]}
            shapes: dict[str, list[Any]] = {name: [] for name, _, _ in sizes.values()}
            for row in content["annotations"]:
                shapes[sizes[row["image_id"]][0]].append(row["segmentation"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} must be a COCO file with images and annotations ({one_line(error)})") from None
        self._sizes = {name: (height, width) for name, height, width in sizes.values()}
        self._shapes = {}
        for file, _ in photographs.files:
            # COCO files of whole datasets name images without their folder
            name = file if file in shapes else Path(file).name
            if not shapes.get(name):
                raise ValueError(f"{path} must have a mask for each photograph, but {file} has none")
            self._shapes[file] = (name, shapes[name])

    def __call__(self, files: Sequence[str], images: Sequence[Image.Image]) -> list[np.ndarray]:
        return [self._one(file, image) for file, image in zip(files, images, strict=True)]

    def fingerprint(self, file: str) -> str:
        return checksum(self._shapes[file])

    def _one(self, file: str, image: Image.Image) -> np.ndarray:
        name, shapes = self._shapes[file]
        height, width = self._sizes[name]
        if (height, width) != (image.height, image.width):
            raise ValueError(
                f"the COCO mask of {file} must have the size of its photograph, {image.width} x {image.height} pixels, "
                f"got {width} x {height}"
            )
        mask = np.zeros((height, width), bool)
        for shape in shapes:
            if isinstance(shape, list) or isinstance(shape["counts"], list):
                encoded = self._coco.frPyObjects(shape, height, width)
                encoded = self._coco.merge(encoded) if isinstance(encoded, list) else encoded
            else:
                encoded = shape
            with warnings.catch_warnings():  # releases before 2.0.9 use numpy in a deprecated way
                warnings.simplefilter("ignore", DeprecationWarning)
                mask |= self._coco.decode(encoded).astype(bool)
        return mask.astype(np.float32)


def cleaned(probabilities: np.ndarray) -> np.ndarray:
    """Post-process the mask of a network.

    Pixels of at least 0.5 form the object. Pieces smaller than 20% of the largest one are dropped, and holes smaller
    than 2% of the object are filled. The inside becomes 1 and the outside 0. The edge between them stays soft, over
    about two pixels on either side.

    Args:
        probabilities: (H, W) float32 in [0, 1].

    Returns:
        The same shape.
    """
    import cv2

    sure = (probabilities >= _SURE).astype(np.uint8)
    count, pieces, statistics, _ = cv2.connectedComponentsWithStats(sure, connectivity=8)
    if count == 1:
        return np.zeros_like(probabilities)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    kept = np.concatenate([[False], areas >= _PIECE * areas.max()])
    inside = kept[pieces]
    count, holes, statistics, _ = cv2.connectedComponentsWithStats((~inside).astype(np.uint8), connectivity=4)
    small = statistics[:, cv2.CC_STAT_AREA] < _HOLE * inside.sum()
    small[0] = False  # the object itself
    filled = inside | small[holes]
    kernel = np.ones((3, 3), np.uint8)
    core = cv2.erode(filled.astype(np.uint8), kernel, iterations=2, borderValue=1).astype(bool)
    reach = cv2.dilate(filled.astype(np.uint8), kernel, iterations=2).astype(bool)
    low, high = _EDGE
    soft = np.clip((probabilities - low) / (high - low), 0, 1)
    soft = np.where(small[holes], 1, soft)
    return np.where(core, 1, np.where(reach, soft, 0)).astype(np.float32)


def certainty(probabilities: np.ndarray, mask: np.ndarray) -> float:
    """Return how well a network's probabilities agree with the cleaned mask: their soft IoU, in [0, 1].

    Args:
        probabilities: (H, W) float32 in [0, 1].
        mask: the result of `cleaned` for them.
    """
    inside = (mask >= _SURE).astype(np.float32)
    union = np.maximum(probabilities, inside).sum()
    return float(np.minimum(probabilities, inside).sum() / union) if union else 1.0


def open_photograph(path: str | os.PathLike[str]) -> Image.Image:
    """Open a photograph for a bank: RGB, or RGBA if it has transparency.

    Raises:
        ImageError: the file does not open, or a side is shorter than 16 pixels; the message names it.
    """
    image = open_with_alpha(path)
    if min(image.size) < 16:
        raise ImageError(f"{os.fspath(path)} must have at least 16 pixels a side, got {image.width} x {image.height}")
    return image
