"""Build a bank of cutouts from a folder of photographs. Builds resume, and any number of processes can share one.

Shard s belongs to process s % number of processes. Its bytes depend only on its photographs and the settings. Each
shard is written in a staging folder and then moved to the bank, with its records last.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Container, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import genaug
from genaug._common.arguments import check_choice, check_integer, check_outside, check_process
from genaug._common.files import (
    ImageError,
    ImageFiles,
    checksum,
    image_files,
    naming_full_disk,
    naming_removed_folder,
    staging_folder,
    tell,
    writable_folder,
)
from genaug._common.names import BANK_SUFFIXES, FILLINGS
from genaug._common.progress import progress
from genaug._common.records import differences
from genaug.photographs import format as layout
from genaug.photographs.inpainting import Filling, background_of, object_of
from genaug.photographs.masks import Masks, MaskSource, certainty, cleaned, mask_source, open_photograph

SHARD_SIZE = 100  # photographs; a killed process loses at most one shard
BATCH = 8  # photographs per call of a network
SHEET = "cutouts.png"
DOUBTFUL = "doubtful.png"

# A cutout outside these limits is doubtful.
_LEAST, _MOST = 0.01, 0.9  # least and largest share of the crop that an object covers
_BORDER = 0.5  # largest share of the crop's border that it covers; a portrait covers less
_PIECES, _PIECE = 3, 0.05  # largest number of pieces; pieces below this share of the object do not count
_CERTAIN = 0.75  # least soft IoU of a network's probabilities with the cleaned mask
REASONS = ("no object", "everything is object", "object cut by the border", "many pieces", "unsure mask")
UNREADABLE = "does not open"


def build_bank(
    photographs: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    masks: Masks = "u2netp",
    size: int = 256,
    inpainting: Filling = "strip",
    image: Literal["jpeg", "png"] = "jpeg",
    keep_doubtful: bool = False,
    drop_empty_classes: bool = False,
    skip_bad: bool = False,
    device: torch.device | str | None = None,
    rank: int | None = None,
    world_size: int | None = None,
) -> layout.BankFiles | None:
    """Cut the objects out of photographs and write them to a bank. Call it again to resume.

    Shards whose photographs or masks have changed are built again. Photographs are compared by name and size in bytes,
    masks from files by their content. A callable cannot be compared.

    Args:
        photographs: a folder with one folder per class.
        out: the bank's folder: new, empty, or an unfinished bank of the same photographs and settings.
        masks: source of the masks: "u2netp", "u2net", "rembg:NAME", "alpha", a folder of masks, a COCO file, or a
            callable; see `genaug.photographs.masks`.
        size: height and width of the bank's images, in pixels. The short side of a photograph is resized to this size.
            The square crop contains the whole object if it fits.
        inpainting: method that fills the background behind the object: "strip", "telea", "lama" or "tiles"; see
            `genaug.photographs.inpainting.background_of`.
        image: "jpeg" (quality 95, full color resolution) or "png", which is lossless and takes about four times the
            space.
        keep_doubtful: also use doubtful cutouts.
        drop_empty_classes: leave out classes without a usable cutout (default: raise an error).
        skip_bad: leave out photographs that do not open, and list them (default: raise an error).
        device: device of the saliency network (default: CPU).
        rank, world_size: index of this process, and number of processes (default: RANK and WORLD_SIZE, which torchrun
            sets, or a single process).

    Returns:
        The bank. Processes started by torchrun wait for the others. In a job array, only the process that finishes last
        returns the bank; the others return None.

    Raises:
        ValueError, TypeError: an argument is out of its range or of another type; the folder has other files, a bank
            with other settings, or a damaged shard; two photographs have the same name; a name is not UTF-8; a mask
            does not fit; a class has no usable cutout.
        FileNotFoundError: the folder does not exist, or has no class.
        ImageError: a photograph does not open, or is too small.
        OSError: the folder cannot be written, or the disk is full. Finished shards are kept.
    """
    check_integer("size", size, 32)
    check_choice("inpainting", inpainting, FILLINGS)
    check_choice("image", image, BANK_SUFFIXES)
    rank, world_size = check_process(rank, world_size)
    check_outside("out", out, Path(photographs))
    listed = image_files(photographs)
    _check_names(listed)
    source = mask_source(masks, listed, device)
    settings = {
        "photographs": len(listed.files),
        "names_sha256": hashlib.sha256("\n".join(file for file, _ in listed.files).encode()).hexdigest(),
        "classes": listed.classes,
        "masks": source.name,
        "size": size,
        "inpainting": inpainting,
        "image": image,
        "keep_doubtful": bool(keep_doubtful),
        "skip_bad": bool(skip_bad),
        "shard_size": SHARD_SIZE,
    }
    kept = None if callable(masks) else str(Path(masks).resolve() if Path(masks).exists() else masks)
    if rank == 0:
        tell(listed.told)
    bank = _begun(Path(out), settings, source=str(listed.root.resolve()), masks=kept)
    builder = _Builder(bank, listed, source, settings)
    shards = range(layout.shards_of(settings))
    finished, changed = builder.finished()
    if rank == 0 and changed:
        tell(f"{bank}: photographs or masks have changed; building {len(changed)} of {len(shards)} shards again")
    if rank == 0 and finished:
        unknown = f"; {source.name} may have changed, which cannot be checked" if callable(masks) else ""
        tell(f"{bank}: {len(finished)} of {len(shards)} shards are finished and stay as they are{unknown}")
    builder.build([shard for shard in shards[rank::world_size] if shard not in finished], rank, world_size)
    lines = [bank / f"{layout.shard_name(shard)}.jsonl" for shard in shards]
    if not all(file.exists() for file in lines):
        if "TORCHELASTIC_RUN_ID" not in os.environ:  # the tasks of a job array need not run at the same time
            return None
        # If another process fails, torchrun stops this one too, so the loop cannot wait forever.
        while not all(file.exists() for file in (*lines, bank / layout.SUMMARY)):
            time.sleep(0.5)
        return layout.BankFiles(bank)
    return _completed(bank, settings, drop_empty_classes, listed.skipped)


def described(bank: layout.BankFiles) -> list[str]:
    """Return a summary of a bank in a few lines."""
    summary = json.loads((bank.path / layout.SUMMARY).read_text())
    lines = [
        f"{bank.path}: {len(bank):,} cutouts of {summary['photographs']:,} photographs, {len(bank.classes)} classes"
    ]
    if summary["dropped_classes"]:
        lines.append(f"dropped classes: {', '.join(summary['dropped_classes'])}")
    if summary["excluded"]:
        what = "kept" if bank.settings["keep_doubtful"] else "left out"
        counts = ", ".join(f"{count:,} {reason}" for reason, count in sorted(summary["excluded"].items()))
        lines.append(f"doubtful, {what}: {counts}; see {layout.SUMMARY}")
    if summary["skipped"]:
        lines.append(f"skipped: {summary['skipped']}")
    if dropped := summary.get(layout.DROPPED):
        lines.append(f"dropped by hand: {', '.join(dropped[:5])}{', ...' if len(dropped) > 5 else ''}")
    sheets = [name for name in (SHEET, DOUBTFUL) if (bank.path / name).exists()]
    return [*lines, f"contact sheets: {', '.join(str(bank.path / name) for name in sheets)}"]


def damaged_shards(path: str | os.PathLike[str]) -> list[str]:
    """Read every byte of a bank, and return what is missing or damaged, one line per shard.

    Raises:
        FileNotFoundError: the folder is not a bank.
    """
    settings, problems = layout.read_settings(path), []
    for shard in progress(range(layout.shards_of(settings)), description="verify", unit="shard"):
        try:
            layout.read_shard(Path(path), shard, check=True)
        except ValueError as error:
            problems.append(str(error).split(": run genaug")[0])
    return problems


def repair_bank(
    path: str | os.PathLike[str], photographs: str | os.PathLike[str] | None = None, **options: Any
) -> layout.BankFiles | None:
    """Rebuild only the missing and damaged shards of a bank.

    Args:
        path: the bank's folder.
        photographs: the folder of the photographs, if it has moved since the bank was built.
        options: `masks`, if it was a callable or a folder that has moved; and `device`.
    """
    path = Path(path)
    settings = layout.read_settings(path)
    provenance = json.loads((path / layout.BANK).read_text())
    for shard in range(layout.shards_of(settings)):
        try:
            layout.read_shard(path, shard, check=True)
        except ValueError:
            (path / f"{layout.shard_name(shard)}.jsonl").unlink(missing_ok=True)
    if photographs is None:
        photographs = provenance.get("source")
    if photographs is None:
        raise ValueError(f"photographs must be given, since {path} was copied and does not say where they are")
    masks = options.pop("masks", provenance.get("masks"))
    if masks is None:
        raise ValueError(f"masks must be the callable that {path} was built with")
    kept = {name: settings[name] for name in ("size", "inpainting", "image", "keep_doubtful", "skip_bad")}
    dropped = set(settings["classes"]) - set(read_summary(path).get("classes", settings["classes"]))
    return build_bank(photographs, path, masks=masks, drop_empty_classes=bool(dropped), **kept, **options)


def read_summary(path: Path) -> dict[str, Any]:
    try:
        found = json.loads((path / layout.SUMMARY).read_text())
        return found if isinstance(found, dict) else {}
    except (FileNotFoundError, ValueError):
        return {}


def _check_names(listed: ImageFiles) -> None:
    """Raise ValueError if a name is not UTF-8, or two differ only in their suffix: they would share a mask."""
    for file, _ in listed.files:
        try:
            file.encode()
        except UnicodeEncodeError:
            raise ValueError(f"names of photographs must be UTF-8, got {file!a}: rename it") from None
    names = Counter(Path(file).with_suffix("") for file, _ in listed.files)
    (name, count), *_ = names.most_common(1)
    if count > 1:
        same = [file for file, _ in listed.files if Path(file).with_suffix("") == name]
        raise ValueError(f"photographs must have different names, got {' and '.join(same)}: rename or remove one")


def _begun(bank: Path, settings: dict[str, Any], **provenance: Any) -> Path:
    """Create or open the bank's folder, and check its settings; `provenance` is for `repair_bank`."""
    writable_folder(bank)
    # List the files before looking for the settings. Otherwise, another process could write settings and shards in
    # between, and its shards would count as other files.
    entries = os.listdir(bank)
    others = sorted(name for name in entries if not name.startswith("."))
    settings = json.loads(json.dumps(settings))
    started = (bank / layout.BANK).exists()
    if others and not started:
        raise ValueError(f"{bank} has other files ({others[0]}): choose another folder")
    if not started or entries == [layout.BANK] or {**layout.read_settings(bank), "skip_bad": True} == settings:
        # The bank is new, an error came before its first shard, or bad photographs are skipped from now on. Finished
        # shards have none, so that they stay the same.
        from PIL import __version__ as pillow

        versions = {"genaug": genaug.__version__, "torch": torch.__version__, "pillow": pillow}
        layout.write_settings(bank, settings, **provenance, versions=versions)
    if found := list(differences(layout.read_settings(bank), settings)):
        found = ["names of photographs" if text.startswith("names_sha256") else text for text in found]
        raise ValueError(
            f"{bank} is a bank with other settings ({'; '.join(found)}): choose another folder, or delete this one"
        )
    return bank


class _Builder:
    """Cut out the photographs of shards."""

    def __init__(self, bank: Path, listed: ImageFiles, source: MaskSource, settings: dict[str, Any]) -> None:
        self._bank, self._listed, self._source, self._settings = bank, listed, source, settings

    def finished(self) -> tuple[set[int], set[int]]:
        """Return the finished shards, and those whose photographs or masks have changed since; these are removed.

        Each process checks all shards, so that none completes the bank while another has found a change.
        """
        finished, changed = set(), set()
        for shard in range(layout.shards_of(self._settings)):
            try:
                before = layout.shard_inputs(self._bank, shard)
            except FileNotFoundError:
                continue
            if before not in (None, self._inputs(shard)):
                (self._bank / f"{layout.shard_name(shard)}.jsonl").unlink(missing_ok=True)
                changed.add(shard)
                continue
            layout.read_shard(self._bank, shard)
            finished.add(shard)
        return finished, changed

    def _inputs(self, shard: int) -> str:
        """Return a checksum of a shard's photographs, by name and size in bytes, and of their masks."""
        files = [self._listed.files[index][0] for index in self._indices(shard)]
        paths = [self._listed.root / file for file in files]
        sizes = [path.stat().st_size if path.exists() else None for path in paths]  # a link may lead nowhere
        return checksum([files, sizes, [self._source.fingerprint(file) for file in files]])

    def build(self, shards: list[int], rank: int, world_size: int) -> None:
        """Write these shards. The first process shows a progress bar, and each process writes a log."""
        every = range(rank, layout.shards_of(self._settings), world_size)
        mine, left = (sum(len(self._indices(shard)) for shard in some) for some in (every, shards))
        bar = progress(total=mine, initial=mine - left, description="cut out", unit="image") if rank == 0 else None
        with naming_removed_folder(self._bank, "building"), bar or nullcontext():
            for shard in shards:
                begin = time.monotonic()
                with (
                    naming_full_disk(self._bank / f"{layout.shard_name(shard)}.tar"),
                    staging_folder(self._bank, f"shard-{shard:06d}") as staged,
                ):
                    inputs = self._inputs(shard)
                    with layout.ShardWriter(staged, shard, self._settings["image"], inputs) as writer:
                        for index, parts, warnings in self._cutouts(self._indices(shard)):
                            file, label = self._listed.files[index]
                            writer.add(index, file, self._listed.classes[label], parts, warnings)
                            if bar is not None:
                                bar.update(1)
                    writer.publish(self._bank)
                seconds = round(time.monotonic() - begin, 2)
                with (self._bank / f"log-{rank}.jsonl").open("a") as log:
                    log.write(
                        json.dumps({"shard": shard, "photographs": len(self._indices(shard)), "seconds": seconds})
                    )
                    log.write("\n")

    def _indices(self, shard: int) -> range:
        size = self._settings["shard_size"]
        return range(shard * size, min((shard + 1) * size, len(self._listed.files)))

    def _cutouts(self, indices: range) -> Iterator[tuple[int, layout.Parts | None, tuple[str, ...]]]:
        """Yield for each photograph: its index, its parts or None, and the reasons why it is doubtful."""
        for start in range(indices.start, indices.stop, BATCH):
            chunk = range(start, min(start + BATCH, indices.stop))
            images = {index: image for index in chunk if (image := self._opened(index)) is not None}
            files = [self._listed.files[index][0] for index in images]
            masks = self._source(files, list(images.values())) if images else []
            made = dict(zip(images, masks, strict=True))
            for index in chunk:
                if index not in made:
                    yield index, None, (UNREADABLE,)
                    continue
                yield index, *cutout(images[index], made[index], self._settings, self._source.cleaned)

    def _opened(self, index: int) -> Image.Image | None:
        try:
            return open_photograph(self._listed.root / self._listed.files[index][0])
        except ImageError as error:
            if self._settings["skip_bad"]:
                return None
            raise ImageError(f"{error}; remove it, or leave such files out by skip_bad=True (--skip-bad)") from None


def cutout(
    photograph: Image.Image, mask: np.ndarray, settings: dict[str, Any], clean: bool
) -> tuple[layout.Parts, tuple[str, ...]]:
    """Cut the object out of one photograph.

    Args:
        photograph: RGB or RGBA.
        mask: (h, w) float32 in [0, 1], of the same proportions.
        settings: `size` and `inpainting`.
        clean: whether to post-process the mask.

    Returns:
        The parts, and the reasons why the cutout is doubtful.
    """
    import cv2

    size = settings["size"]
    scale = size / min(photograph.size)
    width, height = (max(size, round(side * scale)) for side in photograph.size)
    if photograph.mode == "RGBA":
        photograph = Image.alpha_composite(Image.new("RGBA", photograph.size, "white"), photograph)
    resized = photograph.convert("RGB").resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    shrinks = mask.shape[0] > height
    mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    certain = True
    if clean:
        probabilities, mask = mask, cleaned(mask)
        certain = certainty(probabilities, mask) >= _CERTAIN
    left, top = _corner(mask >= 0.5, size)
    mask = mask[top : top + size, left : left + size]
    # The mask is rounded before the background is filled, so that the filling fits the stored mask.
    mask = np.rint(255 * mask.clip(0, 1)).astype(np.uint8)
    pixels = np.asarray(resized)[top : top + size, left : left + size]
    soft = mask.astype(np.float32) / 255
    background = background_of(pixels, soft, settings["inpainting"])
    colours = object_of(pixels, soft)
    parts = layout.Parts(_tensor(pixels), _tensor(colours), torch.from_numpy(mask)[None], _tensor(background))
    return parts, doubts(mask >= 128, certain)


def _tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def _corner(inside: np.ndarray, size: int) -> tuple[int, int]:
    """Return left and top of the square crop nearest to the center that contains the object, or most of it."""
    corner = []
    for axis in (0, 1):  # columns, then rows
        taken = np.flatnonzero(inside.any(axis))
        length = inside.shape[1 - axis]
        place = (length - size) / 2
        if len(taken):
            first, last = taken[0], taken[-1] + 1
            low, high = last - size, first  # a crop that begins between these contains the object
            place = min(max(place, low), high) if low <= high else (first + last - size) / 2
        corner.append(int(min(max(round(place), 0), length - size)))
    return corner[0], corner[1]


def doubts(inside: np.ndarray, certain: bool = True) -> tuple[str, ...]:
    """Return the reasons why a cutout is doubtful, from `REASONS`, or nothing for a good one.

    Args:
        inside: (S, S) bool.
        certain: whether the network's probabilities agree with the mask.
    """
    import cv2

    area = inside.mean()
    if area < _LEAST:
        return (REASONS[0],)
    if area > _MOST:
        return (REASONS[1],)
    found = []
    border = np.concatenate([inside[0], inside[-1], inside[1:-1, 0], inside[1:-1, -1]])
    if border.mean() > _BORDER:
        found.append(REASONS[2])
    _, _, statistics, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8), connectivity=8)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    if (areas >= _PIECE * inside.sum()).sum() > _PIECES:
        found.append(REASONS[3])
    if not certain:
        found.append(REASONS[4])
    return tuple(found)


def _completed(bank: Path, settings: dict[str, Any], drop_empty_classes: bool, skipped: str) -> layout.BankFiles:
    """Return the bank after writing its summary and contact sheets."""
    records = [record for shard in range(layout.shards_of(settings)) for record in layout.read_shard(bank, shard)]
    with locked(bank):  # another process may drop a cutout at the same time
        _summarize(bank, settings, records, drop_empty_classes, skipped)
        return with_sheets(bank)


def _summarize(
    bank: Path, settings: dict[str, Any], records: list[layout.Record], drop_empty_classes: bool, skipped: str
) -> None:
    """Write the summary of a bank. Cutouts that were dropped by hand stay dropped."""
    dropped = set(read_summary(bank).get(layout.DROPPED, ()))
    usable = [record for record in records if is_usable(record, settings, dropped)]
    counts = Counter(record.of_class for record in usable)
    classes = [name for name in settings["classes"] if counts[name]]
    if empty := [name for name in settings["classes"] if not counts[name]]:
        reasons = Counter(reason for record in records if record.of_class == empty[0] for reason in record.warnings)
        why = ", ".join(f"{count} with {reason!r}" for reason, count in reasons.most_common())
        if not drop_empty_classes or not classes:
            raise ValueError(
                f"class {empty[0]!r} has no usable cutout ({why}): give better masks, or leave such classes out by "
                "drop_empty_classes=True (--drop-empty-classes)"
            )
    summary = {
        "classes": classes,
        "dropped_classes": empty,
        "photographs": len(records),
        "usable": len(usable),
        "per_class": {name: counts[name] for name in classes},
        "skipped": skipped,
        layout.DROPPED: sorted(dropped),
        "excluded": dict(Counter(reason for record in records for reason in record.warnings)),
        "excluded_files": {record.file: record.warnings for record in records if record.warnings},
    }
    layout.write_summary(bank, summary)


@contextmanager
def locked(bank: Path) -> Iterator[None]:
    """Let one process at a time write the summary and sheets of a bank. The others wait, if files can be locked."""
    from filelock import FileLock

    lock = FileLock(bank / ".lock")
    with suppress(OSError, NotImplementedError):  # a file system without locks
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_usable(record: layout.Record, settings: dict[str, Any], dropped: Container[str]) -> bool:
    return record.file not in dropped and (not record.warnings or bool(settings["keep_doubtful"] and record.sizes))


def with_sheets(path: Path) -> layout.BankFiles:
    from genaug.photographs.sheets import save_sheets

    files = layout.BankFiles(path)
    save_sheets(files, path / SHEET, path / DOUBTFUL)
    return files
