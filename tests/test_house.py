"""The house's own rules: which way imports point, what importing costs, and that lists that must agree do."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from contract import DATASETS, OTHERS

import genaug
from genaug._common.moved import MOVED

ROOT = Path(__file__).resolve().parents[1]

# room -> what it may import from the package besides itself; CONTRIBUTING.md draws the same order for readers
MAY_IMPORT: dict[str, tuple[str, ...]] = {"_common": ()}
MAY_IMPORT["assets"] = ("_common",)
MAY_IMPORT |= dict.fromkeys(("models", "interventions"), ("_common", "assets"))
MAY_IMPORT["generators"] = ("_common", "assets", "interventions.composition", "interventions.nuisances")
MAY_IMPORT["photographs"] = ("_common", "assets", "interventions", "generators")
MAY_IMPORT |= dict.fromkeys(("datasets", "transforms"), (*MAY_IMPORT["photographs"], "photographs"))
MAY_IMPORT["pictures"] = (*MAY_IMPORT["datasets"], "datasets", "transforms")
MAY_IMPORT["explorer"] = MAY_IMPORT["pictures"]
MAY_IMPORT["evaluation"] = (*MAY_IMPORT["pictures"], "models")
MAY_IMPORT["training"] = (*MAY_IMPORT["evaluation"], "evaluation")  # a classifier is measured while it trains
MAY_IMPORT |= dict.fromkeys(("demo", "rendering"), (*MAY_IMPORT["training"], "training"))
MAY_IMPORT["papers"] = (*MAY_IMPORT["demo"], "demo")
MAY_IMPORT["cli"] = (*MAY_IMPORT["papers"], "papers", "pictures", "explorer", "rendering")
MAY_IMPORT["__main__"] = ("cli",)  # python -m genaug


def imports(source: str, module: str) -> Iterator[str]:
    """What `module` imports from the package, anywhere in it, as dotted names without the package's own."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            names = [".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("genaug."):
                name = name.removeprefix("genaug.")
                # a public name stands for the module that has it
                home = genaug._HOMES.get(name)
                yield f"{home.removeprefix('genaug.')}.{name}" if home else name


def wrong_imports(source: str, module: str) -> list[str]:
    room = module.split(".")[1]
    allowed = (room, *MAY_IMPORT[room])
    if room == "cli":
        allowed += ("__version__",)
    return [name for name in imports(source, module) if not any(f"{name}.".startswith(f"{a}.") for a in allowed)]


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / "genaug").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts != ("genaug", "__init__"):
            yield ".".join(parts), path


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_point_up_only(module: str, path: Path) -> None:
    assert wrong_imports(path.read_text(), module) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("genaug.models.mnist_cnn", "from genaug.generators import load_generator"),
        ("genaug.models.mnist_cnn", "from ..generators import load_generator"),
        ("genaug.models.mnist_cnn", "from genaug import load_generator"),
        ("genaug.generators.cgn_mnist", "def late():\n    import genaug.interventions.random_streams"),
        ("genaug.datasets.counterfactual", "from genaug import training"),
        ("genaug.training.generators.cgn", "import genaug.cli"),
        ("genaug._common.files", "from genaug.assets import store"),
    ],
)
def test_an_import_that_points_down_is_seen(module: str, source: str) -> None:
    assert wrong_imports(source, module)


def test_every_room_is_a_package() -> None:
    rooms = {path.parent for path in (ROOT / "genaug").rglob("*.py")}
    assert [str(room) for room in rooms if not (room / "__init__.py").is_file()] == []  # else no wheel has them


def test_every_public_class_is_in_the_contract() -> None:
    public = {getattr(genaug, name) for name in genaug.__all__}
    classes = {thing for thing in public if inspect.isclass(thing) and not issubclass(thing, Exception)}
    assert classes == {*DATASETS, *OTHERS}


def test_type_checkers_see_the_public_names_where_they_are() -> None:
    tree = ast.parse((ROOT / "genaug" / "__init__.py").read_text())
    declared = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("genaug")
        for alias in node.names
        if alias.asname
    }
    assert declared == genaug._HOMES


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_a_module_is_still_found_under_the_name_that_the_documentation_promised(old: str, new: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} has moved to {new}"):
        module = importlib.import_module(old)
    assert module is importlib.import_module(new)


def test_no_function_hides_a_module_of_its_name() -> None:
    """`import genaug.room.thing as thing` gives what the room calls `thing`, a function if there is one."""
    for path in (ROOT / "genaug").rglob("__init__.py"):
        package = importlib.import_module(".".join(path.parent.relative_to(ROOT).parts))
        for child in set(path.parent.iterdir()) - {path}:
            if child.suffix == ".py" or (child / "__init__.py").is_file():
                found = getattr(package, child.stem, None)
                assert found is None or inspect.ismodule(found), f"{package.__name__}.{child.stem}"
    assert isinstance(genaug.evaluation.measures.causal_bound, ModuleType)
    assert callable(genaug.evaluation.audit)  # its package is `background_audit`


def test_the_mean_of_imagenet_is_written_once() -> None:
    files = [path for path in (ROOT / "genaug").rglob("*.py") if re.search(r"\b0\.485\b|\b0\.229\b", path.read_text())]
    assert [path.name for path in files] == ["imagenet.py"]


def test_no_file_has_more_than_500_lines() -> None:
    long = [path.name for path in (ROOT / "genaug").rglob("*.py") if len(path.read_text().splitlines()) > 500]
    assert long == []


def repeated(folder: Path) -> list[str]:
    return runpy.run_path(str(ROOT / "tools" / "duplicates.py"))["repeated"](folder)


def test_no_passage_is_repeated() -> None:
    assert repeated(ROOT / "genaug") == []


def test_a_repeated_passage_is_found_under_other_names(tmp_path: Path) -> None:
    passage = (
        "def {0}(x):\n"
        "    {1} = x + 1\n"
        "    for number in range({1}):\n"
        "        {1} = {1} * number\n"
        "        print({1}, {2})\n"
        "    if {1}:\n"
        "        return {1}\n"
    )
    (tmp_path / "one.py").write_text(passage.format("first", "a", 3))
    (tmp_path / "two.py").write_text('"""Two."""\n\n' + passage.format("second", "total", 4))
    assert repeated(tmp_path) == ["one.py:1-7 ~ two.py:3-9"]
    (tmp_path / "two.py").write_text(passage.format("second", "total", 4).replace("print", "total.print"))
    assert repeated(tmp_path) == []


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = genaug.nothing


def test_version_is_the_one_of_the_project_file() -> None:
    assert f'\nversion = "{genaug.__version__}"\n' in (ROOT / "pyproject.toml").read_text()


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.strip()


def test_importing_the_package_imports_nothing_else() -> None:
    heavy = "{'torch', 'torchvision', 'numpy', 'typer'}"
    assert run(f"import sys, genaug; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_public_names_cost_little_beyond_torch_and_load_nothing_heavy() -> None:
    code = (
        "import sys, time\n"
        "begin = time.process_time()\n"  # of the processor: the machine may be busy with something else
        "import torch, torchvision, torchvision.tv_tensors, torchvision.transforms.v2\n"
        "before = set(sys.modules)\n"
        "start = time.process_time()\n"
        "import genaug\n"
        # who asks for the model pays for the Hub's library, which it is made of
        "for name in genaug.__all__: name in ('MultiHeadClassifier', 'MultiHeadResNet') or getattr(genaug, name)\n"
        "print((time.process_time() - start) / (start - begin))\n"
        "heavy = {'sklearn', 'scipy', 'matplotlib', 'huggingface_hub', 'typer', 'tqdm'}\n"
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    share, loaded = run(code).split("\n")
    assert float(share) < 0.25  # of what torch itself costs, which says how fast the machine is; measured 0.1
    assert loaded == "[]"


@pytest.mark.slow
def test_the_base_install_is_enough_for_every_module_and_for_biggan() -> None:
    code = """
import importlib, pkgutil, sys
extras = ("pytorch_pretrained_biggan", "boto3", "timm", "diffusers", "transformers", "lightning", "accelerate",
          "torch_fidelity", "pytorch_grad_cam", "webdataset", "albumentations", "gradio", "pytest")
sys.modules.update(dict.fromkeys(extras))  # whose import now fails
import genaug
for module in pkgutil.walk_packages(genaug.__path__, "genaug."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
import torch
from genaug.generators.biggan import BIGGAN_CONFIGS, BigGANDeep
network = BigGANDeep({**BIGGAN_CONFIGS[128], "channel_width": 4, "num_classes": 3}).power_iterate()
print(tuple(network.fast()(torch.zeros(1, 128), torch.zeros(1, dtype=torch.int64)).shape))
"""
    assert run(code) == "(1, 3, 128, 128)"


def test_the_measures_load_nothing_heavy() -> None:
    code = (
        "import sys, torch, torchvision\n"
        "import torchvision.datasets, torchvision.transforms.v2\n"
        "before = set(sys.modules)\n"
        "import genaug.evaluation\n"
        "heavy = {'sklearn', 'scipy', 'matplotlib', 'tqdm', 'timm', 'torch_fidelity', 'pytorch_grad_cam'}\n"
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    assert run(code) == "[]"


def test_nothing_reads_the_shared_folder() -> None:
    readers = [
        str(path.relative_to(ROOT))
        for folder in ("genaug", "benchmarks", "examples")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"\.\./shared|[\"']shared[\"']", path.read_text())
    ]
    assert readers == []


NETWORK = r"^\s*(?:import|from) (?:huggingface_hub|httpx?|requests|torch\.hub|urllib)\b"


@pytest.mark.parametrize(
    "room", ["datasets", "generators", "interventions", "papers", "photographs", "pictures", "training", "transforms"]
)
def test_only_the_store_touches_the_network(room: str) -> None:
    assert re.search(NETWORK, (ROOT / "genaug" / "assets" / "hub.py").read_text(), re.MULTILINE)
    paths = (ROOT / "genaug" / room).rglob("*.py")
    assert [path for path in paths if re.search(NETWORK, path.read_text(), re.MULTILINE)] == []


def test_a_moved_module_is_imported_from_its_old_package() -> None:
    code = "from genaug.recipes import samples; print(samples.__name__)"
    command = [sys.executable, "-W", "ignore", "-c", code]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert found.strip() == MOVED["genaug.recipes.samples"]
