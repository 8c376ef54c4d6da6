"""Run the notebook of examples/ from the first cell to the last, and store its outputs in it.

    python tools/run_notebook.py                # write the outputs into the notebook
    python tools/run_notebook.py --out copy.ipynb

Run it again after a change of the notebook, of what it shows, or of the version. Needs nbclient and ipykernel
(`pip install '.[dev]'`).
"""

from __future__ import annotations

import argparse
import base64
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "examples" / "counterfactuals.ipynb"
SECONDS = 600  # for a cell


def executed(path: Path, folder: Path) -> Any:
    """Return the notebook with fresh outputs, after running it in `folder` in a new kernel.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=resources).execute()
    notebook.metadata["language_info"] = {"name": "python"}  # the kernel adds its own version
    for cell in notebook.cells:
        cell.metadata = nbformat.NotebookNode()  # times of execution
        if cell.cell_type == "code":  # messages on standard error name folders of one machine
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output["data"].pop("image/jpeg", None)  # the same picture again
                output["data"]["image/png"] = _smallest(output["data"]["image/png"])
    return notebook


def _smallest(picture: str) -> str:
    """The same picture as base64, compressed as well as PNG allows."""
    from PIL import Image

    file = BytesIO()
    with Image.open(BytesIO(base64.b64decode(picture))) as image:
        image.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main() -> int:
    """Run the notebook and write it."""
    import nbformat

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=NOTEBOOK, help="where the notebook is written")
    out = parser.parse_args().out
    notebook = executed(NOTEBOOK, NOTEBOOK.parent)
    nbformat.write(notebook, out)
    outputs = sum(len(cell.get("outputs", [])) for cell in notebook.cells)
    print(f"{out.name}: {outputs} outputs, {out.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
