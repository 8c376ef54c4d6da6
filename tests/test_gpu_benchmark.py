from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu.py"


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *options], check=False, capture_output=True, text=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    outcome = run("--out", str(tmp_path))
    assert outcome.returncode == 2
    assert "argument --device: must be a device of this machine, got cuda" in outcome.stderr
    assert list(tmp_path.iterdir()) == []


def test_figures_of_a_row_that_breaks_are_kept_and_it_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    names: dict[str, Any] = runpy.run_path(str(SCRIPT))
    setting = names["Setting"](torch.device("cpu"), True)
    whole = False

    def measure(_: Any) -> Any:
        """Two figures."""
        yield {"way": "first", "value": 1, "unit": "images/s"}
        if not whole:
            raise RuntimeError
        yield {"way": "second", "value": 2, "unit": "images/s"}

    names["ROWS"]["digits"] = names["Row"](measure, 1)
    path = tmp_path / "digits.json"
    grad = torch.is_grad_enabled()
    try:
        with pytest.raises(RuntimeError):
            names["run_row"]("digits", setting, tmp_path)
        assert [figure["way"] for figure in json.loads(path.read_text())["figures"]] == ["first"]
        assert not names["is_measured"](path, setting)
        whole = True
        names["run_row"]("digits", setting, tmp_path)
    finally:
        torch.set_grad_enabled(grad)
        torch._dynamo.config.automatic_dynamic_shapes = True
    assert [figure["way"] for figure in json.loads(path.read_text())["figures"]] == ["first", "second"]
    assert names["is_measured"](path, setting)
    # another device's figures, or those of real sizes, are not these
    assert not names["is_measured"](path, names["Setting"](torch.device("cpu"), False))


@pytest.mark.slow
def test_every_row_is_measured_and_time_that_is_up_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    options = ["--device", "cpu", "--small", "--out", str(tmp_path)]
    none = run(*options, "--minutes", "0.01")
    assert none.returncode == 1
    assert "counterfactuals: no time left" in none.stdout
    outcome = run(*options, "--minutes", "60")
    assert outcome.returncode == 0, outcome.stdout
    rows = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert set(rows) == set(runpy.run_path(str(SCRIPT))["ROWS"])
    figures = [figure for row in rows.values() for figure in row["figures"]]
    assert all(row["complete"] for row in rows.values())
    apart = [figure["value"] for figure in figures if figure["unit"] == "gray levels"]
    assert len(apart) > 10
    assert max(apart) < 1
    assert all(figure["rounds"] >= 3 for figure in figures if figure["unit"] == "images/s")
    assert run(*options).stdout.count("measured before") == len(rows)
