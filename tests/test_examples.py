"""Every program of examples/ trains, on a few images."""

from __future__ import annotations

import ast
import base64
import json
import math
import re
import runpy
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageDraw, ImageStat

import genaug

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NOTEBOOK = EXAMPLES / "counterfactuals.ipynb"
LIBRARIES = {
    "timm_backbone": "timm",
    "albumentations_loop": "albumentations",
    "lightning_module": "lightning",
    "accelerate_loop": "accelerate",
}
OPTIONS: dict[str, dict[str, Any]] = {
    "lightning_module": {"accelerator": "cpu", "logger": False, "enable_checkpointing": False},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Seven images of each of ten classes, each class of a colour: two steps."""
    root = tmp_path_factory.mktemp("photographs")
    for label in range(10):
        (root / str(label)).mkdir()
        for number in range(7):
            Image.new("RGB", (40, 36), (25 * label, 30 * number, 128)).save(root / str(label) / f"{number}.png")
    return str(root)


def program(name: str) -> Callable[..., float]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


@pytest.mark.parametrize("name", ["plain_loop", *LIBRARIES])
def test_an_example_trains(
    folder: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name in LIBRARIES:
        pytest.importorskip(LIBRARIES[name])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask its server for a newer version
    options = OPTIONS.get(name, {})
    with warnings.catch_warnings():
        if name in LIBRARIES:  # other libraries' warnings are theirs
            warnings.simplefilter("ignore")
        loss = program(name)(folder, **options)
    assert math.isfinite(loss)
    assert loss > 0


def test_the_example_of_hugging_faces_trainer_trains(folder: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    # in a process of its own: beside these tests there is a folder `datasets`, which it would take for its library
    options = {"use_cpu": True, "report_to": "none", "save_strategy": "no"}
    code = (
        f"import runpy; print(runpy.run_path({str(EXAMPLES / 'hf_trainer.py')!r})['main']({folder!r}, **{options!r}))"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert 0 < float(run.stdout.split()[-1]) < math.inf


def test_the_example_for_torchrun_trains_in_one_process(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {
        "RANK": 0,
        "LOCAL_RANK": 0,
        "WORLD_SIZE": 1,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert math.isfinite(program("torchrun_ddp")(folder))


@pytest.mark.slow
def test_the_example_for_torchrun_trains_in_two_processes(folder: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run = subprocess.run(
        [*command, str(EXAMPLES / "torchrun_ddp.py"), folder], capture_output=True, text=True, check=True
    )
    assert run.stdout.count("epoch 0: loss") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [("lightning_module", {**OPTIONS["lightning_module"], "devices": 2}), ("accelerate_loop", {})],
)
def test_frameworks_share_the_photographs_between_two_processes(
    folder: str, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    pytest.importorskip(LIBRARIES[name])
    code = f"""
import os, runpy, sys
from genaug.training import mixing
joined = mixing.MixedLoader._join
def noting(self, batches):
    with open({str(tmp_path)!r} + "/" + os.environ.get("LOCAL_RANK", "0"), "a") as seen:
        seen.write("".join(f"{{image.sum():.5f}}\\n" for image in batches[0][0]))
    return joined(self, batches)
mixing.MixedLoader._join = noting
runpy.run_path({str(EXAMPLES / f"{name}.py")!r})["main"]({folder!r}, **{options!r})
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    # 70 photographs, 35 each, in one whole batch of 32; their crops differ, but none is seen by both
    seen = [set((tmp_path / rank).read_text().split()) for rank in "01"]
    assert [len(part) for part in seen] == [32, 32]
    assert not seen[0] & seen[1]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_changes_at_most_eight_lines_of_its_loop(path: Path) -> None:
    """Lines that end in # genaug: every use of the package is one, and all that follow from it."""
    lines = path.read_text().split('"""\n', 1)[1].splitlines()
    marked = [line for line in lines if line.endswith("  # genaug")]
    assert 0 < len(marked) <= 8
    assert path.read_text().count("# genaug") == len(marked) + 1  # and once in the docstring
    # what remains is a loop without the package: it neither imports it nor uses what the marked lines made of it
    kept = ast.parse("\n".join(re.sub(r"^( *).*[^:]  # genaug$", r"\1pass", line) for line in lines))
    made = {"genaug", *re.findall(r"import (.*?)  #", marked[0])[0].split(", ")}
    made |= {name for line in marked for name in re.findall(r"^ +(\w+) = ", line)} - {"loss", "trainer", "loader"}
    used = {node.id for node in ast.walk(kept) if isinstance(node, ast.Name)}
    headers = {name for line in marked if line.endswith(":  # genaug") for name in re.findall(r"\w+", line)}
    assert not (used - headers) & made


def test_every_example_is_run_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"plain_loop", "torchrun_ddp", "hf_trainer", *LIBRARIES}


@pytest.mark.parametrize("path", sorted((EXAMPLES / "pictures").glob("*.py")), ids=lambda path: path.stem)
def test_a_program_of_pictures_draws_them(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    monkeypatch.setattr(pyplot, "show", lambda: None)
    pyplot.close("all")
    runpy.run_path(str(path))
    figures = [pyplot.figure(number) for number in pyplot.get_fignums()]
    pictures = [image.get_array() for figure in figures for axes in figure.axes for image in axes.images]
    assert len(pictures) >= 4
    assert all(picture.min() < picture.max() for picture in pictures)
    pyplot.close("all")


def notebook_tool() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES.parent / "tools" / "run_notebook.py"))


def pictures_of(notebook: dict[str, Any]) -> list[Image.Image]:
    """The pictures that a notebook shows, in their order."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    data = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return [Image.open(BytesIO(base64.b64decode(picture))) for picture in data]


def printed_by(notebook: dict[str, Any]) -> list[str]:
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return ["".join(output["text"]) for output in outputs if output["output_type"] == "stream"]


def test_the_notebook_has_the_outputs_of_this_version() -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    assert NOTEBOOK.stat().st_size < 500_000
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))  # run once, from the top
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "execute_result"}  # no error
    assert {output.get("name") for output in outputs} == {"stdout", None}  # no warning
    for cell in code:
        if cell["source"] and cell["source"][-1].startswith("show("):
            assert "image/png" in cell["outputs"][-1]["data"]
    assert printed_by(notebook)[0] == f"genaug {genaug.__version__}\n", "run python tools/run_notebook.py"
    assert not re.search(r"/(?:home|root|tmp|work|Users)/", json.dumps(notebook))
    assert "pip" in "".join(code[0]["source"])
    shown = pictures_of(notebook)
    assert len(shown) == 9
    assert all(low < high for picture in shown for low, high in picture.getextrema())


@pytest.mark.slow
def test_the_notebook_runs_and_makes_its_outputs(tmp_path: Path) -> None:
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    stored = json.loads(NOTEBOOK.read_text())
    made = notebook_tool()["executed"](NOTEBOOK, tmp_path)
    assert printed_by(made) == printed_by(stored)
    for one, other in zip(pictures_of(made), pictures_of(stored), strict=True):
        difference = ImageStat.Stat(ImageChops.difference(one, other)).mean
        assert max(difference) < 2, "run python tools/run_notebook.py"  # of 255: processors differ in last bits
    assert not list(tmp_path.iterdir())  # it leaves nothing behind


@pytest.mark.slow
def test_the_notebook_recombines_a_photograph_of_the_user(tmp_path: Path) -> None:
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    side = 300
    photograph = Image.new("RGB", (side, side), (30, 60, 30))
    ImageDraw.Draw(photograph).rectangle((90, 90, 210, 210), (250, 250, 0))
    photograph.save(tmp_path / "square.jpg")
    source = NOTEBOOK.read_text().replace('PHOTOGRAPH = \\"\\"', 'PHOTOGRAPH = \\"square.jpg\\"')
    assert "square.jpg" in source
    (tmp_path / "own.ipynb").write_text(source)
    made = notebook_tool()["executed"](tmp_path / "own.ipynb", tmp_path)
    on_others, on_own = pictures_of(made)[-2:]
    for column in range(4):  # the square is yellow on every background
        assert on_others.getpixel((column * 166 + 80, 80))[2] < 110 < on_others.getpixel((column * 166 + 80, 80))[0]
    assert all(on_own.getpixel((column * 166 + 4, 4))[1] < 110 for column in range(3))  # the user's background
