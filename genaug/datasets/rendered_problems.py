"""Find all damage in a rendered folder that could make reading a sample fail."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import Any

import numpy as np

from genaug._common.arguments import check_integer
from genaug._common.files import one_line
from genaug.assets.cache import sha256
from genaug.datasets.rendered import SUFFIXES, Layout, decoded, members


def shard_problems(layout: Layout, shard: int) -> list[str]:
    """Return the missing and damaged parts of a shard, after reading every byte of it."""
    data = layout.data(shard)
    try:
        manifest = layout.read_manifest(shard)
        if manifest is None:
            return [f"{layout.manifest(shard)} is missing: the shard is not finished"]
        layout.check_size(shard, manifest["bytes"])
    except ValueError as error:
        return [str(error)]
    if sha256(data) != manifest["sha256"]:
        return [f"{data} is damaged: its sha256 is not the manifest's"]
    found = []
    with data.open("rb") as file:
        for index, size in zip(layout.indices(shard), manifest["sizes"], strict=True):
            try:
                parts = _read_parts(layout, file.read(size), index)
            except ValueError:
                return [f"{layout.manifest(shard)} is damaged: its sizes are not those of the samples"]
            try:
                _check_sample(layout, *parts)
            except FileNotFoundError as error:
                found.append(f"{error.filename} is missing")
            except Exception as error:  # pillow raises many types of errors for damaged images
                found.append(f"sample {index} of {data} is damaged: {one_line(error)}")
    return found


def _read_parts(layout: Layout, record: bytes, index: int) -> tuple[Any, ...]:
    """Return the parts of a sample in its data file: image bytes, JSON line, label and metadata; None if not there."""
    if layout.format == "imagefolder":
        line = json.loads(record)
        return None, line, None, None
    parts = members(record, index)
    return parts.get(SUFFIXES[layout.image][1:]), None, parts.get("cls"), parts.get("json")


def _check_sample(layout: Layout, content: bytes | None, line: Any, label: Any, description: Any) -> None:
    """Raise the error that reading the sample would raise."""
    if line is not None:
        if missing := [name for name in ("file", "sha256", "label", "describe") if name not in line]:
            raise ValueError(f"it has no {missing[0]!r}")
        path = layout.image_path(line["file"])
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != line["sha256"]:
            raise ValueError(f"the sha256 of {path} is not the one on record")
        label, description = line["label"], line["describe"]
    else:
        for name, part in ((SUFFIXES[layout.image][1:], content), ("cls", label), ("json", description)):
            if part is None:
                raise ValueError(f"it has no {name!r}")
        label, description = int(label), json.loads(description)
    decoded(content or b"", layout.image)
    check_integer("label", label)
    if not isinstance(description, dict) or (layout.target == "labels" and not isinstance(description["labels"], dict)):
        raise ValueError("its description has no labels")


def index_problems(layout: Layout) -> list[str]:
    """Return the differences between the cached index and the manifests."""
    path = layout.index_file()
    try:
        index = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):  # if the index is missing or not an array, readers make a new one
        return []
    if index.dtype != np.int64 or index.shape != (layout.num + layout.shards,):
        return []
    for shard in range(layout.shards):
        with suppress(ValueError):  # `shard_problems` reports damaged manifests
            manifest = layout.read_manifest(shard)
            if manifest and not np.array_equal(layout.part(index, shard), layout.starts(shard, manifest["sizes"])):
                return [f"{path} is damaged: it does not say where the samples begin"]
    return []
