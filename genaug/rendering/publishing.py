"""Publish rendered images as a dataset repository on the Hub, for `datasets` and webdataset, with a card."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

from PIL import Image

from genaug._common.files import atomic_path
from genaug.assets.hub import check_repository, upload
from genaug.datasets.rendered import SETTINGS, SUFFIXES, Layout, RenderedDataset, key

_COLUMNS, _ROWS, _SIDE, _GAP = 8, 2, 112, 4  # of the card's picture: 8 x 2 images; pixels
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_001, "100K<n<1M"))


def publish_rendered(folder: str | os.PathLike[str], repository: str) -> str:
    """Upload a rendered set as a dataset repository, and return the commit.

    The `datasets` library and webdataset read the repository as it is. Call it again to resume an interrupted upload.

    Args:
        folder: folder that `genaug render` wrote, with every shard.
        repository: "OWNER/NAME" on the Hub. It is created if it does not exist.

    Raises:
        FileNotFoundError: the folder is not a rendered folder.
        ValueError: the set is unfinished or damaged, or the repository's name is not valid.
        AssetError: the Hub cannot be reached or refuses.
    """
    check_repository(repository)
    folder = Path(folder)
    rendered = RenderedDataset(folder, output="pil")
    layout = Layout(folder, rendered.settings)
    with atomic_path(folder / _picture(layout)) as temporary:
        _samples(rendered).save(temporary)
    if layout.format == "imagefolder":
        with atomic_path(folder / "metadata.jsonl") as temporary, temporary.open("w") as file:
            file.writelines(_metadata(rendered, layout))
    with atomic_path(folder / "README.md") as temporary:
        temporary.write_text(_card(layout, rendered.settings["source"], repository))
    files = ["README.md", _picture(layout), "metadata.jsonl", SETTINGS, "shard-*", f"*{SUFFIXES[layout.image]}"]
    return upload(repository, folder, files, message="Upload a rendered set of genaug", dataset=True, large=True)


def _picture(layout: Layout) -> str:
    """Return the file of the card's picture. Its suffix differs from the images', whose pattern must not match it."""
    return "samples.jpg" if layout.image == "png" else "samples.png"


def _metadata(rendered: RenderedDataset, layout: Layout) -> Iterator[str]:
    """Yield a line of JSON per image. Without these, `datasets` numbers only the class folders that exist."""
    for shard in range(layout.shards):
        for line in layout.data(shard).read_text().splitlines():
            sample = json.loads(line)
            labels = sample["describe"]["labels"] if layout.target == "labels" else {"label": sample["label"]}
            yield json.dumps({"file_name": sample["file"], **labels}) + "\n"


def _samples(rendered: RenderedDataset) -> Image.Image:
    """Return images spread evenly over the folder, since neighbors often share their noise."""
    step = _SIDE + _GAP
    sheet = Image.new("RGB", (_COLUMNS * step + _GAP, _ROWS * step + _GAP), "white")
    count = min(_COLUMNS * _ROWS, len(rendered))
    for i in range(count):
        tile = rendered[i * len(rendered) // count][0]
        way = Image.Resampling.NEAREST if tile.width <= _SIDE else Image.Resampling.LANCZOS
        sheet.paste(tile.resize((_SIDE, _SIDE), way), (_GAP + i % _COLUMNS * step, _GAP + i // _COLUMNS * step))
    return sheet


def _card(layout: Layout, source: dict[str, Any], repository: str) -> str:
    webdataset = layout.format == "webdataset"
    files = ["shard-*.tar"] if webdataset else ["metadata.jsonl", f"**/*{SUFFIXES[layout.image]}"]
    paths = "\n".join(f'    - "{file}"' for file in files)
    size = next((name for limit, name in _SIZES if layout.num < limit), "n>1M")
    rows = {"generator" if name == "name" else name: value for name, value in source.items() if name != "sha256"}
    rows["images"] = f"{layout.num:,}"
    table = "\n".join(f"| {name} | {_shown(value)} |" for name, value in rows.items())
    example = _WEBDATASET if webdataset else _IMAGEFOLDER
    targets = '["json"]["labels"]' if layout.target == "labels" else '["cls"]'
    last = key(layout.shards - 1)[3:]
    example = dedent(example).format(
        repository=repository, suffix=SUFFIXES[layout.image][1:], targets=targets, last=last
    )
    return (
        f"---\nlibrary_name: genaug\ntags:\n- genaug\n- {layout.format}\ntask_categories:\n- image-classification\n"
        f"size_categories:\n- {size}\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n"
        f"    path:\n{paths}\n---\n\n# Generated images of {source.get('name', source.get('dataset'))}\n\n"
        f"![Some of the images]({_picture(layout)})\n\n| | |\n|---|---|\n{table}\n\n"
        f"## Use\n\n```python\n{example.strip()}\n```\n\n"
        "`genaug.RenderedDataset` reads a downloaded copy, with everything that made each image.\n"
    )


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, (str, int, float)) else f"`{json.dumps(value)}`"


_WEBDATASET = """
    from datasets import load_dataset

    rows = load_dataset("{repository}", split="train", streaming=True)
    for row in rows:
        image, target = row["{suffix}"], row{targets}
        break

    import webdataset

    url = "https://huggingface.co/datasets/{repository}/resolve/main/shard-{{000000..{last}}}.tar"
    samples = webdataset.WebDataset(url, shardshuffle=False).decode("pil")
    """
_IMAGEFOLDER = """
    from datasets import load_dataset

    images = load_dataset("{repository}", split="train")
    """
