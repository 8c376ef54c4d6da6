"""The original authors' checkpoints as safetensors: read without running what they carry, and checked."""

from __future__ import annotations

import os
from pathlib import Path

from genaug.assets.formats import read
from genaug.assets.hub import sha256
from genaug.assets.layouts import canonical, check_layout
from genaug.assets.registry import ASSETS, AssetError
from genaug.assets.store import check_kind, check_target, save_asset

# by SHA-256, what the authors released under which licence; a file of anybody else's has a licence that we do not know
_LICENCES = {
    "6b178e7c1924b9efc532c467e7f0b77d2702efb536de9816bbd7e92c26d9b3fe": "MIT",  # CGN, colored_mnist_ckp.pth
    "7aa06c907f099c63a26127164a38d2ab353f1cdcafabdf8ca9303a0e9197b933": "MIT",  # CGN, double_colored_mnist_ckp.pth
}


def convert(source: str | os.PathLike[str], target: str | os.PathLike[str], kind: str | None = None) -> Path:
    """Turns an authors' checkpoint into a safetensors file that `load_asset` reads.

    Args:
        source: their `.pth`, `.bin` or `.safetensors`: a state dict; or GANSpace's `.npz` of directions. Files that
            need code to be run to be read are refused. A BigGAN's `config.json` is read where it lies beside; without
            it, the configuration is that of the released BigGAN-deep (128, 256 or 512 pixels) whose layers these are.
        target: where to write, ends in `.safetensors`. Its metadata keep the source's name and SHA-256, and the licence
            of a checkpoint that the authors released.
        kind: which network it should be, one of `genaug.assets.KINDS`; None finds out by the names.

    Returns:
        The target.

    Raises:
        AssetError: the source is truncated, unsafe, no checkpoint, or another model's.
        ValueError: unknown kind, or a target with another suffix.
        OSError: the target's folder cannot be written.
    """
    source, target = Path(source), Path(target)
    check_target(target)
    if kind is not None:
        check_kind(kind)
    if not source.is_file():
        raise AssetError(f"no such file: {source}")
    stored, metadata = read(source)
    state, kind, config = canonical(stored, str(source), kind)
    origin = str(source)
    if config is not None and "config" in metadata:
        config = metadata["config"]
    elif config is not None and (beside := _config_beside(source)) is not None:
        config = beside.read_text(errors="replace")
        origin += f" (with the configuration {beside}, which is read because it lies beside)"
    check_layout(state, kind, origin, config)
    if "kind" not in metadata:  # else it is a file of ours, which says more of itself than its name
        metadata = {"source": source.name, "source_sha256": sha256(source)}
        if licence := _licence(metadata["source_sha256"]):
            metadata["licence"] = licence
    if config is not None:
        metadata["config"] = config
    return save_asset(target, state, kind, **{key: value for key, value in metadata.items() if key != "kind"})


def _licence(digest: str) -> str | None:
    """Of a file that somebody released; a file of anybody else's has a licence that we do not know."""
    known = {row.sha256: row.licence for row in ASSETS.values() if row.sha256 is not None}
    return _LICENCES.get(digest) or next((known[start] for start in known if digest.startswith(start)), None)


def _config_beside(source: Path) -> Path | None:
    """The JSON that lies with a released BigGAN: `config.json`, or `X-config.json` beside `X-pytorch_model.bin`."""
    names = dict.fromkeys((source.name.replace("pytorch_model.bin", "config.json"), "config.json"))
    return next((path for name in names if name != source.name and (path := source.with_name(name)).is_file()), None)
