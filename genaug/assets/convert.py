"""Convert the original authors' checkpoints to safetensors, with checks and without executing their content."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genaug._common.files import near_path
from genaug.assets.cache import sha256
from genaug.assets.formats import SUFFIX, read
from genaug.assets.layouts import canonical, check_layout
from genaug.assets.registry import ASSETS, KINDS, AssetError
from genaug.assets.store import check_kind, check_target, save_asset

WEIGHTS = (SUFFIX, ".bin", ".pth", ".pt", ".npz")  # suffixes of files with tensors, in order of preference

# The licenses of files that the authors released, by SHA-256. The license of any other file is unknown.
_LICENCES = {
    "6b178e7c1924b9efc532c467e7f0b77d2702efb536de9816bbd7e92c26d9b3fe": "MIT",  # CGN, colored_mnist_ckp.pth
    "7aa06c907f099c63a26127164a38d2ab353f1cdcafabdf8ca9303a0e9197b933": "MIT",  # CGN, double_colored_mnist_ckp.pth
}


def convert(source: str | os.PathLike[str], target: str | os.PathLike[str], kind: str | None = None) -> Path:
    """Convert an authors' checkpoint to a safetensors file that `load_asset` reads.

    Args:
        source: a state dict (`.pth`, `.bin` or `.safetensors`), GANSpace's directions (`.npz`), or a folder with such
            files, as the Hub's client and `git lfs` write it. A file that would run code when it is read is refused.
            A `config.json` in the same folder is read. Without one, the configuration is that of the released network
            with the same tensor names.
        target: the file to write, ends in `.safetensors`. Its metadata have the source's name and SHA-256, and the
            license of a checkpoint that the authors released.
        kind: the kind of network, one of `genaug.assets.KINDS`; None infers it from the tensor names.

    Returns:
        The target.

    Raises:
        AssetError: the source is truncated, unsafe, not a checkpoint, or a checkpoint of another model.
        ValueError: unknown kind, or a target with another suffix.
        OSError: the target's folder cannot be written.
    """
    source, target = Path(source), Path(target)
    check_target(target)
    if kind is not None:
        check_kind(kind)
    if source.is_dir():
        try:
            files = [source / name for name in main_files(sorted(path.name for path in source.iterdir()))]
        except ValueError as error:
            raise AssetError(f"{source} {error}") from None
    elif source.is_file():
        files = [source]
    else:
        raise AssetError(f"no such file: {source}{near_path(source)}")
    return write_converted(files, target, kind=kind)


def main_files(names: Sequence[str]) -> list[str]:
    """Return the weights files of a folder or repository, followed by their configuration.

    Raises:
        ValueError: there are no weights, or it is not clear which file is meant; the message lists the files.
    """
    index = next((name for name in names if name.endswith(".safetensors.index.json")), None)
    for suffix in WEIGHTS:
        found = [name for name in names if name.endswith(suffix)]
        if index is not None and suffix == SUFFIX:
            found = [name for name in found if "-of-" in name]
        preferred = [name for name in found if name in (f"model{suffix}", f"pytorch_model{suffix}")]
        if len(preferred) == 1 and len(found) > 1:
            found = preferred
        if not found:
            continue
        if len(found) > 1 and index is None:
            raise ValueError(f"has several files with weights, {', '.join(found[:5])}: name one of them")
        beside = [name for name in _config_names(Path(found[0])) if name in names]
        return found + beside[:1]
    listed = ", ".join(names[:5]) or "none"
    raise ValueError(f"has no file with weights, which end in {', '.join(WEIGHTS)}; it has {listed}")


def write_converted(
    files: Sequence[Path], target: Path, *, kind: str | None = None, release: Any = None, **more: str
) -> Path:
    """Write the tensors of files that belong together as one safetensors file.

    Args:
        files: the weights, and at most one `.json` with their configuration.
        target: the file to write.
        kind: the kind of network; None infers it from the tensor names.
        release: the released network, a key of the kind's `configs`; None infers it from the tensor names.
        more: further metadata.

    Raises:
        AssetError: the files are damaged, unsafe, or weights of another network.
        OSError: the target cannot be written.
    """
    weights = [path for path in files if path.suffix != ".json"]
    stored: dict[Any, Any] = {}
    metadata: dict[str, str] = {}
    for path in weights:
        tensors, metadata = read(path)
        if twice := stored.keys() & tensors.keys():
            raise AssetError(f"{path} has tensors of another file of the same weights, such as {min(twice)}")
        stored |= tensors
    beside = next((path for path in files if path.suffix == ".json"), None)
    beside = beside or (_config_beside(weights[0]) if release is None else None)
    own = _own_config(beside)
    given = kind
    if (found := metadata.get("kind") or own.get("kind")) in KINDS and kind is None:
        kind = found
    origin = str(weights[0])
    try:
        state, kind, config = canonical(stored, origin, kind, release)
    except AssetError:
        if beside is None or kind is None or KINDS[kind].configs:
            raise
        state, config = dict(stored), ""  # this kind has no released networks to compare with
    if config is not None and "config" in metadata:
        config = metadata["config"]
    elif config is not None and beside is not None:
        config = json.dumps(own["config"]) if own else beside.read_text(errors="replace")
        origin += f" (with the configuration {beside}, which is read because it lies beside)"
    if given is not None and metadata.get("kind", given) != given:
        raise AssetError(f"{origin} is of kind {metadata['kind']!r}, expected {given!r}")
    check_layout(state, kind, origin, config)
    if "kind" not in metadata:  # a file with a kind was written by genaug, and its metadata already name its source
        digest = more.pop("source_sha256", None) or sha256(weights[0])
        metadata = {"source": weights[0].name, "source_sha256": digest, **more}
        if licence := licence_of(digest):
            metadata["licence"] = licence
    else:
        metadata |= {key: more[key] for key in ("source_url", "source_sha256") if key in more}
    if config is not None:
        metadata["config"] = config
    return save_asset(target, state, kind, **{key: value for key, value in metadata.items() if key != "kind"})


def licence_of(digest: str) -> str | None:
    """Return the license of a known release, or None for other files."""
    known = {row.sha256: row.licence for row in ASSETS.values() if row.sha256 is not None}
    return _LICENCES.get(digest) or next((known[start] for start in known if digest.startswith(start)), None)


def _own_config(path: Path | None) -> dict[str, Any]:
    """Return the content of a config.json that `save_pretrained` wrote, or {} for any other file."""
    try:
        content = json.loads(path.read_text()) if path is not None else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) and {"kind", "config"} <= content.keys() else {}


def _config_beside(source: Path) -> Path | None:
    """Return the JSON file next to a released BigGAN: `config.json`, or `X-config.json` for `X-pytorch_model.bin`."""
    return next((Path(name) for name in _config_names(source) if Path(name).is_file()), None)


def _config_names(source: Path) -> list[str]:
    names = dict.fromkeys((source.name.replace("pytorch_model.bin", "config.json"), "config.json"))
    return [str(source.with_name(name)) for name in names if name != source.name]
