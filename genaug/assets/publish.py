"""An asset as a repository of the Hub: the weights, and a card that says what they are, made from what is on record."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

from genaug._common.files import DIGEST, atomic_path, one_line, writable_folder
from genaug.assets.cache import sha256
from genaug.assets.formats import SUFFIX
from genaug.assets.hub import check_repository, upload
from genaug.assets.registry import ASSETS, KINDS, NAMESPACE, Asset, AssetError
from genaug.assets.store import EMBEDDED, asset_path, load_asset, save_asset

if TYPE_CHECKING:
    from PIL import Image

_ANY_EXAMPLE = """
    from genaug.assets import load_asset

    state, metadata = load_asset("{file}")
    """


def publish(name: str, repository: str, *, folder: str | os.PathLike[str], dry_run: bool = False) -> str:
    """Uploads an asset with its card, or only writes the two.

    Args:
        name: of the registry, with its file on this machine or to be fetched.
        repository: "OWNER/NAME" on the Hub; "NAME" alone belongs to the project (`NAMESPACE`). Made if it is new.
        folder: where the safetensors file and README.md are put together.
        dry_run: leave it at that.

    Returns:
        After an upload, the lines of the registry that pin it: repository, revision, file, sha256 and size; for a dry
        run, the folder.

    Raises:
        AssetError: there is no such asset, its file is another than that on record, its licence is unknown, or the Hub
            refuses.
        ValueError: the repository's name is none.
        OSError: the folder cannot be written.
    """
    repository = repository if "/" in repository else f"{NAMESPACE}/{repository}"
    check_repository(repository)
    if name not in ASSETS:
        asset_path(name)  # names the near ones
        raise AssetError(f"{name} is no asset of the registry, which is where its card comes from")
    row = ASSETS[name]
    state, metadata = load_asset(name)
    path = asset_path(name)
    digests = sha256(path), metadata.get("source_sha256", "")
    if row.sha256 is None or not any(digest.startswith(row.sha256) for digest in digests):
        raise AssetError(f"{name} is not published: {path} is not the file on record, and the card would speak of that")
    if (licence := metadata.get("licence", row.licence)) == "unknown":
        raise AssetError(f"{name} is not published: its licence is unknown, so it is not ours to hand on")
    target = writable_folder(folder) / f"{name}{SUFFIX}"
    rest = {key: value for key, value in metadata.items() if key not in ("kind", "format_version", DIGEST)}
    save_asset(target, state, metadata["kind"], **rest)
    with atomic_path(target.with_name("README.md")) as temporary:
        temporary.write_text(_card(row, licence, repository))
    if dry_run:
        return str(target.parent)
    revision = upload(repository, target.parent, [target.name, "README.md"], message=f"Publish {target.name}")
    return dedent(f"""\
        repository="{repository}",
        revision="{revision}",
        file="{target.name}",
        sha256="{sha256(target)}",
        size={target.stat().st_size:_},""")


def _card(row: Asset, licence: str, repository: str) -> str:
    """The model card: metadata that the Hub reads, then what, data, recipe, figures, licence and an example."""
    own = EMBEDDED / f"{row.name}.md"
    if own.is_file():
        body = own.read_text().rstrip()
    else:
        body = dedent(f"""\
            # {row.name}

            {row.what[0].upper() + row.what[1:]}. {row.paper}.

            | | |
            |---|---|
            | source | {row.source} |
            | measured | {row.figures} |
            | licence | {licence} |""")
    file = f"{row.name}{SUFFIX}"
    example = dedent(KINDS[row.kind].example or _ANY_EXAMPLE).strip().format(file=file)
    return (
        f"---\nlicense: {licence.lower()}\nlibrary_name: genaug\ntags:\n- genaug\n- {row.kind}\n---\n\n{body}\n\n"
        f"## Use\n\n```bash\npip install genaug\nhf download {repository} {file} --local-dir .\n```\n\n"
        f"```python\n{example}\n```\n"
    )


def publish_rendered(folder: str | os.PathLike[str], repository: str) -> str:
    """Uploads a rendered set as a dataset repository, and returns the commit.

    The `datasets` library and webdataset read it as it is. Run it again to continue an upload that was interrupted.

    Args:
        folder: what `genaug render` wrote, with every shard.
        repository: "OWNER/NAME" on the Hub. Made if it is new.

    Raises:
        ValueError: the folder is no finished set, or the repository's name is none.
        AssetError: the Hub cannot be reached or refuses.
    """
    check_repository(repository)
    folder = Path(folder)
    settings = rendered_settings(folder)
    with atomic_path(folder / "samples.png") as temporary:
        _samples(folder, settings).save(temporary)
    with atomic_path(folder / "README.md") as temporary:
        temporary.write_text(_rendered_card(settings, repository))
    return upload(repository, folder, ["*"], message="Upload a rendered set of genaug", dataset=True)


def rendered_settings(folder: Path) -> dict[str, Any]:
    """The settings of a rendered set that is complete.

    Raises:
        ValueError: it is none, or shards are missing.
    """
    try:
        settings = json.loads((folder / "settings.json").read_text())["settings"]
        shards = -(-settings["num"] // settings["shard_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} must be a folder that genaug render wrote ({one_line(error)})") from None
    if missing := [i for i in range(shards) if not (folder / f"shard-{i:06d}.json").is_file()]:
        raise ValueError(f"{folder} must be complete, got {shards - len(missing)} of {shards} shards. Render it again")
    return settings


def _images(folder: Path, settings: dict[str, Any]) -> Iterator[bytes]:
    if settings["format"] == "webdataset":
        with tarfile.open(folder / "shard-000000.tar") as archive:
            for member in archive:
                if member.isfile() and not member.name.endswith((".cls", ".json", ".txt")):
                    stored = archive.extractfile(member)
                    assert stored is not None
                    yield stored.read()
    else:
        for path in sorted(folder.glob(f"*/*.{settings['image']}"), key=lambda path: path.name):
            yield path.read_bytes()


def _samples(folder: Path, settings: dict[str, Any]) -> Image.Image:
    """The first 16 images of a set, in two rows."""
    from PIL import Image

    side, gap = 112, 4
    sheet = Image.new("RGB", (8 * (side + gap) + gap, 2 * (side + gap) + gap), "white")
    for i, content in enumerate(islice(_images(folder, settings), 16)):
        tile = Image.open(io.BytesIO(content)).convert("RGB")
        way = Image.Resampling.NEAREST if tile.width <= side else Image.Resampling.LANCZOS
        place = gap + i % 8 * (side + gap), gap + i // 8 * (side + gap)
        sheet.paste(tile.resize((side, side), way), place)
    return sheet


def _rendered_card(settings: dict[str, Any], repository: str) -> str:
    num, source = settings["num"], settings["source"]
    size = next((name for limit, name in _SIZES if num < limit), "n>1M")
    webdataset = settings["format"] == "webdataset"
    files = "*.tar" if webdataset else "**"
    kind = "webdataset" if webdataset else "imagefolder"
    rows = {key: value for key, value in source.items() if key != "sha256"} | {"images": f"{num:,}"}
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    second = (
        f"""
        import webdataset

        url = "https://huggingface.co/datasets/{repository}/resolve/main/shard-000000.tar"
        images = webdataset.WebDataset(url).decode("pil")
        """
        if webdataset
        else ""
    )
    return (
        f"---\nlibrary_name: genaug\ntags:\n- genaug\n- {kind}\ntask_categories:\n- image-classification\n"
        f"size_categories:\n- {size}\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n"
        f'    path: "{files}"\n---\n\n# Generated images of {source["name"]}\n\n'
        f"![The first images](samples.png)\n\n| | |\n|---|---|\n{table}\n\n## Use\n\n```python\n"
        f"from datasets import load_dataset\n\n"
        f'images = load_dataset("{repository}", split="train")\n{dedent(second)}```\n\n'
        f"`genaug.RenderedDataset` reads a downloaded copy, with the metadata of each image.\n"
    )


_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_001, "100K<n<1M"))
