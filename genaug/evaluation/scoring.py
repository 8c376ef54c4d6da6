"""Score any model on labeled images, batch by batch: the logits of each head.

A model is any callable from a batch of images (B, 3, H, W) to logits (B, num_classes), such as a torchvision or timm
module, or a function. A model with several heads returns a mapping from their names to logits instead, with its own
answer under "ensemble". If the model takes `heads`, it is called as `model(images, heads=True)` to return that mapping.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchvision.transforms import v2

from genaug._common.arguments import check_device, check_integer
from genaug._common.files import (
    ImageError,
    digest,
    hidden_text,
    images_below,
    is_hidden,
    list_images,
    no_folder,
    open_as_published,
    tell_skipped,
)
from genaug._common.imagenet import IMAGENET_MEAN, IMAGENET_STD
from genaug._common.precision import autocast
from genaug._common.progress import progress
from genaug.generators.images import from_uint8
from genaug.interventions.steering import evaluating, fitting_memory

ENSEMBLE = "ensemble"  # the head that is the model's answer; a model without heads has only this one


MOST_WORKERS = 1_000  # processes that read images
_NAMED = 5  # missing parts that a message names before "..."

Model = Callable[..., Any]
Label = TypeVar("Label")


class Options(TypedDict, total=False):
    """The scoring options of all measures; see `score`."""

    batch_transform: Callable[[Tensor], Tensor] | None
    device: torch.device | str | None
    dtype: torch.dtype | None
    batch_size: int
    num_workers: int


def preprocessing(
    resize: int | None = 256,
    crop: int | None = 224,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> v2.Compose:
    """Return the test transform of ImageNet classifiers: PIL image -> (3, crop, crop) float32, normalized.

    Args:
        resize: the shorter side, in pixels; None keeps the image's size.
        crop: side of the square that is cut from the middle, in pixels; None keeps the whole image.
        mean: mean of each channel, in [0, 1].
        std: standard deviation of each channel.
    """
    sizes: list[nn.Module] = []
    if resize is not None:
        sizes.append(v2.Resize(resize))
    if crop is not None:
        sizes.append(v2.CenterCrop(crop))
    return v2.Compose([*sizes, v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])


class ImageFiles(Dataset[tuple[Any, Any]]):
    """Image files and their labels.

    Args:
        paths: the files.
        labels: one per file, an int or a dict of ints.
        transform: PIL image (RGB) -> what the model takes (default: `preprocessing()`).
        opened: path -> PIL image. The default ignores the EXIF orientation, as published figures do; pass
            `files.open_image` for users' own photographs.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Sequence[Any],
        transform: Callable[[Any], Any] | None = None,
        opened: Callable[[Path], Any] = open_as_published,
    ) -> None:
        if len(paths) != len(labels):
            raise ValueError(f"labels must be one for each of {len(paths)} paths, got {len(labels)}")
        self.paths = list(paths)
        self.labels = list(labels)
        self.transform = preprocessing() if transform is None else transform
        self.opened = opened

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Return the transformed image and its label. If the file does not open, raise an ImageError that names it."""
        return self.transform(self.opened(self.paths[index])), self.labels[index]


def image_paths(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the image files of a folder and its subfolders, sorted. Links are followed, hidden files are skipped.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise no_folder(folder)
    return sorted(list_images(folder))


def labelled_folders(
    root: str | os.PathLike[str],
    labels: Mapping[str, Label],
    *,
    transform: Callable[[Any], Any] | None = None,
    partial: bool = False,
    expected: int | None = None,
) -> tuple[ImageFiles, tuple[str, ...]]:
    """Return the images of root/<folder>/ with labels from the folder names. Other folders are left out.

    Args:
        root: the folder of folders.
        labels: folder name -> label, for each folder of the dataset.
        transform: as for `ImageFiles`.
        partial: read incomplete data if folders are missing; an error otherwise.
        expected: number of images of the whole dataset.

    Returns:
        The images, and the missing parts of the dataset, in words; empty if it is complete.

    Raises:
        FileNotFoundError: there is no such folder, or it has none of the folders in `labels`.
        ValueError: some folders are missing or empty, and `partial` is false; the message names them.
    """
    root = Path(root)
    if not root.is_dir():
        raise no_folder(root)
    found: dict[str, list[Path]] = {}
    hidden = sum(map(is_hidden, os.listdir(root)))
    for name in labels:
        images, skipped, _ = images_below(root / name, root) if (root / name).is_dir() else ([], 0, [])
        found[name] = sorted(root / image for image in images)
        hidden += skipped
    tell_skipped(root, hidden_text(hidden) if hidden else "")
    absent = [name for name, paths in found.items() if not paths]
    if len(absent) == len(labels):
        raise FileNotFoundError(f"{root} must have folders of images such as {absent[0]!r}, got none")
    missing = missing_parts("class folders", absent, len(labels), str(root), partial)
    files = [(path, labels[name]) for name, paths in found.items() for path in paths]
    if expected is not None and len(files) < expected:
        missing = (*missing, f"{expected - len(files):,} of {expected:,} images")
    return ImageFiles([path for path, _ in files], [label for _, label in files], transform), missing


def missing_parts(what: str, absent: Sequence[str] | int, total: int, where: str, partial: bool) -> tuple[str, ...]:
    """Return what is missing of a dataset, in words.

    Args:
        what: the kind of its parts, such as "class folders".
        absent: the names of the missing parts, or their number.
        total: number of parts of the whole dataset.
        where: the folder or set that they are missing from.
        partial: whether a partial result was asked for.

    Raises:
        ValueError: parts are missing, and no partial result was asked for.
    """
    if not absent:
        return ()
    names = [] if isinstance(absent, int) else list(absent)
    listed = f": {', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''}" if names else ""
    words = f"{len(names) or absent:,} of {total:,} {what}{listed}"
    if not partial:
        raise ValueError(
            f"{where} is missing {words}; partial=True (on the command line --partial) evaluates the rest and marks "
            "the result"
        )
    return (words,)


def weights_digest(model: Model) -> str | None:
    """Return a checksum of a module's weights, or None for a function and for a module without weights."""
    weights = model.state_dict() if isinstance(model, nn.Module) else {}
    return digest({name: tensor.detach().cpu() for name, tensor in weights.items()}) if weights else None


def place(model: Model, device: torch.device | str | None) -> torch.device:
    """Move a module to the device, if one is given, and return its device. A function's is the given one or the CPU.

    Raises:
        ValueError, TypeError: there is no such device.
    """
    module = behind(model)
    if module is not None:
        if device is not None:
            module.to(check_device("device", device))
        tensor = next((tensor for tensors in (module.parameters(), module.buffers()) for tensor in tensors), None)
        if tensor is not None:
            return tensor.device
    return check_device("device", device)


@torch.no_grad()
def score(
    model: Model,
    images: Dataset[Any] | Iterable[tuple[Tensor, Any]],
    *,
    batch_transform: Callable[[Tensor], Tensor] | None = None,
    classes: Collection[int] = (),
    description: str = "",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
) -> Iterator[tuple[dict[str, Tensor], Any]]:
    """Yield the logits of each head and the targets, batch by batch and in order. Each image comes once.

    A module is put into evaluation mode, and afterwards back into the mode that each of its parts was in.

    Args:
        model: see the docstring of this module.
        images: a map-style dataset of images (3, H, W) and targets, or an iterable of batches of them, such as a
            `DataLoader`. Floats go to the model unchanged. uint8 images go through `batch_transform`. Without one they
            are normalized by the model's `preprocessing` ("mean" and "std", see `MultiHeadClassifier`). A model without
            it is assumed to take [-1, 1], as genaug's digit classifiers do; the log says so.
        batch_transform: batches (B, 3, H, W) uint8 -> what the model takes.
        classes: allowed numbers of logits, such as (1000,) (default: any).
        description: text of the progress bar; without one there is no bar.
        device: device of the computation. A module is moved there and stays (default: where it is).
        dtype: torch.bfloat16 or torch.float16 for autocast.
        batch_size: images per batch of a dataset; a loader has its own.
        num_workers: processes that read a dataset; a loader has its own.

    Yields:
        {head: (B, num_classes) float32}, "ensemble" among them, and the targets, all on the device.

    Raises:
        ImageError: a file does not open; the message names it.
        ValueError: logits are not finite (the message names the image) or have the wrong shape or number, or an
            argument is out of range.
        TypeError: the model returns something other than logits or a mapping of them, or images come in another form.
    """
    if dtype not in (None, torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype must be torch.float32, torch.bfloat16 or torch.float16, got {dtype}")
    batch_size = check_integer("batch_size", batch_size, 1)
    num_workers = check_integer("num_workers", num_workers, 0, MOST_WORKERS)
    where = place(model, device)
    names = _names(images)
    total = None
    if isinstance(images, Dataset) and not isinstance(images, IterableDataset):
        total = len(images)  # type: ignore[arg-type]
        loader = DataLoader(
            images,
            batch_size=batch_size,
            num_workers=num_workers,
            pin_memory=where.type == "cuda",
            generator=torch.Generator(),  # otherwise the seed of the workers advances the global random state
        )
        images = _on_cpu(loader)
    ask = {"heads": True} if _takes_heads(model) else {}
    seen = 0
    module = behind(model)
    if module is None and any(inner.training for inner in _closed_over(model)):
        warnings.warn(
            "model is a function that calls a module in training mode: its answers depend on the batch, and its "
            "statistics change; pass the module itself, or call its eval()",
            stacklevel=2,
        )
    with ExitStack() as stack:
        if module is not None:
            stack.enter_context(evaluating(module))
        bar = stack.enter_context(progress(total=total, description=description, unit="image")) if description else None
        for pair in naming_files(images):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[0], Tensor):
                raise TypeError(
                    f"images must come as pairs of a batch (B, 3, H, W) and its targets, got {type(pair).__name__}"
                )
            batch, targets = pair
            batch = batch.to(where, non_blocking=True)
            if batch.dtype == torch.uint8:
                batch_transform = batch_transform or _normalizing(module)
                batch = batch_transform(batch)
            if batch.is_floating_point() and dtype in (None, torch.float32):
                batch = batch.to(arithmetic(module) or batch.dtype)
            with (
                fitting_memory(f"{len(batch)} images do not fit into memory together: choose a smaller batch_size"),
                autocast(where, dtype),
            ):
                output = model(batch, **ask)
            logits = _checked(output, len(batch), classes, names, seen)
            seen += len(batch)
            yield logits, _to(targets, where)
            if bar is not None:
                bar.update(len(batch))


def arithmetic(module: nn.Module | None) -> torch.dtype | None:
    """Return the floating-point type of a module's weights, or None for a function and for mixed types."""
    kinds = {tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()} if module is not None else ()
    return next(iter(kinds)) if len(kinds) == 1 else None


def _normalizing(module: nn.Module | None) -> Callable[[Tensor], Tensor]:
    """Return the normalization of uint8 batches for a model: by its mean and deviation, or else to [-1, 1]."""
    described = getattr(_unwrapped(module), "preprocessing", None)
    if isinstance(described, Mapping) and {"mean", "std"} <= set(described):
        mean, std = described["mean"], described["std"]
        return v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
    if not getattr(_unwrapped(module), "takes_signed", False):
        _say_assumed()
    return from_uint8


@functools.cache
def _say_assumed() -> None:
    logging.getLogger("genaug").warning(
        "uint8 images are scored as [-1, 1], since the model does not say how it is to be given them: pass "
        "batch_transform=, or images that are floats"
    )


def _unwrapped(model: Any) -> Any:
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(model, wrappers) or hasattr(model, "_orig_mod"):  # torch.compile sets _orig_mod
        model = model.module if isinstance(model, wrappers) else model._orig_mod
    return model


def behind(model: Model) -> nn.Module | None:
    """Return the module behind a model, also behind a bound method or a partial; None if there is no module."""
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, functools.partial):
        return behind(model.func)
    owner = getattr(model, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def _closed_over(function: Any) -> list[nn.Module]:
    """Return the modules that a Python function refers to."""
    code = getattr(function, "__code__", None)
    if code is None:
        return []
    cells = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
    used = [function.__globals__.get(name) for name in code.co_names]
    return [value for value in (*cells, *used) if isinstance(value, nn.Module)]


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _takes_heads(model: Any) -> bool:
    model = _unwrapped(model)
    try:
        return "heads" in inspect.signature(model.forward if isinstance(model, nn.Module) else model).parameters
    except (TypeError, ValueError):  # a built-in, or not a function
        return False


def _names(images: Any) -> Callable[[int], str]:
    """Return a function from an image's position to its name in errors."""
    paths = getattr(images, "paths", None)
    if paths is None and hasattr(images, "samples"):  # torchvision's ImageFolder
        paths = [path for path, _ in images.samples]
    return (lambda i: str(paths[i])) if paths is not None else (lambda i: f"image {i}")


def _on_cpu(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield the batches of a loader. Its seed and labels are made on the CPU, not on the caller's default device."""
    with torch.device("cpu"):
        batches = iter(loader)
    while True:
        with torch.device("cpu"):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def naming_files(images: Iterable[Any]) -> Iterator[Any]:
    """Yield from `images`. An ImageError of a loader's worker is raised with its own message, without the traceback."""
    said = ""
    try:
        yield from images
    except ImageError as error:
        said = str(error)
        # torch's error and its traceback refer to each other, which keeps workers alive until garbage is collected
        error.__traceback__ = None
    if said:
        # torch's message for a worker's error is the whole traceback; its last line is the original message
        raise ImageError(said.rstrip().rsplit("ImageError: ", 1)[-1])


def _checked(
    output: Any, count: int, classes: Collection[int], names: Callable[[int], str], seen: int
) -> dict[str, Tensor]:
    heads = {ENSEMBLE: output} if isinstance(output, Tensor) else output
    if not isinstance(heads, Mapping) or ENSEMBLE not in heads:
        came = f"a mapping of {', '.join(map(str, heads))}" if isinstance(heads, Mapping) else type(heads).__name__
        raise TypeError(
            f"model must return logits (B, num_classes), or a mapping of heads to them with an {ENSEMBLE!r}, but "
            f"returned {came}"
        )
    for head, logits in heads.items():
        of_head = f" of the head {head!r}" if len(heads) > 1 else ""
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != count:
            came = str(tuple(logits.shape)) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"logits{of_head} must be (B, num_classes) with B = {count}, got {came}")
        if classes and logits.shape[1] not in classes:
            expected = " or ".join(f"{number:,}" for number in classes)
            raise ValueError(
                f"the model must return {expected} logits, in the usual order of the classes, got "
                f"{logits.shape[1]:,}{of_head}"
            )
        finite = logits.isfinite().all(dim=1)
        if not finite.all():
            first = int((~finite).nonzero()[0, 0])
            raise ValueError(f"logits{of_head} must be finite, but those of {names(seen + first)} hold NaN or infinity")
    return {str(head): logits.float() for head, logits in heads.items()}


def _to(targets: Any, device: torch.device) -> Any:
    if isinstance(targets, Tensor):
        return targets.to(device)
    if isinstance(targets, Mapping):
        return {name: _to(value, device) for name, value in targets.items()}
    return targets
