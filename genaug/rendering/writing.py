"""Write datasets to disk as WebDataset shards or an ImageFolder, with any number of processes, resumable.

Shards are assigned by rank, without communication: shard s belongs to rank s % world. Each shard is written in a folder
of its own beside its place, then renamed. Its manifest comes last and marks the shard as finished. The content depends
on the dataset and the settings alone. So on a CPU a set is bitwise identical for any number of processes, any batch
size and any number of interruptions. `genaug.datasets.rendered` describes the layout of a set.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

import genaug
from genaug._common.arguments import check_choice, check_integer, check_outside, check_process
from genaug._common.files import FULL, naming_removed_folder, staging_folder, sweep, tell, writable_folder
from genaug._common.names import Format, ImageFormat
from genaug._common.progress import progress
from genaug._common.records import differences, write_results
from genaug.datasets.counterfactual import CounterfactualDataset
from genaug.datasets.generated import GeneratedDataset, names_of
from genaug.datasets.generative_intervention import GenerativeInterventionDataset
from genaug.datasets.rendered import FORMATS, SETTINGS, SUFFIXES, Layout, read_settings
from genaug.datasets.rendered_problems import index_problems, shard_problems
from genaug.datasets.transferred import TransferredFolder
from genaug.evaluation.classes import IMAGENET
from genaug.generators import load_generator
from genaug.rendering.identity import identity_of
from genaug.rendering.shards import Record, Writer
from genaug.transforms.style_transfer import StyleTransferIntervention

QUALITY = 95  # default for JPEG and WebP

STYLES = 10_000  # number of interventions that give photographs their styles
_TRANSFER = ("method", "steps", "alpha", "network", "decoder", "style_weight", "content_weight")

_BATCH = 64  # samples per request to a source without a batch size
_PLACE = ("device", "batch_size")  # options that do not change which images are made


@dataclass(frozen=True)
class Rendered:
    """The outcome of a call of `render`.

    Attributes:
        folder: folder of the set.
        shards: number of shards of the set, including those of other ranks.
        written: number of shards that this call wrote.
    """

    folder: Path
    shards: int
    written: int


def render(
    source: Any,
    out: str | os.PathLike[str],
    num: int | None = None,
    *,
    shard_size: int = 10_000,
    format: Format = "webdataset",  # noqa: A002 - what the command line calls it
    image: ImageFormat = "jpeg",
    quality: int | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    **options: Any,
) -> Rendered:
    """Write the first `num` samples of a dataset to a folder. Call it again to resume.

    Args:
        source: the name of a generator, for `CounterfactualDataset` or, without mechanisms,
            `GenerativeInterventionDataset`; or a map-style dataset with `describe(i)`. Its images are uint8 tensors (3,
            H, W) or PIL images. Its targets are ints, or dicts of ints that `describe(i)["labels"]` also has. Samples
            are read through `__getitems__` and `descriptions(indices)`, if it has them.
        out: the folder: new, empty, or begun by the same call. What counts as the same is in docs/rendering.md.
        num: number of samples, at least 1 (default: all of the dataset).
        shard_size: samples per shard.
        format: "webdataset" for tar files, "imagefolder" for LABEL/KEY.png.
        image: "png" (lossless), "jpeg" or "webp".
        quality: quality of JPEG and WebP, 1 to 100 (default: 95). JPEG keeps color at full resolution.
        rank, world_size: number of this process and of all processes (default: RANK and WORLD_SIZE, as torchrun sets
            them, or a single process).
        options: options of the dataset of a named generator: seed, classes, truncation, device, ... With device="cuda"
            each process of torchrun uses its own GPU. With `transfer`, a folder of photographs with one folder per
            class, these are rendered in the style of the generator's interventions (`TransferredFolder`). Then `size`
            belongs to that folder, `method`, `steps`, `alpha`, `network` and `decoder` to `StyleTransferIntervention`,
            and the others to the interventions.

    Raises:
        ValueError, TypeError: an argument is out of its range or of another type, or the folder has other content or
            other settings; the message names them.
        OSError: the folder cannot be written, or the disk is full; finished shards are kept.
        genaug.AssetError: the generator is not available.
    """
    check_choice("format", format, FORMATS)
    check_choice("image", image, SUFFIXES)
    check_integer("shard_size", shard_size, 1)
    if num is not None:
        check_integer("num", num, 1)
    if quality is not None and image == "png":
        raise ValueError(f"quality is of jpeg and webp alone, but image is 'png' and quality {quality!r}")
    if image != "png":
        quality = QUALITY if quality is None else check_integer("quality", quality, 1)
        if quality > 100:
            raise ValueError(f"quality must be at most 100, got {quality}")
    rank, world_size = check_process(rank, world_size)
    folder = Path(out)
    if isinstance(source, (str, os.PathLike)):
        if num is None and "transfer" not in options:
            raise ValueError("num must say how many samples of a generator are wanted")
        made_from = {"name": os.fspath(source), **_kept(options)}
        source = _transferred(source, options) if "transfer" in options else _dataset(source, num or 0, options)
        num = _length(source, num)
        if rank == 0 and isinstance(source, TransferredFolder):
            tell(source.told)
    else:
        if options:
            raise TypeError(f"{next(iter(options))} is an option for the name of a generator, not for a dataset")
        num = _length(source, num)
        made_from = {"dataset": type(source).__name__, "first": _described(source, [0])[0]}
        made_from["last"] = _described(source, [num - 1])[0]
    if isinstance(source, TransferredFolder):
        check_outside("out", folder, source.root)
    settings = {
        "source": made_from,
        "identity": identity_of(source),
        "num": num,
        "shard_size": shard_size,
        "format": format,
        "image": image,
        "quality": quality,
        # all labels of a dict are in KEY.json; KEY.cls, which every reader knows, has only the first
        "target": "labels" if isinstance(source[0][1], dict) else "label",
        # number of classes or names of their folders, for training on the set
        "classes": _classes(source),
    }
    try:
        settings = json.loads(json.dumps(settings))
    except TypeError as error:
        raise TypeError(f"options and describe(i) must be numbers, strings, lists and dicts ({error})") from None
    layout = _begun(folder, settings)
    left = [shard for shard in range(rank, layout.shards, world_size) if not layout.finished(shard)]
    mine = len(range(rank, layout.shards, world_size))
    if rank == 0 and 0 < len(left) < mine:  # printed by one process only
        print(f"{folder} has {mine - len(left)} of {mine} shards of this process: going on", file=sys.stderr)
    _write(source, layout, quality, left, rank, world_size)
    return Rendered(folder, layout.shards, len(left))


def verify(folder: str | os.PathLike[str]) -> list[str]:
    """Return a line for each missing or damaged part of a rendered folder; an empty list if it is complete.

    Every byte is read and compared with the manifests, and every sample is decoded. So every problem is reported that
    could later make reading a sample fail.

    Raises:
        FileNotFoundError: the folder was not rendered.
        ValueError: its settings cannot be read.
    """
    layout = Layout(folder, read_settings(folder))
    with ThreadPoolExecutor(_threads()) as pool:
        found = pool.map(lambda shard: shard_problems(layout, shard), range(layout.shards))
        bar = progress(found, total=layout.shards, description="verify", unit="shard")
        return [*index_problems(layout), *(problem for problems in bar for problem in problems)]


def repair(folder: str | os.PathLike[str], source: Any = None, **options: Any) -> Rendered:
    """Render again only the parts that `verify` reports as missing or damaged.

    Args:
        folder: folder of the set.
        source: the dataset, if the set was rendered from a dataset and not from a generator's name.
        options: `device` and `batch_size`, if the set was rendered from a generator's name.

    Raises:
        FileNotFoundError, ValueError, TypeError, OSError: as from `render`.
    """
    settings = read_settings(folder)
    layout = Layout(folder, settings)
    made_from = dict(settings["source"])
    if source is None:
        if "name" not in made_from:
            raise ValueError(f"source must be the {made_from['dataset']} that {folder} was rendered from")
        made_from.pop("sha256", None)  # of an earlier version
        source = made_from.pop("name")
        options = {**made_from, **options}
    if index_problems(layout):
        layout.index_file().unlink()
    for shard in range(layout.shards):
        if shard_problems(layout, shard):
            layout.manifest(shard).unlink(missing_ok=True)
    arguments = {name: settings[name] for name in ("num", "shard_size", "format", "image", "quality")}
    return render(source, folder, **arguments, rank=0, world_size=1, **options)


def _kept(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that determine the images, as JSON-serializable values."""
    kept = {name: value for name, value in options.items() if name not in _PLACE}
    kept = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in kept.items()}
    if isinstance(kept.get("dtype"), torch.dtype):
        kept["dtype"] = str(kept["dtype"]).removeprefix("torch.")
    return kept


def _dataset(name: str | os.PathLike[str], num: int, options: dict[str, Any]) -> GeneratedDataset:
    """Return the dataset for a generator's name."""
    options = dict(options)
    if isinstance(options.get("dtype"), str):
        options["dtype"] = getattr(torch, options["dtype"])
    if str(options.get("device")) == "cuda" and "LOCAL_RANK" in os.environ:  # set by torchrun
        options["device"] = f"cuda:{os.environ['LOCAL_RANK']}"
    mechanisms = hasattr(load_generator(name), "mechanisms")
    kind = CounterfactualDataset if mechanisms else GenerativeInterventionDataset
    try:
        return kind(name, length=num, **options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        option = str(error).split("'")[1]
        raise ValueError(f"{option} is not an option for {str(name)!r}, of which a {kind.__name__} is made") from None


def _transferred(name: str | os.PathLike[str], options: dict[str, Any]) -> TransferredFolder:
    """Return photographs in the style of a generator's interventions."""
    options = dict(options)
    of_folder = {key: options.pop(key) for key in ("size", "batch_size") if key in options}
    of_transfer = {key: options.pop(key) for key in _TRANSFER if key in options}
    root, seed = options.pop("transfer"), options.get("seed", 0)
    styles = _dataset(name, STYLES, options)
    if isinstance(styles, CounterfactualDataset):
        raise ValueError(f"transfer takes the style of interventions, but {str(name)!r} makes counterfactuals")
    transfer = StyleTransferIntervention(styles, **of_transfer)
    return TransferredFolder(root, transfer, seed=seed, device=styles.device, **of_folder)


def _length(source: Any, num: int | None) -> int:
    if not hasattr(source, "describe"):
        raise TypeError(
            f"source must have describe(i), which says what made a sample, but {type(source).__name__} has none"
        )
    length = len(source)
    if num is None:
        num = length
    if not 1 <= num <= length:
        raise ValueError(f"num must be in 1..{length}, the source's samples, got {num}")
    return num


def _classes(source: Any) -> Any:
    """Return the names of the classes if they have names, or else their number."""
    generator = getattr(source, "generator", None)
    if generator is None:
        return getattr(source, "classes", None)
    names, count = names_of(generator), generator.num_classes
    if not names and count == len(IMAGENET):
        return list(IMAGENET)
    return list(names) or count


def _described(source: Any, indices: Sequence[int]) -> list[dict[str, Any]]:
    if hasattr(source, "descriptions"):
        return source.descriptions(indices)
    return [source.describe(index) for index in indices]


def _begun(folder: Path, settings: dict[str, Any]) -> Layout:
    """Create or open the folder, check its settings, and remove what killed processes left."""
    writable_folder(folder)
    path = folder / SETTINGS
    # listed before settings are looked for; otherwise new shards of another rank would count as other content
    others = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    if not path.exists():
        if others:
            raise ValueError(f"{folder} holds something else ({others[0]}): choose another folder")
        with staging_folder(folder, "settings") as staged:
            write_results(staged / SETTINGS, {"settings": settings, "versions": _versions()})
            (staged / SETTINGS).replace(path)
    # read back, since another rank may have written them
    if found := list(differences(read_settings(folder), settings)):
        raise ValueError(f"{folder} holds a set with other settings ({'; '.join(found)}): choose another folder")
    sweep(folder)
    return Layout(folder, settings)


def _versions() -> dict[str, str]:
    """Return the versions that can change the last bit of an image."""
    from PIL import __version__ as pillow

    return {"genaug": genaug.__version__, "torch": torch.__version__, "pillow": pillow}


def _write(source: Any, layout: Layout, quality: int | None, shards: list[int], rank: int, world_size: int) -> None:
    if shards:
        layout.index_file().unlink(missing_ok=True)  # a reader may have written it for the previous shards
    mine = sum(len(layout.indices(shard)) for shard in range(rank, layout.shards, world_size))
    left = sum(len(layout.indices(shard)) for shard in shards)
    bar = progress(total=mine, initial=mine - left, description="render", unit="image") if rank == 0 else None
    log = layout.folder / f"log-{rank}.jsonl"
    samples = size = 0
    removed = naming_removed_folder(layout.folder, "rendering")
    with removed, ThreadPoolExecutor(_threads()) as pool, bar or nullcontext():
        for shard in shards:
            begin = time.monotonic()
            indices = layout.indices(shard)
            try:
                with staging_folder(layout.folder, f"shard-{shard:06d}") as staged:
                    writer = Writer(layout, shard, quality, staged, isinstance(source, TransferredFolder))
                    # on errors, closing stops the encoders before the staging folder is removed
                    with writer.path.open("wb") as file, closing(_encoded(source, indices, writer, pool)) as batches:
                        for records in batches:
                            size += writer.add(file, records)
                            samples += len(records)
                            if bar is not None:
                                bar.update(len(records))
                        writer.end(file)
                    writer.publish()
                line = {"shard": shard, "samples": len(indices), "seconds": round(time.monotonic() - begin, 2)}
                with log.open("a") as lines:
                    lines.write(json.dumps(line) + "\n")
            except OSError as error:
                if error.errno not in FULL:
                    raise
                raise _full(layout, size / max(samples, 1)) from error


def _encoded(source: Any, indices: range, writer: Writer, pool: ThreadPoolExecutor) -> Generator[list[Record]]:
    """Yield batches of encoded samples, in order. Batches are encoded while the next ones are made."""
    at_once = getattr(source, "batch_size", None) or _BATCH
    ahead = 2 * _threads()  # bounds memory
    waiting: deque[Future[list[Record]]] = deque()
    try:
        for start in range(indices.start, indices.stop, at_once):
            chunk = list(range(start, min(start + at_once, indices.stop)))
            images, targets = _samples(source, chunk)
            waiting.append(pool.submit(writer.encode, chunk, images, targets, _described(source, chunk)))
            while waiting and (len(waiting) > ahead or waiting[0].done()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        wait(waiting)


def _samples(source: Any, indices: list[int]) -> tuple[list[Tensor], list[Any]]:
    """Return images (3, H, W) uint8 on the CPU, and targets."""
    together = hasattr(source, "__getitems__")
    samples = source.__getitems__(indices) if together else [source[index] for index in indices]
    images: list[Any] = [image for image, _ in samples]
    for place, (index, image) in enumerate(zip(indices, images, strict=True)):
        if isinstance(image, Image.Image):
            images[place] = pil_to_tensor(image.convert("RGB"))
        elif not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
            came = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
            raise TypeError(f"source must return uint8 tensors (3, H, W) or PIL images, got {came} for sample {index}")
    if images[0].is_cuda:  # one copy to the host instead of many
        images = list(torch.stack(images).cpu())
    return images, [target for _, target in samples]


def _threads() -> int:
    """Return the number of encoding threads: this process's share of the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _full(layout: Layout, bytes_each: float) -> OSError:
    """Return the error for a full disk."""
    unfinished = [shard for shard in range(layout.shards) if not layout.manifest(shard).exists()]
    left = sum(len(layout.indices(shard)) for shard in unfinished)
    free = shutil.disk_usage(layout.folder).free
    needed = f"about {left * bytes_each:,.0f} bytes are" if bytes_each else "more is"
    kept = f"{layout.shards - len(unfinished)} of {layout.shards} shards are finished and kept"
    error = OSError(
        f"the disk of {layout.folder} is full: {kept}, {needed} needed for the others, {free:,} are free; "
        "make room and run the same command again"
    )
    error.errno = errno.ENOSPC
    return error
