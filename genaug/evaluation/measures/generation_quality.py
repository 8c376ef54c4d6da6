"""Inception score and FID of generated images, by torch-fidelity (CGN's Table 1 uses the Inception score).

Both depend on the weights of one Inception network, which torch-fidelity downloads at first use.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from genaug._common.arguments import check_device, check_integer
from genaug._common.files import one_line
from genaug._common.progress import progress
from genaug.assets.registry import UnavailableAssetError

INCEPTION = "inception-v3-compat"  # torch-fidelity's name for the network behind published figures


def generation_quality(
    generated: Dataset[Any] | Tensor,
    real: Dataset[Any] | Tensor | None = None,
    *,
    splits: int = 10,
    weights: str | os.PathLike[str] | None = None,
    feature_extractor: str = INCEPTION,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> dict[str, float]:
    """Compute the Inception score of generated images, and their FID to real images.

    Published figures use 50,000 generated images. With fewer images, scores are lower and distances are higher.

    Args:
        generated: images (N, 3, H, W) uint8, or a map-style dataset of them. If samples are pairs, the first entry is
            used.
        real: real images for FID, in the same form; None skips FID.
        splits: number of parts that the Inception score is averaged over, as published; at most N.
        weights: file of the network's weights, pt_inception-2015-12-05-6726825d.pth of torch-fidelity's releases
            (default: downloaded and cached).
        feature_extractor: name of a feature extractor that is registered with torch-fidelity. With any but the default,
            figures are not the Inception scores and FIDs of the literature.
        batch_size: images per batch.
        device: device of the network (default: CPU).

    Returns:
        "inception_score" and "inception_score_std" over the splits, and "fid" if there are real images.

    Raises:
        ModuleNotFoundError: torch-fidelity is not installed.
        ValueError: there are too few images, or an argument is out of range.
        TypeError: images are not uint8 (3, H, W).
        FileNotFoundError: there is no such file of weights.
        RuntimeError: the weights cannot be downloaded.
    """
    try:
        import torch_fidelity
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "the Inception score and FID need torch-fidelity: pip install 'genaug[eval]'"
        ) from None
    where = check_device("device", device)
    if where.index not in (None, torch.cuda.current_device() if where.type == "cuda" else None):
        raise ValueError(f"device must be cpu or the current CUDA device, which torch-fidelity takes, got {where}")
    check_integer("batch_size", batch_size, 1)
    sets = {"generated": _Images("generated", generated)}
    if real is not None:
        sets["real"] = _Images("real", real)
    for name, images in sets.items():
        if len(images) < 2:
            raise ValueError(f"{name} must hold at least two images, got {len(images)}")
    if check_integer("splits", splits, 1) > len(sets["generated"]):
        raise ValueError(f"splits must be at most the {len(sets['generated'])} generated images, got {splits}")
    file = None if weights is None else str(_checked(weights))
    total = sum(len(images) for images in sets.values())
    try:
        with (
            # torch-fidelity's loaders draw seeds from the global random state
            torch.random.fork_rng(devices=[where] if where.type == "cuda" else []),
            progress(total=total, description="generation quality", unit="image") as bar,
        ):
            for images in sets.values():
                images.bar = bar
            found = torch_fidelity.calculate_metrics(
                input1=sets["generated"],
                input2=sets.get("real"),
                isc=True,
                fid="real" in sets,
                isc_splits=splits,
                feature_extractor=feature_extractor,
                feature_extractor_weights_path=file,
                batch_size=batch_size,
                cuda=where.type == "cuda",
                cache=False,  # entries would have a name as key, which does not identify the images
                save_cpu_ram=True,  # starts no workers, since generators on a GPU cannot be forked
                verbose=False,
            )
    except (URLError, ConnectionError, TimeoutError) as error:
        raise UnavailableAssetError(
            f"weights of {feature_extractor} could not be fetched ({one_line(error)}); pass a file of them as weights"
        ) from error
    results = {
        "inception_score": found[torch_fidelity.KEY_METRIC_ISC_MEAN],
        "inception_score_std": found[torch_fidelity.KEY_METRIC_ISC_STD],
    }
    return results | ({"fid": found[torch_fidelity.KEY_METRIC_FID]} if "real" in sets else {})


def _checked(weights: str | os.PathLike[str]) -> Path:
    """Return the file if it holds only tensors, since torch-fidelity would execute any other pickled content."""
    path = Path(weights)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        torch.load(path, map_location="meta", weights_only=True)
    except Exception as error:  # damaged files raise a dozen different types
        raise ValueError(f"weights must be a file of tensors, but {path} is not ({one_line(error)})") from None
    return path


class _Images(Dataset[Tensor]):
    """Images without labels, checked. Whole batches are requested at once from datasets with `__getitems__`."""

    bar: Any = None  # progress bar, which counts the images that are read

    def __init__(self, name: str, images: Any) -> None:
        self.name = name
        self.images = TensorDataset(images) if isinstance(images, Tensor) else images
        if not hasattr(self.images, "__len__") or not hasattr(self.images, "__getitem__"):
            raise TypeError(f"{name} must be a tensor or a map-style dataset, got {type(images).__name__}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self._image(self.images[index])

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        together = getattr(self.images, "__getitems__", None)
        samples = [self.images[i] for i in indices] if together is None else together(indices)
        if self.bar is not None:
            self.bar.update(len(samples))
        return [self._image(sample) for sample in samples]

    def _image(self, sample: Any) -> Tensor:
        image = sample[0] if isinstance(sample, (tuple, list)) else sample
        if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3:
            tensor = isinstance(image, Tensor)
            came = f"{image.dtype} of {tuple(image.shape)}" if tensor else type(image).__name__
            raise TypeError(f"{self.name} must hold images (3, H, W) uint8, got {came}")
        return image.as_subclass(Tensor)
