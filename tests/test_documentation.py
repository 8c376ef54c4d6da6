"""What the README and the docs say is true: code runs, tables are the results, links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_loop_of_the_readme_trains():
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(code) == 1
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
    before = model[1].weight.detach().clone()
    names = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), 0.01)}
    exec(code[0].replace("length=100_000", "length=128"), names)
    assert names["images"].shape == (64, 3, 32, 32)
    assert not torch.equal(before, model[1].weight)


def test_tables_are_those_of_the_results():
    command = [sys.executable, str(ROOT / "tools" / "readme_tables.py"), "--check"]
    assert subprocess.run(command, check=False).returncode == 0, "run python tools/readme_tables.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    missing = [t for t in targets if not t.startswith("http") and not (page.parent / t).exists()]
    assert missing == []


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "counterfactual_digits.py")]
    options = ["--rounds", "1", "--count", "1000", "--out", str(tmp_path)]
    output = subprocess.run([*command, *options], check=True, capture_output=True, text=True).stdout
    assert "x the released way" in output
    assert len((next(tmp_path.glob("*.csv"))).read_text().splitlines()) == 4
