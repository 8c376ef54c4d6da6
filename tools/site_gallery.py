"""The examples as pages of the documentation site: sphinx-gallery runs each, and shows the picture that it makes.

The picture of a training loop is the first batch that it trains on. `docs/conf.py` uses this module.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
GALLERIES = {"pictures": ROOT / "examples" / "pictures", "loops": ROOT / "examples"}
HEADER = "Gallery\n======="  # sphinx-gallery asks for one; docs/conf.py cuts it off
PER_CLASS = 30  # photographs that the loops train on

_batches: list[Tensor] = []


def write_sources(folder: Path) -> None:
    """Copy the examples to a folder for each gallery, as sphinx-gallery reads them.

    They run there, so that what a library writes into the current folder is not left in the checkout.
    """
    for name, examples in GALLERIES.items():
        sources = folder / name
        sources.mkdir(parents=True, exist_ok=True)
        (sources / "GALLERY_HEADER.txt").write_text(HEADER)
        for path in examples.glob("*.py"):
            text = with_heading(path.read_text(encoding="utf-8"))
            copy = sources / path.name
            if not copy.exists() or copy.read_text(encoding="utf-8") != text:
                copy.write_text(text, encoding="utf-8")


def with_heading(source: str) -> str:
    """Return an example whose docstring has a heading and its command as code, in reStructuredText.

    The command comes last: a thumbnail's hint is the first paragraph.
    """
    docstring = ast.get_docstring(ast.parse(source)) or ""
    title, command, *paragraphs = docstring.split("\n\n")
    title = title.rstrip(".")
    heading = f"{title}\n{'=' * len(title)}"
    text = "\n\n".join([heading, *paragraphs, "Run it:", f".. code-block:: bash\n\n    {command}"])
    return f'"""\n{text}\n"""\n' + source.split('"""', 2)[2].lstrip("\n")


def settings(generated: Path) -> dict[str, Any]:
    """Return sphinx-gallery's settings. Sources and pages are in subfolders of `generated`."""
    return {
        "examples_dirs": [str(generated / "sources" / name) for name in GALLERIES],
        "gallery_dirs": [f"{generated.name}/{name}" for name in GALLERIES],
        "filename_pattern": r"\.py$",  # all of them are run
        "abort_on_example_error": True,
        "reset_argv": "site_gallery.arguments",
        "reset_modules": ("matplotlib", "site_gallery.prepare"),
        "image_scrapers": ("matplotlib", "site_gallery.first_batch"),
        "within_subsection_order": "FileNameSortKey",
        "capture_repr": (),
        "notebook_extensions": set(),
        "download_all_examples": False,
        "show_signature": False,
        "write_computation_times": False,
        "min_reported_time": 1e9,  # seconds: the build says nothing of its speed
    }


def tidy(page: str) -> str:
    """Return a page of sphinx-gallery without the note that begins it, and without what other libraries print.

    The note would be the first words of each example in the site's search.
    """
    page = re.sub(r"\.\. only:: html\n\n +\.\. note::\n.*?example code\.\n", "", page, flags=re.DOTALL)
    return re.sub(
        r"\.\. rst-class:: sphx-glr-script-out\n\n \.\. code-block:: none\n\n((?: {4}.*)?\n)+", _own_lines, page
    )


def _own_lines(output: re.Match[str]) -> str:
    lines = re.findall(r"^    epoch \d+: loss .*\n", output[0], flags=re.MULTILINE)
    return f".. code-block:: none\n\n{''.join(lines)}\n" if lines else ""


def arguments(configuration: Any, variables: dict[str, Any]) -> list[str]:
    """Return the command line of an example: a loop's folder of photographs."""
    source = Path(variables["src_file"])
    if source.parent.name != "loops":
        return []
    folder = source.parents[1] / "photographs"
    if not folder.exists():
        _write_photographs(folder)
    return [str(folder)]


def _write_photographs(folder: Path) -> None:
    """Write some of the digits that `genaug train classifier --tiny` trains on: their colors tell the class."""
    from genaug.papers.presets import write_digits

    everything = folder.with_name("digits")
    for label in sorted((write_digits(everything) / "train").iterdir()):
        for path in sorted(label.iterdir())[:PER_CLASS]:
            (folder / label.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / label.name)
    shutil.rmtree(everything)


def prepare(configuration: Any, name: str) -> None:
    """Before an example: seed it, be the only process of torchrun, and note the first batch that a loop trains on."""
    import genaug

    torch.manual_seed(0)
    _batches.clear()
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask its server for a newer version
    if name.endswith("torchrun_ddp.py"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        processes = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update(processes)
    if not hasattr(genaug.MixedLoader, "iterated"):
        genaug.MixedLoader.iterated = genaug.MixedLoader.__iter__  # type: ignore[attr-defined]
        genaug.MixedLoader.__iter__ = _noted  # type: ignore[method-assign]


def _noted(loader: Any) -> Iterator[Any]:
    for batch in loader.iterated():
        if not _batches:
            images = batch["pixel_values"] if isinstance(batch, dict) else batch[0]
            _batches.append(images.detach().cpu().clone())
        yield batch


def first_batch(block: Any, variables: dict[str, Any], configuration: Any) -> str:
    """Save the first batch of a loop as a picture, once, and return the text that shows it."""
    from sphinx_gallery.scrapers import figure_rst
    from torchvision.transforms.v2.functional import to_pil_image

    from genaug.pictures import image_grid

    if not _batches or not len(_batches[0]):
        return ""
    images = _batches[0].float()
    _batches[0] = images[:0]  # shown
    low, high = images.amin(), images.amax()
    shown = ((images - low) / (high - low) * 255).round().to(torch.uint8)
    path = next(variables["image_path_iterator"])
    to_pil_image(image_grid(shown, columns=8, scale=2)).save(path)
    caption = "The first batch: photographs, then generated images, as the model sees them."
    return f"{caption}\n\n{figure_rst([path], configuration['src_dir'], caption)}"
