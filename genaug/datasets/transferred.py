"""Photographs in the style of interventional images: GenInt's X_itr (section 4.3), as a dataset over a folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as v2

from genaug._common.arguments import check_device, check_indices, check_integer, check_seed
from genaug._common.files import image_files, open_image


class TransferredFolder(Dataset[Any]):
    """A folder of photographs in the style of other images; image i depends on (seed, i) alone.

    Images are resized so that the shorter side is `size`, and cropped to the central square. Labels are those of the
    folder, because a transfer keeps the class.

    Args:
        root: one folder per class, as for `torchvision.datasets.ImageFolder`. File names must differ in more than the
            suffix.
        transfer: a `StyleTransferIntervention`, whose styles have `describe(i)`.
        seed: seed of the styles, the steps and the choice of images.
        size: height and width of the result, in pixels (default: 256, as in the paper).
        device: device of the computation (default: CPU). Images are returned on the CPU.
        batch_size: number of images in memory at once.

    Raises:
        FileNotFoundError: the folder does not exist, or a class has no image.
        ValueError: two files differ only in the suffix; or, when a sample is read, its file is not an image.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        transfer: Any,
        *,
        seed: int = 0,
        size: int = 256,
        device: torch.device | str | None = None,
        batch_size: int = 8,
    ) -> None:
        folder = image_files(root)
        self.root, self.classes, self.told = folder.root, list(folder.classes), folder.told
        self.files = [(Path(file), label) for file, label in folder.files]
        names, count = Counter(path.with_suffix("") for path, _ in self.files).most_common(1)[0]
        if count > 1:
            raise ValueError(f"{root} must have one file per name, got {count} files {names}.*")
        self.transfer = transfer
        self.seed = check_seed(seed)
        self.size = check_integer("size", size, 1)
        self.device = check_device("device", device)
        self.batch_size = check_integer("batch_size", batch_size, 1)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, int]:
        """Return an image, uint8 (3, size, size), and the index of its class."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[tv_tensors.Image, int]]:
        """Return several images, transferred together; each is the same as if transferred alone."""
        places = check_indices(indices, len(self)).tolist()
        made: list[tuple[tv_tensors.Image, int]] = []
        for start in range(0, len(places), self.batch_size):
            chunk = places[start : start + self.batch_size]
            images = torch.stack([self._read(place) for place in chunk]).to(self.device)
            images = self.transfer.transform(images, self.transfer.params_of(self.seed, chunk)).cpu()
            made += [
                (tv_tensors.Image(image, device=image.device), self.files[i][1])
                for image, i in zip(images, chunk, strict=True)
            ]
        return made

    def describe(self, index: int) -> dict[str, Any]:
        """Return the metadata of a sample.

        It has `file` (relative to the folder, without suffix), `label`, `index`, `seed`, `size`, and the transfer:
        whether it was `applied`, its `steps`, `method`, `network`, and the metadata of its `style`.
        """
        place = int(check_indices([index], len(self)))
        path, label = self.files[place]
        drawn = self.transfer.params_of(self.seed, [place])
        return {
            "file": path.with_suffix("").as_posix(),
            "label": label,
            "index": place,
            "seed": self.seed,
            "size": self.size,
            "applied": bool(drawn["applied"]),
            "steps": int(drawn["steps"]),
            "method": self.transfer.method,
            "network": self.transfer.network,
            "style": self.transfer.styles.describe(int(drawn["styles"])),
        }

    def _read(self, place: int) -> torch.Tensor:
        image = open_image(self.root / self.files[place][0])
        return v2.pil_to_tensor(v2.center_crop(v2.resize(image, [self.size]), [self.size]))
