"""What the README and the docs say is true: code runs, tables are the results, links lead somewhere."""

import csv
import gc
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from oracles import write_images
from photograph_scenes import written
from torchvision.transforms.functional import to_tensor

from genaug.assets import ASSETS, KINDS, save_asset
from genaug.assets.layouts import shapes_of
from genaug.cli import main
from genaug.demo import digits as demo
from genaug.evaluation import SUITES, preprocessing
from genaug.evaluation.models import Classifier
from genaug.generators.biggan import BIGGAN_CONFIGS
from genaug.models.mnist_cnn import MnistCNN
from genaug.papers import cgn_table2
from genaug.papers.cgn_table2 import CONSTANTS
from genaug.papers.presets import ROWS
from genaug.training.classifier.config_file import KEYS
from genaug.transforms.vgg import load_encoder

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_loop_of_the_readme_trains():
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(code) == 2
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
    photographs = [(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.arange(4))]
    names = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), 0.01), "photographs": photographs}
    for block, count in zip(code, (64, 4 + 64), strict=True):
        before = model[1].weight.detach().clone()
        exec(block.replace("length=100_000", "length=128"), names)
        assert names["images"].shape == (count, 3, 32, 32)
        assert not torch.equal(before, model[1].weight)


def test_the_generator_of_ones_own_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example, pictures, kind, saved = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "generators.md").read_text(), flags=re.DOTALL
    )
    names = {"__name__": "example"}
    exec(example, names)
    exec(pictures, names)
    assert {path.name for path in tmp_path.iterdir()} == {"classes.png", "walk.png", "made.png"}
    dataset = names["dataset"]
    assert names["image"].shape == (3, 32, 32)
    assert names["label"] == dataset.describe(7)["label"]
    # one noise, five interventions: each another image
    assert len({image.numpy().tobytes() for image in dataset.images(range(5))}) == 5
    images = dataset.images(range(5))
    try:
        exec(kind, names)
        exec(saved, names)
    finally:
        del KINDS["blobs"], ASSETS["blobs-10"]
    assert names["dataset"].images(range(5)).shape == images.shape


def test_the_page_of_interventions_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "interventions.md").read_text(), flags=re.DOTALL)
    names = {}
    for block in code[:2]:  # the last wants BigGAN's weights
        exec(block, names)
    assert names["images"].shape == (256, 3, 32, 32)
    assert len(names["directions"]) == 60
    assert names["shapes"].describe(0)["layer"] == "mask.1"
    assert names["shapes"][0][0].shape == (3, 32, 32)


def test_the_page_of_training_works(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "training.md").read_text()
    loop, heads = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
    before = model[1].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    photographs = [(torch.rand(4, 3, 32, 32), torch.arange(4)) for _ in range(2)]
    names = {"model": model, "optimizer": optimizer, "device": "cpu", "photographs": photographs}
    names["my_transform"] = to_tensor
    exec(loop, names)
    assert names["images"].shape == (12, 3, 32, 32)
    assert names["targets"]["source"].tolist() == [0] * 4 + [1] * 8
    assert not torch.equal(before, model[1].weight)
    exec(heads, names)
    assert set(names["targets"]["heads"]) == {"shape", "texture", "background"}
    assert all(head.weight.grad.any() for head in names["model"].heads.values())
    assert names["background_blind"](torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert (tmp_path / "my-model" / "model.safetensors").is_file()


def test_the_commands_of_the_page_of_training_are_understood(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "training.md").read_text().replace("\\\n", "")
    calls = []

    def noted(*args, **options):
        calls.append(options)
        return {"validation": {}, "classes": 2}

    monkeypatch.setattr("genaug.training.classifier.loop.train", noted)
    folders = ("imagenet/train", "imagenet/val", "photographs/train", "photographs/val", "stylized")
    for folder in (*folders, "photos/train", "photos/val", "photos/held-out"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("robust.yaml", "runs/robust/config.yaml"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(re.search(r"```yaml\n(.*?)```", page, flags=re.DOTALL)[1])
    blocks = re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)
    lines = [line.split("#")[0] for block in blocks for line in block.splitlines() if " train classifier " in line]
    commands = [line.split() for line in lines]
    assert [main(command[1:]) for command in commands] == [0] * 9
    assert capsys.readouterr().err == ""
    mine, heads = calls[2:4]
    assert [(s.kind, s.batch_size, s.weight) for s in mine["sources"]] == [
        ("intervention", 64, 0.05),
        ("stylized", 128, 0.5),
    ]
    assert heads["settings"].heads == ("shape", "texture", "background")
    configured = calls[4]
    assert (configured["settings"].optimizer, configured["settings"].learning_rate) == ("adam", 0.001)
    assert configured["sources"][0].options == {"backgrounds": "other"}


def test_the_page_of_training_has_every_setting():
    table = (ROOT / "docs" / "training.md").read_text().split("| key |")[1].split("\n\n")[0]
    named = [name for row in table.splitlines() for name in re.findall("`([^`]+)`", row.split("|")[1])]
    assert sorted(named) == sorted(KEYS)


def test_the_page_of_training_has_every_row():
    table = (ROOT / "docs" / "training.md").read_text().split("| `--preset` |")[1].split("\n\n")[0]
    named = [
        name
        for row in table.splitlines()
        if row.startswith("| `")
        for name in re.findall("`([^`]+)`", row.split("|")[1])
    ]
    assert sorted(named) == sorted(ROWS)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its files to be closed with it
def test_the_page_of_photographs_works(tmp_path, monkeypatch, capsys):
    """Its two blocks of Python, with a small bank."""
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "bank")
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "photographs.md").read_text(), flags=re.DOTALL)
    names = {}
    for block in code:
        exec(block, names)
    assert "background" in capsys.readouterr().out
    assert names["images"].shape == (1, 3, 48, 48)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves its last shard open
def test_the_page_of_rendering_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "rendering.md").read_text(), flags=re.DOTALL)
    names = {}
    for block in code[:2]:
        exec(block, names)
    assert names["verify"]("rendered") == []
    images, labels = next(iter(names["loader"]))
    assert images.shape == (64, 3, 32, 32)
    assert set(labels) == {"shape", "texture", "background"}
    assert names["target"] == names["digits"][7][1]
    pytest.importorskip("webdataset")
    exec(code[2], names)
    assert torch.equal(names["image"], names["digits"][199][0])  # the last of them
    assert names["label"] == names["digits"][199][1]["shape"]
    assert names["description"] == names["digits"].describe(199)
    names.clear()
    gc.collect()


def test_the_page_of_style_transfer_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=draw).mul_(0.05).half() for name, shape in shapes_of("vgg19").items()}
    save_asset("vgg19.safetensors", state, "vgg19")
    fingerprint = load_encoder("vgg19.safetensors", ["vgg19"], 9, reflect=True).fingerprint
    state = {name: torch.randn(shape, generator=draw).mul_(0.05) for name, shape in shapes_of("adain-decoder").items()}
    (tmp_path / "runs" / "adain").mkdir(parents=True)
    save_asset("runs/adain/decoder.safetensors", state, "adain-decoder", encoder=fingerprint)
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "style_transfer.md").read_text(), flags=re.DOTALL)
    names = {}
    exec(code[0].replace("biggan-deep-256", "vae-digits"), names)
    assert "styles=1000000 of GenerativeInterventionDataset, method=gatys, steps=(20, 70)" in repr(names["transfer"])
    for block in code[1:]:
        exec(block, names)
        assert names["made"].shape == (4, 3, 64, 64)
        assert not torch.equal(names["made"], names["images"])
    assert names["params"]["steps"].unique().numel() > 1


class Heads(torch.nn.Module):
    """A classifier of several heads, untrained."""

    def __init__(self, classes):
        super().__init__()
        self.linear = torch.nn.Linear(3, classes)

    def forward(self, images, heads=False):
        logits = self.linear(images.mean((2, 3)))
        return {"shape": logits, "texture": -logits, "ensemble": 2 * logits} if heads else 2 * logits


def test_the_page_of_evaluation_works(tmp_path, monkeypatch, shared, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cue-conflict").symlink_to(shared / "data" / "cue_conflict" / "stimuli")
    (tmp_path / "decisions").symlink_to(shared / "data" / "cue_conflict" / "decisions")
    write_images(tmp_path / "waterbirds", [f"{i}.png" for i in range(8)])
    rows = "".join(f"{i}.png,{i % 2},{2 * (i // 4)},{i // 2 % 2}\n" for i in range(8))
    (tmp_path / "waterbirds" / "metadata.csv").write_text("img_filename,y,split,place\n" + rows)
    fetched = Classifier("timm/resnet50.a1_in1k", Heads(1000), preprocessing(), preprocessing(None, None))
    monkeypatch.setattr("genaug.evaluation.load_classifier", lambda name: fetched)
    page = (ROOT / "docs" / "evaluation.md").read_text().split("## Corruptions")[0]
    code = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names = {"model": Heads(10)}
    for block in code:
        exec(block.replace("10_000", "100"), names)
    assert "PARTIAL, without 1,046 of 1,200 images" in capsys.readouterr().out  # ../shared has an eighth
    assert [round(result.percent, 2) for name, result in names["results"].items()] == [22.07, 96.17]
    assert names["shape_and_texture"](torch.rand(2, 3, 4, 4)).abs().max() == 0  # one head is the other's negative
    assert {"shape_bias.png", "invariance.png", "results"} <= {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "results" / "summary.png").is_file()


def test_the_page_of_evaluation_works_for_corruptions_bounds_and_nuisances(tmp_path, monkeypatch, capsys):
    torch_fidelity = pytest.importorskip("torch_fidelity")
    pytest.importorskip("pytorch_grad_cam")
    monkeypatch.chdir(tmp_path)
    # Inception's weights are not here
    metrics = ("inception_score_mean", "inception_score_std", "frechet_inception_distance")
    monkeypatch.setattr(torch_fidelity, "calculate_metrics", lambda **options: dict.fromkeys(metrics, 1.5))
    page = (ROOT / "docs" / "evaluation.md").read_text().split("## Corruptions")[1]
    names = {"model": MnistCNN()}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(block.replace("10_000", "200").replace("2_000", "20").replace("range(100)", "range(3)"), names)
    assert names["noisy"].shape == (8, 3, 32, 32)
    assert names["result"].missing == ("1 of 15 corruptions: frost",)
    assert set(names["search"].best) == {"truncation", "components", "scale"}
    assert list(names["found"]) == ["95% biased", "50% biased", "0% biased"]
    assert "'fid': 1.5" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"bound", "nuisances.png", "grad_cam.png"}


def test_the_page_of_evaluation_has_every_suite():
    table = (ROOT / "docs" / "evaluation.md").read_text().split("| `--suite` |")[1].split("\n\n")[0]
    named = [
        name
        for row in table.splitlines()
        if row.startswith("| `")
        for name in re.findall("`([^`]+)`", row.split("|")[1])
    ]
    assert sorted(named) == sorted(SUITES)


def test_tables_are_those_of_the_results():
    command = [sys.executable, str(ROOT / "tools" / "readme_tables.py"), "--check"]
    assert subprocess.run(command, check=False).returncode == 0, "run python tools/readme_tables.py"


def test_the_tables_note_is_of_the_runs_whose_figures_they_show(tmp_path, monkeypatch):
    figure = {"test": {"mean": 0.5, "sd": None, "n": 1}}
    runs = [
        {"row": row, "variant": variant, "device": device, "torch": "2.15.0+cpu", "train_images": 1234, "test": 0.5}
        | {"weights_sha256": ASSETS["cgn-colored-mnist"].sha256 if row == "cgn" else None}
        for row, variant, device in (
            ("best", "colored", "none"),
            ("original", "wildlife", "first"),
            ("cgn", "colored", "second"),
        )
    ]
    content = {
        "settings": {"dtype": "float32"},
        "runs": runs,
        "summary": {"original": {"wildlife": figure}, "cgn": {"colored": figure}},
    }
    for name in ("all", "embedded"):
        folder = tmp_path / "cgn-table2" / name
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(content))
    tool = runpy.run_path(str(ROOT / "tools" / "readme_tables.py"))
    monkeypatch.setitem(tool["table2"].__globals__, "RESULTS", tmp_path)
    lines = tool["table2"]().splitlines()
    assert "seeds; float32, first, torch 2.15.0; float32, second, torch 2.15.0. " in lines[-1]
    assert [line.split(" | ")[0] for line in lines if "1,234" in line] == [
        "| **counterfactuals, embedded weights**; 1,234 images"
    ]
    assert "[*]" not in "".join(lines)

    for run in runs:
        run["weights_sha256"] = "0" * 64
    (tmp_path / "cgn-table2" / "embedded" / "results.json").write_text(json.dumps(content))
    lines = tool["table2"]().splitlines()
    assert next(line for line in lines if "[*]" in line).startswith("| **counterfactuals")
    assert lines[-1].endswith("Figures with [*] were measured with earlier settings of the recipe or earlier weights.")


def test_figures_of_other_constants_or_weights_are_marked():
    """What a row depends on, and nothing else, marks its figures when it changes."""
    outdated = runpy.run_path(str(ROOT / "tools" / "readme_tables.py"))["outdated"]
    constants = json.loads(json.dumps(CONSTANTS))
    weights = ASSETS["cgn-wildlife-mnist"].sha256

    def marked(row, weights_sha256=None, **changed):
        run = {"row": row, "variant": "wildlife", "weights_sha256": weights_sha256}
        return outdated({"checkpoint": None, **constants, **changed}, [run])

    rows = {
        "gan_steps": {"gan"},
        "baseline_epochs": {"gan", "irm-2", "irm-5", "lntl"},
        "irm": {"irm-2", "irm-5"},
        "lntl": {"lntl"},
        "best_images": {"best", "best-original"},
        "best_pool": {"best"},
        "best_mask_jitter": {"best"},
        "best_places": {"best", "best-original"},
    }
    assert set(rows) == set(CONSTANTS)
    theirs = {row: weights if row in cgn_table2.GENERATED else None for row in cgn_table2.ROWS}
    assert not any(marked(row, theirs[row]) for row in theirs)
    for name, changed in rows.items():  # None is also what a result from before the constant has
        assert {row for row in theirs if marked(row, theirs[row], **{name: None})} == changed
    # another variant's number is none of this one's
    assert not marked("best", weights, best_images=CONSTANTS["best_images"] | {"colored": 1})
    assert all(marked(row, "0" * 64) for row in cgn_table2.GENERATED)
    assert not marked("cgn", "0" * 64, checkpoint="theirs.safetensors")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    missing = [t for t in targets if not t.startswith("http") and not (page.parent / t).exists()]
    assert missing == []


def test_the_benchmark_counts_in_thousands():
    command = [sys.executable, str(ROOT / "benchmarks" / "counterfactual_digits.py"), "--count", "1500"]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert run.returncode == 2
    assert "argument --count: must be a positive multiple of 1000, got '1500'" in run.stderr


def test_the_benchmark_of_biggan_compares_and_names_what_was_not_run(tmp_path, monkeypatch, capsys):
    layers = [(True, 16, 8), (True, 8, 4), (True, 4, 2), (False, 2, 1)]
    changes = {"output_dim": 32, "channel_width": 4, "layers": layers, "attention_layer_position": 1}
    monkeypatch.setitem(BIGGAN_CONFIGS, 128, {**BIGGAN_CONFIGS[128], **changes})
    main = runpy.run_path(str(ROOT / "benchmarks" / "biggan.py"))["main"]
    command = ["biggan.py", "--size", "128", "--threads", "1", "--rounds", "2", "--out", str(tmp_path), "--device"]
    monkeypatch.setattr(sys, "argv", [*command, "cpu"])
    monkeypatch.setattr("genaug._common.precision._cpu_has_bfloat16", lambda: False)  # on every processor the same rows
    try:
        main()
    finally:
        torch.set_grad_enabled(True)
        torch._dynamo.config.automatic_dynamic_shapes = True
    assert "GPU rows: not run" in capsys.readouterr().out
    with next(tmp_path.glob("*.csv")).open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["way"], row["batch"]) for row in rows] == [
        (way, batch) for batch in ("1", "8") for way in ("package, float32", "ours, float32, eager")
    ]
    assert all(float(row["ratio_batch_1"]) > 0 for row in rows)
    assert all(float(row["gflop_per_image"]) > 0 and float(row["share_of_peak"]) > 0 for row in rows)
    assert 0 < float(rows[0]["bfloat16_grey_levels"]) < 2
    assert float(rows[0]["directions_seconds"]) > 0
    if not torch.cuda.is_available():
        monkeypatch.setattr(sys, "argv", [*command, "cuda"])
        main()
        assert capsys.readouterr().out == "CUDA rows: not run, there is no CUDA here\n"
        torch.set_grad_enabled(True)


@pytest.mark.parametrize("ablate", [False, True])
def test_the_benchmark_of_style_transfer_compares_and_names_what_was_not_run(tmp_path, monkeypatch, capsys, ablate):
    main = runpy.run_path(str(ROOT / "benchmarks" / "style_transfer.py"))["main"]
    command = ["style_transfer.py", "--size", "32", "--batch", "2", "--steps", "10", "--rounds", "1", "--threads", "1"]
    command += ["--out", str(tmp_path), *(["--ablate"] if ablate else []), "--device"]
    monkeypatch.setattr(sys, "argv", [*command, "cpu"])
    main()
    assert "GPU rows (Gatys, and AdaIN in bfloat16): not run" in capsys.readouterr().out
    with next(tmp_path.glob("*.csv")).open() as file:
        rows = {row["way"]: row for row in csv.DictReader(file)}
    assert list(rows)[:2] == ["gatys, released", "gatys, ours"]
    assert len(rows) == (9 if ablate else 2)
    before, after = (float(rows["gatys, ours"][f"style_loss_{when}"]) for when in ("before", "after"))
    assert after < before
    if ablate:  # the same function, the same steps: the same images
        for one, other in (("released", "ours, batch_coupled"), ("released, weights frozen, one by one", "ours")):
            losses = [float(rows[f"gatys, {way}"]["style_loss_after"]) for way in (one, other)]
            assert losses[0] == pytest.approx(losses[1], rel=0.05)
    if not torch.cuda.is_available():
        monkeypatch.setattr(sys, "argv", [*command, "cuda"])
        main()
        assert capsys.readouterr().out == "CUDA rows: not run, there is no CUDA here\n"


def test_the_demos_control_is_its_third_row_and_keeps_what_it_has(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "IMAGES", 200)
    monkeypatch.setattr(demo, "EPOCHS", 1)
    main = runpy.run_path(str(ROOT / "benchmarks" / "demo_control.py"))["main"]
    monkeypatch.setattr(sys, "argv", ["demo_control.py", "--seeds", "3", "--out", str(tmp_path / "control")])
    main()
    path = next((tmp_path / "control").glob("*.csv"))
    with path.open() as file:
        rows = {row["way"]: row for row in csv.DictReader(file)}
    assert [rows[way]["components"] for way in ("none", "scale 1", "scale 10")] == ["0", "12", "12"]
    results = demo.run(tmp_path / "demo", seed=3)
    assert float(rows["scale 10"]["test"]) == pytest.approx(results["interventional"]["test"], abs=1e-4)
    written = path.read_bytes()
    monkeypatch.setattr(demo, "IMAGES", 0)  # would fail if it ran again
    capsys.readouterr()
    main()
    assert path.read_bytes() == written
    assert "none       test" in capsys.readouterr().out


def test_cards_count_one_minute_and_one_thread():
    singular = runpy.run_path(str(ROOT / "tools" / "embed_weights.py"))["singular"]
    assert singular("1 minutes, 1 threads; 11 minutes, 2 threads") == "1 minute, 1 thread; 11 minutes, 2 threads"


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "counterfactual_digits.py")]
    options = ["--rounds", "1", "--count", "1000", "--out", str(tmp_path)]
    output = subprocess.run([*command, *options], check=True, capture_output=True, text=True).stdout
    assert "x the released way" in output
    assert len((next(tmp_path.glob("*.csv"))).read_text().splitlines()) == 4
