"""ImageNet-W: the effect of a watermark on accuracy on ImageNet's validation set (Li et al., 2023)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import center_crop, pil_to_tensor, resize, to_pil_image

from genaug._common.files import ImageError, no_folder, one_line
from genaug.evaluation.classes import IMAGENET
from genaug.evaluation.measures.imagenet import IMAGENET_IMAGES, subfolder
from genaug.evaluation.results import Result, of_heads
from genaug.evaluation.scoring import Model, labelled_folders, preprocessing, score

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from genaug.evaluation.scoring import Options

WATERMARK = "watermark.png"
CARTON = 478  # many training images of this class have such a watermark
_SIDE = 224


@dataclass(frozen=True, kw_only=True)
class WatermarkAccuracy(Result):
    """Accuracies without and with the watermark, in percent.

    Attributes:
        plain: of all classes, without the watermark.
        marked: of all classes, with it.
        carton_plain: of the class carton, without it; NaN if there are no images of it.
        carton_marked: of the class carton, with it.
    """

    what: str = "ImageNet-W"
    plain: float
    marked: float
    carton_plain: float
    carton_marked: float

    def figures(self) -> dict[str, float]:
        """Return the figures in percent.

        Reliance on the watermark gives a negative IN-W gap and a positive carton gap.
        """
        return {
            "top-1 without watermark": self.plain,
            "top-1 with watermark": self.marked,
            "IN-W gap": self.marked - self.plain,
            "carton gap": self.carton_marked - self.carton_plain,
        }


class _Watermark:
    """Crop an image to 224 pixels, as for ImageNet, and put the watermark on it."""

    def __init__(self, mark: Tensor | None, transform: Callable[[Any], Any]) -> None:
        self.mark, self.transform = mark, transform

    def __call__(self, image: Any) -> Any:
        image = center_crop(resize(image, [256], antialias=True), [_SIDE, _SIDE])
        if self.mark is not None:
            colours, weight = self.mark[:3], self.mark[3:] / 255
            laid = torch.lerp(pil_to_tensor(image).float(), colours, weight.expand_as(colours))
            image = to_pil_image(laid.round().to(torch.uint8))
        return self.transform(image)


def imagenet_w(
    model: Model,
    root: str | os.PathLike[str],
    *,
    watermark: str | os.PathLike[str] | None = None,
    transform: Callable[[Any], Any] | None = None,
    partial: bool = False,
    **options: Unpack[Options],
) -> WatermarkAccuracy:
    """Measure accuracy on ImageNet's validation set without and with a watermark.

    Args:
        model: returns 1,000 logits; see `genaug.evaluation.scoring`.
        root: folder with one folder per class, named by its wnid, directly or in `val`.
        watermark: an image with transparency, such as the one that ImageNet-W's authors publish. It is resized to
            224 x 224 pixels and laid over each cropped image (default: `root`/watermark.png).
        transform: PIL image of 224 x 224 pixels -> what the model takes (default: normalized for ImageNet).
        partial: evaluate incomplete data if classes are missing; an error otherwise.
        options: device, dtype, batch_size and num_workers, as `scoring.score` takes them.

    Raises:
        FileNotFoundError: there is no such folder, no class in it, or no watermark.
        ValueError: classes are missing, an image does not open, or as `scoring.score`.
    """
    if not Path(root).is_dir():
        raise no_folder(root)
    mark = _read(Path(root, WATERMARK) if watermark is None else Path(watermark))
    prepared = preprocessing(None, None) if transform is None else transform
    found: dict[str, list[tuple[float, float]]] = {}
    total = 0
    missing: tuple[str, ...] = ()
    for of in (None, mark):
        files, missing = labelled_folders(
            subfolder(root, "val"),
            IMAGENET,
            transform=_Watermark(of, prepared),
            partial=partial,
            expected=IMAGENET_IMAGES,
        )
        total = len(files)
        right: dict[str, list[Tensor]] = {}
        labels: list[Tensor] = []
        description = "ImageNet" if of is None else "ImageNet-W"
        for heads, targets in score(model, files, classes=(len(IMAGENET),), description=description, **options):
            labels.append(targets.cpu())
            for head, logits in heads.items():
                right.setdefault(head, []).append((logits.argmax(1) == targets).float().cpu())
        carton = torch.cat(labels) == CARTON
        for head, parts in right.items():
            answers = 100 * torch.cat(parts)
            found.setdefault(head, []).append((float(answers.mean()), float(answers[carton].mean())))
    return of_heads(
        {
            head: WatermarkAccuracy(
                images=total,
                missing=missing,
                plain=plain,
                marked=marked,
                carton_plain=carton_plain,
                carton_marked=carton_marked,
            )
            for head, ((plain, carton_plain), (marked, carton_marked)) in found.items()
        }
    )


def _read(file: Path) -> Tensor:
    """Return the watermark, (4, 224, 224) float32 in [0, 255]: its colors and its opacity."""
    from PIL import Image

    if not file.is_file():
        raise FileNotFoundError(
            f"no watermark: {file} must be an image with transparency, such as the one of ImageNet-W's authors"
        )
    try:
        with Image.open(file) as opened:
            return resize(pil_to_tensor(opened.convert("RGBA")), [_SIDE, _SIDE], antialias=True).float()
    except Exception as error:  # damaged files raise a dozen different types
        raise ImageError(f"{file} does not open as an image ({one_line(error)})") from None
