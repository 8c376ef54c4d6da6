from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from contract import generator
from oracles import write_images

from genaug import cli
from genaug._common import names
from genaug.assets import ASSETS, load_asset, save_asset
from genaug.assets.cache import sha256
from genaug.cli.training import _source
from genaug.datasets.colored_mnist import VARIANTS
from genaug.evaluation import SUITES
from genaug.evaluation.classes import CUE_CONFLICT
from genaug.models.multi_head_resnet import MultiHeadResNet
from genaug.papers import RECIPES, measured
from genaug.training.classifier.settings import Settings, Source

COMMANDS = [
    "",
    "demo",
    "sample",
    "interpolate",
    "walk",
    "stylize",
    "cutouts",
    "explore",
    "render",
    "evaluate",
    "audit",
    "train",
    "train cgn-mnist",
    "train cgn-imagenet",
    "train vae-digits",
    "train classifier",
    "train adain",
    "reproduce",
    "reproduce list",
    "reproduce cgn-table1",
    "reproduce cgn-table2",
    "reproduce cgn-table5",
    "reproduce cgn-figure6",
    "reproduce cgn-figure7",
    "reproduce genint-colored-mnist",
    *(f"reproduce {name}" for name, recipe in RECIPES.items() if recipe.small_scale),
    "assets",
    "assets list",
    "assets pull",
    "assets lock",
    "assets bundle",
    "assets unbundle",
    "assets verify",
    "assets path",
    "assets convert",
    "assets publish",
]


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    # set by --debug: monkeypatch takes it back
    monkeypatch.setenv("GENAUG_DEBUG", "")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Runs a command that is misuse and returns its one line."""
    code, out, err = run(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("genaug: ")
    return err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example_that_begins_with_the_command(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    code, out, _ = run(capsys, *command.split(), "--help")
    assert code == 0
    assert f": genaug {command}".rstrip() in " ".join(out.split())


def test_the_list_above_has_every_command() -> None:
    groups = {"": cli.app, "train": cli.train, "reproduce": cli.reproduce, "assets": cli.assets}
    commands = {
        f"{group} {command.name or command.callback.__name__}".strip()
        for group, app in groups.items()
        for command in app.registered_commands
        if not command.hidden
    }
    assert commands | groups.keys() == set(COMMANDS)


def test_help_answers_in_under_a_second_and_without_torch() -> None:
    code = (
        "import sys, time\n"
        "from genaug.cli import main\n"
        "main(['--help'])\n"
        "print(time.process_time(), 'torch' in sys.modules)"  # of the processor: the machine may be busy
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    seconds, torch_is_there = out.split("\n")[-2].split()
    assert float(seconds) < 1
    assert torch_is_there == "False"


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version")[:2] == (0, "genaug 0.1.0\n")


@pytest.mark.parametrize("command", ["", "train", "reproduce", "assets"])
def test_no_command_shows_the_help_and_is_misuse(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, err = run(capsys, *command.split())
    assert code == 2
    assert "Usage: genaug" in out + err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nothing", "No such command 'nothing'"),
        ("demo --nothing", "--nothing"),
        ("demo --digits letters", "'letters' is not one of 'sklearn', 'mnist'"),
        ("demo --seed one", "Invalid value for '--seed'"),
        ("sample cgn-digits", "Missing option '--out'"),
        ("sample cgn-colred-mnist --out sheet.png", "did you mean 'cgn-colored-mnist'"),
        ("sample gone.safetensors --out sheet.png", "no such file: gone.safetensors"),
        ("interpolate cgn-digits --out sheet.png --over colour", "over must be one of"),
        ("interpolate cgn-digits --out sheet.png --classes 3,10", "10"),
        ("interpolate vae-digits --out sheet.png", "vae-digits has none"),
        (
            "walk cgn-digits --out walk.png",
            "out must end in .gif or .mp4 for a counterfactual generator, got 'walk.png'. A sheet (.png) is for",
        ),
        ("walk cgn-digits --out walk.gif --music gone.wav", "--music must be a file, but there is no gone.wav"),
        ("walk cgn-digits --out walk.gif --scale 2 --points 3", "--scale is for one with principal directions"),
        ("walk cgn-digits --out walk.gif --points 0", "points must be at least 2"),
        ("walk vae-digits --out walk.gif --points 3", "--points is for a counterfactual one"),
        ("stylize gone.jpg --class 1 --out styled.png", "IMAGE must be a file, but there is no gone.jpg"),
        ("assets path cgn-colred-mnist", "did you mean 'cgn-colored-mnist'"),
        ("assets pull cgn-colred-mnist", "did you mean 'cgn-colored-mnist'"),
        ("assets verify cgn-colred-mnist", "did you mean 'cgn-colored-mnist'"),
        ("assets publish cgn-colred-mnist me/x", "did you mean 'cgn-colored-mnist'"),
        ("assets publish cgn-digits a/b/c", "repository must be OWNER/NAME or NAME, got 'a/b/c'"),
        ("assets publish cgn-digits ../b", "repository must be OWNER/NAME or NAME, got '../b'"),
        ("assets convert gone.pth target.safetensors", "no such file: gone.pth"),
        ("assets convert gone.pth target.pt", "the target must end in .safetensors, got 'target.pt'"),
        ("demo --digits mnist", "MNIST/raw, or --download to fetch it there\n"),
        ("train cgn-mnist --variant colored --out run", "no MNIST in 'data': pass --root DIR"),
        ("train cgn-mnist --variant colored --out run --root x", "no MNIST in 'x': pass --root DIR"),
        ("reproduce cgn-table2", "MNIST/raw, or --download to fetch it there\n"),
        ("reproduce cgn-table5", "MNIST/raw, or --download to fetch it there\n"),
        ("reproduce cgn-figure6", "MNIST/raw, or --download to fetch it there\n"),
        ("reproduce cgn-figure7", "MNIST/raw, or --download to fetch it there\n"),
        ("reproduce cgn-figure7 --variant colred", "did you mean 'colored'"),
        ("reproduce cgn-figure7 --numbers 1e5", "--numbers takes integers with commas between, got '1e5'"),
        ("reproduce cgn-table2 --seeds 0,one", "--seeds takes integers with commas between, got 'one'"),
        ("train cgn-mnist --variant colred --out run", "'colred'"),
        ("evaluate resnet50 --suite shape-bias --out results", "Missing option '--data'"),
        ("evaluate resnet50 --suite shape-bais --data . --out results", "did you mean 'shape-bias'"),
        ("evaluate resnet50 --suite shape-bias --data x --out results", "no such folder: x"),
        (
            "evaluate resnet50 --suite shape-bias --data . --data . --out results",
            "each --suite needs its --data, got 1",
        ),
        ("evaluate resnet50 --suite imagenet --data . --suite imagenet --data . --out x", "must name each entry once"),
        ("evaluate resnt50 --suite shape-bias --data . --out results", "did you mean 'resnet50'"),
        ("evaluate resnet50 --weights x.pth --suite shape-bias --data . --out results", "no such file: x.pth"),
        ("reproduce cgn-table2 --variant colred", "'colred'"),
        ("train classifier --out run", "data (--data) is needed"),
        ("train classifier --row genitn --out run", "--preset must be one of"),
        ("train classifier --row genint --out run --data x", "no such folder: x"),
        ("train classifier --row genint --out run --val x", "no such folder: x"),
        ("train classifier --row genint --out run --stylized x:4", "no such folder: x"),
        ("train classifier --row genint --out run --data . --val . --as code", "'code'"),
        ("train classifier --row genint --out run --data . --val . --architecture resnet50", "'resnet18', 'resnet152'"),
        ("train classifier --row genint --tiny --out run --epochs 0", "epochs must be at least 1"),
        (
            "train classifier --row genint --tiny --out run --set scale=far",
            "scale in --set must be a number or 'released'",
        ),
        ("train classifier --out run --set epoch=3", "--set has an unknown key, 'epoch'; did you mean 'epochs'"),
        ("train classifier --out run --set epochs=many", "epochs in --set must be an integer, got 'many'"),
        ("train classifier --out run --set epochs", "--set takes KEY=VALUE, such as weight_decay=1e-4, got 'epochs'"),
        ("train classifier --out run --config x.yaml", "no such file: x.yaml"),
        ("train classifier --out run --intervention biggan:much", "--intervention takes NAME, NAME:BATCH or"),
        ("train classifier --out run --counterfactual :8:1", "--counterfactual takes NAME, NAME:BATCH or"),
        ("train classifier --out run --counterfactual bank:8:much", "--counterfactual takes NAME, NAME:BATCH or"),
        ("train classifier --out run --counterfactual bank:8.5", "--counterfactual takes NAME, NAME:BATCH or"),
        ("train classifier --out run --counterfactual bank:", "--counterfactual takes NAME, NAME:BATCH or"),
        ("render --out set --num 5", "render needs a generator's name, or else --verify DIR or --repair DIR"),
        ("render vae-digits --num 5", "render needs --out"),
        ("render vae-digits --out set", "render needs --num"),
        ("render vae-digits --out set --num 0", "num must be at least 1, got 0"),
        ("render vae-digits --out set --num 5 --shard-size 0", "shard_size must be at least 1, got 0"),
        ("render vae-digits --out set --num 5 --format webdatasets", "did you mean 'webdataset'"),
        ("render vae-digits --out set --num 5 --image jpg", "did you mean 'jpeg'"),
        ("render vae-digits --out set --num 5 --quality 101", "quality must be at most 100, got 101"),
        ("render vae-digits --out set --num 5 --image png --quality 9", "quality is of jpeg and webp alone"),
        ("render vae-digit --out set --num 5", "did you mean 'vae-digits'"),
        ("render vae-digits --out set --num 5 --pool 9", "pool is not an option for 'vae-digits'"),
        ("render cgn-digits --out set --num 5 --components 9", "components is not an option for 'cgn-digits'"),
        ("render vae-digits --out set --num 5 --scale far", "--scale takes a number or 'released'"),
        ("render vae-digits --verify set", "--verify DIR and --repair DIR stand alone"),
        ("render vae-digits --out set --num 5 --size 99", "--size is of --transfer, which is not given"),
        ("render vae-digits --out set --transfer . --method adain --steps 5,9", "--steps is of --method gatys"),
        ("render vae-digits --out set --transfer . --decoder x", "--decoder is of --method adain, but it is gatys"),
        ("render --verify set", "'set' is not a rendered folder: it has no settings.json"),
        ("render --repair set", "'set' is not a rendered folder: it has no settings.json"),
    ],
)
def test_misuse_is_one_line_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: str, message: str
) -> None:
    assert message in refused(capsys, *arguments.split())
    assert list(tmp_path.iterdir()) == []


def test_an_out_folder_that_cannot_be_written_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot write to the folder 'file" in refused(capsys, "demo", "--out", "file/demo")


def test_failure_is_one_line_and_code_1_and_a_traceback_only_on_demand(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("first line\n  second line")

    monkeypatch.setattr("genaug.demo.digits.run", fail)
    assert run(capsys, "demo") == (1, "", "genaug: RuntimeError: first line second line\n")
    code, _, err = run(capsys, "--debug", "demo")
    assert code == 1
    assert "Traceback" in err
    assert err.endswith("genaug: RuntimeError: first line second line\n")
    monkeypatch.setenv("GENAUG_DEBUG", "0")
    assert run(capsys, "demo")[2].count("\n") == 1
    monkeypatch.setenv("GENAUG_DEBUG", "1")
    assert "Traceback" in run(capsys, "demo")[2]


def test_a_damaged_installation_is_a_failure_and_no_misuse(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GENAUG_ASSETS", raising=False)
    monkeypatch.setattr("genaug.assets.store.EMBEDDED", tmp_path)
    for message in ("cgn-digits.safetensors is not in this installation", "is not the file on record"):
        code, out, err = run(capsys, "sample", "cgn-digits", "--out", "sheet.png")
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert message in err
        (tmp_path / "cgn-digits.safetensors").write_bytes(b"something else")


def test_an_interrupt_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("genaug.demo.digits.run", interrupt)
    assert run(capsys, "demo") == (130, "", "genaug: interrupted\n")


def test_sample_draws_a_sheet(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    save_asset(tmp_path / "own.safetensors", generator().state_dict(), "cgn-mnist")
    assert run(capsys, "sample", "own.safetensors", "--out", "sheets/a.png", "--columns", "4") == (
        0,
        "sheets/a.png\n",
        "",
    )
    assert run(capsys, "sample", "own.safetensors", "--out", "sheets/b.png", "--columns", "4")[0] == 0
    assert run(capsys, "sample", "own.safetensors", "--out", "sheets/c.png", "--columns", "4", "--seed", "1")[0] == 0
    a, b, c = ((tmp_path / "sheets" / f"{name}.png").read_bytes() for name in "abc")
    assert a.startswith(b"\x89PNG")
    assert a == b
    assert a != c


def test_without_ffmpeg_a_walk_is_a_gif_and_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    for name in ("cgn-digits --points 2", "vae-digits --components 0 --scale 2"):
        code, out, err = run(capsys, "walk", *name.split(), "--out", "walk.mp4")
        assert (code, out) == (0, "walk.gif\n")
        assert "ffmpeg is not installed: wrote a GIF in place of walk.mp4\n" in err


def test_walk_hands_on_every_option(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, object]] = []
    record = lambda *given, **options: seen.append({"given": given, **options}) or given[1]  # noqa: E731
    monkeypatch.setattr("genaug.pictures.samples.walk", record)
    line = "walk vae-digits --out w.gif --components 3,1 --scale 2 --classes 207 --directions d.npz --seed 4"
    assert run(capsys, *line.split(), "--truncation", "0.5") == (0, "w.gif\n", "")
    assert seen == [
        {
            "given": ("vae-digits", Path("w.gif")),
            "components": (3, 1),
            "scale": 2.0,
            "classes": (207,),
            "directions": "d.npz",
            "seed": 4,
            "truncation": 0.5,
            "device": "cpu",
        }
    ]


def test_a_counterfactual_generator_walks_to_music(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, object]] = []

    def record(*given: object, **options: object) -> Path:
        seen.append({"given": given, **options})
        return Path("w.gif")

    monkeypatch.setattr("genaug.pictures.interpolations.walk", record)
    (tmp_path / "song.wav").touch()
    line = f"walk cgn-digits --out w.mp4 --music {tmp_path}/song.wav --points 3 --classes 2 --seed 4 --truncation 0.5"
    code, out, error = run(capsys, *line.split())
    assert (code, out) == (0, "w.gif\n")
    assert "ffmpeg is not installed: wrote a GIF in place of w.mp4" in error
    common = {"classes": (2,), "seed": 4, "truncation": 0.5, "device": "cpu"}
    (generator, written), *_ = [call.pop("given") for call in seen]
    assert (type(generator).__name__, written) == ("FastCGNMnist", Path("w.mp4"))  # loaded once, to tell what it is
    assert seen == [{"music": tmp_path / "song.wav", "points": 3, **common}]
    assert "--components is for one with principal directions" in refused(
        capsys, "walk", "cgn-digits", "--out", "w.gif", "--components", "1"
    )
    assert "--points is for a counterfactual one" in refused(
        capsys, "walk", "vae-digits", "--out", "w.gif", "--points", "3"
    )
    assert "--music must be a file" in refused(capsys, "walk", "cgn-digits", "--out", "w.gif", "--music", "no.wav")


def test_interpolate_and_stylize_hand_on_every_option(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, object]] = []

    def record(*given: object, **options: object) -> object:
        seen.append({"given": given, **options})
        return given[1]

    monkeypatch.setattr("genaug.pictures.interpolations.interpolate", record)
    monkeypatch.setattr("genaug.pictures.stylize.run", record)
    line = "interpolate some --out s.png --over shape --between noises --classes 1,2 --points 3 --steps 4 --seed 5"
    assert run(capsys, *line.split(), "--truncation", "0.5") == (0, "s.png\n", "")
    (tmp_path / "photo.jpg").touch()
    line = (
        f"stylize {tmp_path}/photo.jpg --class 3 --out s.png --generator g --steps 4 --size 64 --frames 5 --network n"
    )
    assert run(capsys, *line.split(), "--truncation", "0.5", "--seed", "5") == (0, "s.png\n", "")
    common = {"steps": 4, "seed": 5, "truncation": 0.5, "device": "cpu"}
    assert seen == [
        {"given": ("some", Path("s.png")), "over": "shape", "between": "noises", "classes": (1, 2), "points": 3,
         **common},
        {"given": (tmp_path / "photo.jpg", Path("s.png")), "label": 3, "generator": "g", "size": 64, "frames": 5,
         "network": "n", **common},
    ]  # fmt: skip
    assert "IMAGE must be a file" in refused(capsys, "stylize", "no.jpg", "--class", "1", "--out", "s.png")


def test_train_and_reproduce_hand_on_every_option(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[tuple[object, ...], dict[str, object]]] = []
    for function in (
        "genaug.training.generators.cgn_mnist.train",
        "genaug.training.generators.digits_vae.train",
        "genaug.papers.cgn_table2.run",
        "genaug.papers.cgn_table5.run",
        "genaug.papers.cgn_figure6.run",
        "genaug.papers.cgn_figure7.run",
        "genaug.papers.genint_colored_mnist.run",
        "genaug.demo.digits.run",
    ):
        monkeypatch.setattr(function, lambda *args, **options: calls.append((args, options)))

    for line in (
        "train cgn-mnist --variant wildlife --out run --root r --textures t --seed 3 --steps 9 --device cuda "
        "--dtype bfloat16 --download",
        "train vae-digits --out run --seed 3 --steps 9 --device cuda",
        "reproduce cgn-table2 --rows cgn --variant colored --variant wildlife --root r --textures t --seeds 4,5 "
        "--num 10 --checkpoint c --pool 7 --unclipped --out o --device cuda --dtype bfloat16 --download",
        "reproduce cgn-table5 --root r --seeds 4 --seeds 5 --num 10 --out o --device cuda --dtype bfloat16 --download",
        "reproduce cgn-figure6 --root r --seeds 4,5 --out o --device cuda --dtype bfloat16 --download",
        "reproduce cgn-figure7 --variant colored --variant wildlife --numbers 10 --numbers 20 --per-noise 1,2 --root r "
        "--textures t --seeds 4,5 --epochs 3 --out o --device cuda --dtype bfloat16 --download",
        "reproduce genint-colored-mnist --variant two-class --rows real,vae --digits sklearn --root r --seeds 4,5 "
        "--out o --download",
        "reproduce genint-colored-mnist --root r --download",
        "demo --out d --seed 2 --digits sklearn --root r",
    ):
        assert run(capsys, *line.split())[0] == 0

    shared = {
        "root": Path("r"),
        "textures": Path("t"),
        "device": "cuda",
        "dtype": torch.bfloat16,
        "download": True,
    }
    seeded = {**{name: value for name, value in shared.items() if name != "textures"}, "seeds": (4, 5)}
    assert calls == [
        (("wildlife", Path("run")), {**shared, "seed": 3, "steps": 9}),
        ((Path("run"),), {"seed": 3, "steps": 9, "device": "cuda"}),
        (
            (Path("o"),),
            {
                **shared,
                "rows": ("cgn",),
                "variants": ("colored", "wildlife"),
                "seeds": (4, 5),
                "num_counterfactuals": 10,
                "checkpoint": "c",
                "pool": 7,
                "clip": False,
            },
        ),
        ((Path("o"),), {**seeded, "num_counterfactuals": 10}),
        ((Path("o"),), seeded),
        (
            (Path("o"),),
            {
                **shared,
                "variants": ("colored", "wildlife"),
                "numbers": (10, 20),
                "per_noise": (1, 2),
                "seeds": (4, 5),
                "epochs": 3,
            },
        ),
        (
            (Path("o"),),
            {
                "variants": ("two-class",),
                "rows": ("real", "vae"),
                "root": Path("r"),
                "digits": "sklearn",
                "seeds": (4, 5),
                "download": True,
            },
        ),
        (
            (Path("runs/genint-colored-mnist"),),
            {
                # the rows and variants are left to `run`
                "root": Path("r"),
                "digits": "mnist",
                "seeds": (0,),
                "download": True,
            },
        ),
        ((Path("d"),), {"seed": 2, "digits": "sklearn", "root": Path("r"), "download": False}),
    ]


def test_the_cgn_on_imagenet_is_handed_every_option(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from genaug.papers import cgn_miniature, cgn_table1
    from genaug.training.generators import cgn, cgn_settings

    calls: list[tuple[tuple[object, ...], dict[str, object]]] = []

    def noted(*args: object, **options: object) -> dict[str, object]:
        calls.append((args, options))
        return {"end": {"mask": 0.25}}

    monkeypatch.setattr(cgn, "train", noted)
    monkeypatch.setattr(cgn_table1, "run", noted)
    given = "--steps 3 --batch-size 4 --accumulate 5 --measured 60 --no-inception --device cuda --dtype bfloat16"
    code, out, _ = run(capsys, *f"train cgn-imagenet --out o --without shape,bg --as released --seed 7 {given}".split())
    assert code == 0
    assert out.splitlines() == ["mask 0.250", str(Path("o", "generator.safetensors"))]
    assert run(capsys, "train", "cgn-imagenet", "--out", "o", "--tiny")[0] == 0
    line = f"reproduce cgn-table1 --rows all,without-bg --as released --tiny --seeds 1,2 --out o {given}"
    assert run(capsys, *line.split())[0] == 0
    (full, tiny, table) = [options for _, options in calls]
    changes = {"steps": 3, "batch_size": 4, "accumulate": 5, "measured": 60, "inception": False, "dtype": "bfloat16"}
    expected = replace(cgn_settings.RELEASED, without=("shape", "bg"), seed=7, **changes)
    assert full == {"settings": expected, "start": None, "device": "cuda", "every": cgn.EVERY}
    assert tiny["settings"] == cgn_miniature.tiny(cgn_settings.PAPER)
    assert tiny["every"] == cgn_miniature.EVERY
    assert tiny["start"] is not None
    assert table == {
        "rows": ("all", "without-bg"),
        "seeds": (1, 2),
        "as_": "released",
        "tiny": True,
        **{name: value for name, value in changes.items() if name != "dtype"},
        "device": "cuda",
        "dtype": torch.bfloat16,
    }
    message = refused(capsys, "train", "cgn-imagenet", "--out", "o", "--without", "textures")
    assert "without must be one of 'rec', 'shape', 'text', 'bg', got 'textures'" in message


def test_train_classifier_hands_on_every_option(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[tuple[tuple[object, ...], dict[str, object]]] = []
    measured = {"validation": {"ensemble": {"top1": 12.3, "top5": 45.6}}, "classes": 8}

    def noted(*args: object, **options: object) -> dict[str, object]:
        calls.append((args, options))
        return measured

    monkeypatch.setattr("genaug.training.classifier.loop.train", noted)
    for name in ("d", "v", "s"):
        (tmp_path / name).mkdir()
    for line in (
        "train classifier --out o --row genint --data d --val v --tiny --as released --architecture resnet152 "
        "--augmentation additional --counterfactual c:8 --intervention i:16:0.05 --intervention j --stylized s:4:2 "
        "--truncation 0.5 --components 3 --scale 2 --heads shape,texture "
        "--aggregate log_probs --frozen-batch-norm --weights none --epochs 5 --batch-size 6 "
        "--learning-rate 0.7 --drop-every 8 --drop-factor 0.9 --optimizer adam --weight-decay 0.1 --mixup 0.2 "
        "--label-smoothing 0.3 --size 40 --accumulate 2 --dtype bfloat16 --channels-last --compile --seed 7 "
        "--workers 1 --checkpoint-every 9 --skip-bad --tensorboard --device cuda",
        "train classifier --out o --data d --val v --intervention j --scale released --weights DEFAULT",
    ):
        code, out, _ = run(capsys, *line.split())
        assert (code, out) == (
            0,
            "validation accuracy: top-1 12.3%, top-5 45.6%\nchance: top-1 12.5%\nmodel: o/model\n",
        )
    steering = {"length": 1280, "truncation": 0.5, "components": 3, "scale": 2.0}
    assert calls[0] == (
        (Path("o"), Path("d"), Path("v")),
        {
            "sources": [
                Source("intervention", "i", 16, 0.05, steering),
                Source("intervention", "j", 8, 0.2, steering),  # the preset's share
                Source("stylized", "s", 4, 2.0),
                Source("counterfactual", "c", 8),
            ],
            "settings": Settings(
                architecture="resnet152",
                augmentation="additional",
                heads=("shape", "texture"),
                aggregate="log_probs",
                frozen_batch_norm=True,
                weights=None,
                epochs=5,
                batch_size=6,
                learning_rate=0.7,
                drop_every=8,
                drop_factor=0.9,
                optimizer="adam",
                weight_decay=0.1,
                mixup=0.2,
                label_smoothing=0.3,
                size=40,
                accumulate=2,
                dtype="bfloat16",
                channels_last=True,
                compile=True,
                seed=7,
            ),
            "device": "cuda",
            "num_workers": 1,
            "checkpoint_every": 9,
            "skip_bad": True,
            "tensorboard": True,
            "retrain": None,
        },
    )
    # what is not asked for has its default
    assert calls[1][1]["settings"] == Settings(weights="DEFAULT")
    assert calls[1][1]["sources"] == [Source("intervention", "j", 256, options={"scale": "released"})]


@pytest.mark.parametrize("name", ["bank", "C:\\bank", "/data/a b:c/bank", "a:4/bank", "hf://owner/bank", "here:x"])
@pytest.mark.parametrize(
    ("numbers", "parsed"),
    [("", {}), (":4", {"batch_size": 4}), (":4:0.5", {"batch_size": 4, "weight": 0.5}), (":4:1e-2", {"weight": 0.01})],
)
def test_numbers_of_a_source_are_split_off_its_path(
    name: str, numbers: str, parsed: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here:x").mkdir()
    found = _source("counterfactual", name + numbers)
    assert found == {"kind": "counterfactual", "name": name, **({"batch_size": 4} if numbers else {}), **parsed}


def test_variants_are_those_of_the_datasets() -> None:
    assert tuple(VARIANTS) == names.MNIST_VARIANTS


def test_reproduce_list_names_every_recipe_and_its_figures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    code, out, _ = run(capsys, "reproduce", "list")
    assert code == 0
    blocks = dict(block.split(": ", 1) for block in out.strip().split("\n\n"))
    assert list(blocks) == list(RECIPES)
    for name, recipe in RECIPES.items():
        assert blocks[name].startswith(recipe.what)
        ours = measured().get(name, {})
        for field, text in (
            ("command", recipe.command),
            ("then", recipe.then),
            ("missing", recipe.missing),
            ("needs", recipe.needs if recipe.command or recipe.small_scale else ""),
            ("cost", recipe.cost if recipe.command or recipe.small_scale else ""),
            ("paper", recipe.paper),
            ("ours", ours.get("full", "not run")),
            ("small-scale", f"genaug reproduce {name} --small-scale" if recipe.small_scale else ""),
            ("ours (small)", ours.get("small_scale", "not run") if recipe.small_scale else ""),
        ):
            lines = [line for line in blocks[name].splitlines() if line.startswith(f"  {field:<14}")]
            assert lines == ([f"  {field:<14}{text}"] if text else [])


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.options])
def test_the_options_of_a_recipe_are_arguments_of_its_run(name: str) -> None:
    recipe = RECIPES[name]
    run = importlib.import_module(f"genaug.papers.{name.replace('-', '_')}").run
    arguments = inspect.signature(run).parameters
    takes_more = any(argument.kind is argument.VAR_KEYWORD for argument in arguments.values())
    for option in recipe.options:
        if isinstance(option, str):
            assert takes_more or option in arguments
        elif option.argument in arguments:  # the help shows the default that `run` has
            assert arguments[option.argument].default == option.default or option.default is None
        else:
            assert takes_more


@pytest.mark.parametrize("name", ["cgn-table1", "cgn-table2", "genint-colored-mnist"])
def test_a_recipes_help_or_default_names_every_row(name: str) -> None:
    rows = importlib.import_module(f"genaug.papers.{name.replace('-', '_')}").ROWS
    (option,) = (option for option in RECIPES[name].options if getattr(option, "flag", "") == "--rows")
    assert set(rows) <= {*re.split(r"[ ,.:]+", option.help), *(option.default or ())}


def test_a_table_is_one_file(tmp_path: Path) -> None:
    (tmp_path / "cgn_table99.py").write_text(
        '"""A table."""\n\n'
        "import json\n"
        "from pathlib import Path\n\n"
        "import torch\n\n"
        "from genaug.papers import Option, Recipe\n\n"
        "RECIPE = Recipe(\n"
        '    what="CGN, Table 99: how a table is added",\n'
        '    paper="nothing",\n'
        '    command="genaug reproduce cgn-table99",\n'
        '    options=("seeds", Option("--num", 5, "Number of images."), Option("--rows", ("a", "b"), "Rows.")),\n'
        ")\n\n\n"
        'def run(out, *, seeds=(0,), num=5, rows=("a", "b")):\n'
        "    Path(out).mkdir()\n"
        '    found = {"ones": int(torch.ones(num).sum()), "seeds": seeds, "rows": rows}\n'
        '    (Path(out) / "results.json").write_text(json.dumps(found))\n'
    )

    def genaug(*arguments: str) -> str:
        code = (
            "import importlib.util, sys\n"
            "from pathlib import Path\n"
            # the folder of the package with one more file
            "folder = Path(importlib.util.find_spec('genaug').origin).parent / 'papers'\n"
            "spec = importlib.util.spec_from_file_location('genaug.papers', folder / '__init__.py',\n"
            f"    submodule_search_locations=[str(folder), {str(tmp_path)!r}])\n"
            "sys.modules['genaug.papers'] = papers = importlib.util.module_from_spec(spec)\n"
            "spec.loader.exec_module(papers)\n"
            "from genaug.cli import main\n"
            "code = main(sys.argv[1:])\n"
            "print('torch' in sys.modules)\n"
            "sys.exit(code)"
        )
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    listed = genaug("reproduce", "list")
    assert "cgn-table99: CGN, Table 99: how a table is added\n" in listed
    assert listed.endswith("False\n")  # the list imports no file of a table
    shown = genaug("reproduce", "cgn-table99", "--help")
    assert "Number of images." in shown
    assert "cgn-table99: " not in shown
    genaug("reproduce", "cgn-table99", "--num", "7", "--rows", "b", "--seeds", "1,2", "--out", "made")
    assert json.loads(Path("made", "results.json").read_text()) == {"ones": 7, "seeds": [1, 2], "rows": ["b"]}


def test_reproduce_list_has_every_table_and_numbered_figure_of_results() -> None:
    assert {f"cgn-table{i}" for i in range(1, 6)} | {f"genint-table{i}" for i in range(1, 5)} <= set(RECIPES)
    # CGN's Figures 1 and 2 draw its idea and its network; GenInt's Figure 4 a causal graph
    assert {f"cgn-figure{i}" for i in range(3, 8)} | {f"genint-figure{i}" for i in (1, 2, 3, 5, 6, 7)} <= set(RECIPES)


def test_reproduce_list_fits_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = run(capsys, "reproduce", "list")
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_run_or_says_what_is_missing(capsys: pytest.CaptureFixture[str], name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.command or recipe.missing
    assert recipe.command or not recipe.then
    commands = [command for command in (recipe.command, recipe.then) if command] + [
        f"genaug reproduce {name} --small-scale"
    ] * recipe.small_scale
    for command in commands:
        program, *arguments = command.split()
        assert program == "genaug"
        assert run(capsys, *arguments, "--help")[0] == 0


def test_a_small_scale_reproduction_needs_its_option(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = refused(capsys, "reproduce", "genint-table1", "--out", "run")
    assert "Run genaug reproduce genint-table1 --small-scale, or genaug train classifier" in message
    assert "(missing: the training; genaug.evaluation.save_grad_cams" in refused(
        capsys, "reproduce", "genint-figure7", "--small-scale"
    )
    assert "genaug sample cgn-double-colored-mnist" in refused(capsys, "reproduce", "cgn-figure3")
    message = refused(capsys, "reproduce", "cgn-table1", "--small-scale")
    assert "cgn-table1 has no small-scale reproduction. These have one: cgn-table3, cgn-table4, genint-" in message
    assert "got an empty entry" in refused(
        capsys, "reproduce", "genint-table1", "--small-scale", "--seeds", ",", "--out", "run"
    )
    assert list(tmp_path.iterdir()) == []


def test_assets_list_says_what_is_here(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # as in a pipe
    code, out, _ = run(capsys, "assets", "list")
    assert code == 0
    assert sorted(line.split()[0] for line in out.splitlines()) == sorted(["name", *ASSETS])
    assert out.splitlines()[0].split() == ["name", "size", "licence", "trust", "where", "what"]
    assert all(row.what in out and row.licence in out for row in ASSETS.values())
    save_asset(tmp_path / "cgn-digits.safetensors", generator().state_dict(), "cgn-mnist")
    monkeypatch.setenv("GENAUG_ASSETS", str(tmp_path))
    lines = run(capsys, "assets", "list")[1].splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("cgn-digits "))
    assert " here " in lines[place]
    assert lines[place + 1].strip() == str(tmp_path / "cgn-digits.safetensors")
    assert run(capsys, "assets", "path", "cgn-digits")[:2] == (0, f"{tmp_path / 'cgn-digits.safetensors'}\n")


@pytest.mark.parametrize("columns", [60, 80, 100, 120, 200])
def test_assets_list_fits_the_terminal_and_leaves_nothing_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.delenv("GENAUG_ASSETS", raising=False)
    out = run(capsys, "assets", "list")[1]
    assert max(map(len, out.splitlines())) <= max(columns, 70)  # less than which no row takes
    text = " ".join(out.split())
    for row in ASSETS.values():
        assert row.what in text
        assert sum(line.startswith(f"{row.name} ") for line in out.splitlines()) == 1


def test_assets_publish_dry_run_writes_weights_and_card(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "assets", "publish", "cgn-digits", "digits", "--dry-run")
    assert (code, out) == (0, "publish/cgn-digits\n")
    card = (tmp_path / "publish" / "cgn-digits" / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\nlibrary_name: genaug\n")
    for part in ("trained by", "data", "settings", "measured", "licence", "genaug/digits cgn-digits.safetensors"):
        assert part in card
    example = card.split("```python\n")[1].split("```")[0]
    script = example.replace("cgn-digits.safetensors", "publish/cgn-digits/cgn-digits.safetensors")
    exec(script, names := {})
    assert names["image"].shape == (3, 32, 32)


def test_what_has_no_known_licence_is_not_published(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, _ = load_asset("cgn-digits")
    save_asset(tmp_path / "theirs.safetensors", state, "cgn-mnist")
    monkeypatch.setenv("GENAUG_ASSETS", str(tmp_path))
    row = replace(
        ASSETS["cgn-digits"], name="theirs", licence="unknown", sha256=sha256(tmp_path / "theirs.safetensors")
    )
    monkeypatch.setitem(ASSETS, "theirs", row)
    assert "its license is unknown" in refused(capsys, "assets", "publish", "theirs", "me/theirs", "--dry-run")


def test_assets_verify_names_the_damaged(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(capsys, "assets", "verify")[0] == 0
    path = save_asset(tmp_path / "cgn-digits.safetensors", load_asset("cgn-digits")[0], "cgn-mnist")
    path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setenv("GENAUG_ASSETS", str(tmp_path))
    code, out, err = run(capsys, "assets", "verify")
    assert code == 1
    assert f"DAMAGED   {path} cannot be read" in out
    assert "1 damaged: cgn-digits" in err


def test_assets_convert_writes_what_load_reads(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    torch.save(generator().state_dict(), tmp_path / "theirs.pth")
    assert run(capsys, "assets", "convert", "theirs.pth", "ours.safetensors") == (0, "ours.safetensors\n", "")
    assert load_asset("ours.safetensors")[1]["source"] == "theirs.pth"


def test_the_suites_of_the_command_line_are_those_of_the_package() -> None:
    assert tuple(SUITES) == names.BENCHMARKS


def test_evaluate_scores_every_head_of_a_trained_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    MultiHeadResNet("resnet18", heads=("shape", "texture")).save_pretrained("run/model")
    write_images(tmp_path / "imagenet", ["n01440764/0.png", "n01440764/1.png"])
    command = "evaluate run/model --suite imagenet --data imagenet --out results --partial"
    code, out, err = run(capsys, *command.split())
    assert (code, err) == (0, "")
    assert "PARTIAL" in out
    figures = json.loads(Path("results", "results.json").read_text())["suites"]["imagenet"]["figures"]
    assert set(figures) == {"ensemble", "shape", "texture"}
    MultiHeadResNet("resnet18", 10).save_pretrained("digits/model")
    message = refused(capsys, *command.replace("run", "digits").replace("results", "others").split())
    assert "the model must return 1,000 logits, in the usual order of the classes, got 10" in message


def test_evaluate_scores_a_file_of_weights_and_goes_on(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    torch.save(torchvision.models.squeezenet1_1().state_dict(), "weights.pth")
    write_images(
        tmp_path / "stimuli", [f"{shape}1-{'cat' if shape != 'cat' else 'dog'}1.png" for shape in CUE_CONFLICT]
    )
    command = ["evaluate", "squeezenet1_1", "--weights", "weights.pth", "--out", "results", "--batch-size", "6"]
    code, out, err = run(capsys, *command, "--suite", "shape-bias", "--data", "stimuli")
    assert (code, err) == (0, "")
    assert out.startswith("Shape bias, 16 images; PARTIAL, without 1,184 of 1,200 images\n")
    assert out.endswith(f"\n{Path('results', 'summary.png')}\n")
    assert {path.name for path in Path("results").iterdir()} == {
        "results.json",
        "results.csv",
        "shape-bias.png",
        "summary.png",
    }
    again = run(capsys, *command, "--suite", "shape-bias", "--data", "stimuli")[1].splitlines()
    assert again[0] == "Shape bias was measured already, 16 images; PARTIAL, without 1,184 of 1,200 images"
    assert again[-1] == out.splitlines()[-1]
    write_images(tmp_path / "objects", ["mug/0.png"])
    both = [*command, "--suite", "shape-bias", "--data", "stimuli", "--suite", "objectnet", "--data", "objects"]
    code, _, err = run(capsys, *both)
    assert code == 2
    assert "is missing 112 of 113 class folders: alarm_clock" in err
    code, out, _ = run(capsys, *both, "--partial")
    assert code == 0
    assert "ObjectNet, 1 images; PARTIAL, without 112 of 113 class folders" in out


def test_render_goes_on_verifies_and_repairs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = ("render", "vae-digits", "--out", "set", "--num", "50", "--shard-size", "20", "--scale", "released")
    assert run(capsys, *command) == (0, "set\n", "")
    assert run(capsys, "render", "--verify", "set") == (0, "set: complete\n", "")
    (tmp_path / "set" / "shard-000002.json").unlink()
    assert run(capsys, *command) == (0, "set\n", "set has 2 of 3 shards of this process: going on\n")
    with (tmp_path / "set" / "shard-000001.tar").open("r+b") as file:
        file.write(b"damage")
    (tmp_path / "set" / "shard-000002.tar").unlink()
    code, out, err = run(capsys, "render", "--verify", "set")
    assert (code, err) == (1, "")
    assert [line.split(" is ")[0] for line in out.splitlines()] == ["set/shard-000001.tar", "set/shard-000002.tar"]
    assert "genaug render --repair set renders it again" in refused(capsys, *command)
    assert run(capsys, "render", "--repair", "set")[:2] == (0, "set: 2 of 3 shards rendered again\n")
    assert run(capsys, "render", "--verify", "set")[0] == 0
    assert "(seed: 0 there, 1 asked for)" in refused(capsys, *command, "--seed", "1")


def test_the_package_is_the_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "genaug", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("genaug 0.")
    wrong = subprocess.run([sys.executable, "-m", "genaug", "nothing"], capture_output=True, text=True)
    assert wrong.returncode == 2
