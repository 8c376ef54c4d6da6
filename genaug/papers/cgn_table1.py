"""CGN, Table 1: which losses the CGN on ImageNet needs.

    genaug reproduce cgn-table1 --device cuda --dtype bfloat16 --out runs/cgn-table1
    genaug reproduce cgn-table1 --tiny --as released --seeds 0,1,2 --out runs/cgn-table1-tiny

Inception score / mean mask; the paper's and an independent rerun's:

    row                   paper         rerun
    all                   130.2 / 0.3   156.1 / 0.3
    without L_shape        85.9 / 0.2   100.8 / 0.3
    without L_text        198.4 / 0.9   186.5 / 0.4
    without L_bg          195.6 / 0.1   200.9 / 0.1
    without L_rec          38.4 / 0.3    19.3 / 0.4
    BigGAN                202.9 / -         -

Each row is a run of `genaug train cgn-imagenet`, `--without` one loss, in its own folder. It is measured on images from
noise and classes that it was not trained on. The mechanisms of an image share noise and class.

With `--tiny` everything is small (`papers.cgn_miniature`). The score uses the Inception score's formula with a small
classifier of four classes, so it is at most 4. Directions can be compared with the paper's, numbers cannot.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from genaug._common.arguments import check_choice, check_integer
from genaug._common.files import writable_folder
from genaug._common.records import aligned, circumstances, read_runs, spread, write_results
from genaug.papers import Option, Recipe, cgn_miniature
from genaug.training.generators.cgn import EVERY, Pretrained, from_assets, measure, train
from genaug.training.generators.cgn_settings import Settings, settings_as
from genaug.training.shared.processes import processes

RECIPE = Recipe(
    what="CGN, Table 1: loss ablation of the CGN on ImageNet, by Inception score and mean mask",
    paper="all 130.2 / 0.3; without L_shape 85.9 / 0.2, L_text 198.4 / 0.9, L_bg 195.6 / 0.1, L_rec 38.4 / 0.3",
    command="genaug reproduce cgn-table1 --device cuda --dtype bfloat16",
    needs="the weights of BigGAN-deep, U2-Net, VGG16 (genaug assets list) and Inception; --tiny nothing",
    cost="not run; the paper: 12 hours a row on a GTX 1080 Ti; --tiny: minutes, one CPU core",
    options=(
        Option(
            "--rows",
            ("all", "without-shape", "without-text", "without-bg", "without-rec", "biggan"),
            "Comma-separated rows.",
        ),
        "as_",
        "tiny",
        "seeds",
        "steps",
        "batch_size",
        "accumulate",
        "measured",
        Option("--no-inception", True, "Do not compute the Inception score.", argument="inception", panel="Runtime"),
        "device",
        "dtype",
    ),
    dtype="float32",
    out="Folder for results.json and one folder per row.",
    example="--tiny --as released --out runs/cgn-table1",
)

WHAT = "this recipe"
KEYS = ("row", "seed")  # the key of a run
FIGURES = ("score", "mask", "entropy", "distance", "texture", "saliency")  # see `training.generators.cgn.measure`
BIGGAN = "biggan"
# row -> the losses that it leaves out
ROWS: dict[str, tuple[str, ...]] = {
    "all": (),
    "without-shape": ("shape",),
    "without-text": ("text",),
    "without-bg": ("bg",),
    "without-rec": ("rec",),
    BIGGAN: (),
}
# Inception score and mean mask
PUBLISHED: dict[str, dict[str, tuple[float, float | None]]] = {
    "paper": {
        "all": (130.2, 0.3),
        "without-shape": (85.9, 0.2),
        "without-text": (198.4, 0.9),
        "without-bg": (195.6, 0.1),
        "without-rec": (38.4, 0.3),
        BIGGAN: (202.9, None),
    },
    "rerun": {
        "all": (156.1, 0.3),
        "without-shape": (100.8, 0.3),
        "without-text": (186.5, 0.4),
        "without-bg": (200.9, 0.1),
        "without-rec": (19.3, 0.4),
    },
}


def run(
    out: str | os.PathLike[str],
    *,
    rows: Sequence[str] = tuple(ROWS),
    seeds: Sequence[int] = (0,),
    as_: str = "paper",
    tiny: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> dict[str, Any]:
    """Train and measure every row and seed, write `out`/results.json after each, and print the table.

    Runs that `out` already has are not run again. An interrupted row resumes from its last checkpoint.

    Args:
        out: folder of results.json, with one folder per row and seed, as `training.generators.cgn.train` writes it.
        rows: names in `ROWS`; "biggan" measures BigGAN's images, which the CGN is trained with.
        seeds: random seeds, one run each.
        as_: "paper" or "released": follow the paper or its released code where they differ.
        tiny: use the miniature, which takes minutes on a CPU.
        device: device of the training (default: CPU).
        dtype: type of the networks' computations, torch.float32 or torch.bfloat16.
        **changes: settings that replace the recipe's, such as steps.

    Returns:
        The content of results.json: "settings"; "runs", one for each row and seed, with the results of `measure` and
        the environment; "summary", mean and standard deviation (None for one run); "published". With `torchrun`, only
        the first process has the figures, and writes them.

    Raises:
        ValueError: a row is unknown, there are no rows or seeds, or the results in `out` have other settings.
        Exception: as in `training.generators.cgn.train`.
    """
    for argument, given in (("rows", rows), ("seeds", seeds)):
        if not given:
            raise ValueError(f"{argument} must not be empty")
    for row in rows:
        check_choice("rows", row, ROWS)
    seeds = [check_integer("seeds", seed, 0) for seed in seeds]
    settings = cgn_miniature.tiny(settings_as(as_)) if tiny else settings_as(as_)
    settings = replace(settings, dtype=str(dtype).removeprefix("torch."), **changes)
    described = {key: value for key, value in asdict(settings).items() if key not in ("seed", "without")}
    described = {"as": as_, "tiny": tiny, **{key: _plain(value) for key, value in described.items()}}
    file = Path(out) / "results.json"
    runs = read_runs(file, WHAT, described, KEYS)
    folder = writable_folder(out)
    start = cgn_miniature.pretrained(folder) if tiny else from_assets(settings)
    writes = os.environ.get("RANK", "0") == "0"  # only the first of torchrun's processes writes
    for seed in seeds:
        for row in rows:
            if (row, seed) in runs:
                continue
            own = replace(settings, seed=seed, without=ROWS[row])
            runs[row, seed] = _row(row, folder / f"{row}-{seed}", own, start, tiny, device)
            if writes:
                _write(file, described, runs)
    results = _results(described, runs)
    if writes:
        write_results(file, results)
        print(f"{table(results)}\n\n{file}")
    return results


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _row(
    row: str,
    folder: Path,
    settings: Settings,
    start: Callable[[torch.device], Pretrained],
    tiny: bool,
    device: torch.device | str | None,
) -> dict[str, Any]:
    if row != BIGGAN:
        every = cgn_miniature.EVERY if tiny else EVERY
        found = train(folder, settings=settings, start=start, device=device, every=every)
        about = {key: found[key] for key in ("device", "threads", "torch", "genaug")}
        # Only the first of torchrun's processes measures. If the run was resumed, the seconds include earlier calls.
        return {**(found["end"] or {}), "seconds": found["training_seconds"], **about}
    began = time.perf_counter()
    with processes(device) as world:
        figures = {}
        if world.rank == 0:
            with torch.random.fork_rng(devices=[]):
                pretrained = start(world.device)
            pretrained.cgn.to(world.device).eval()
            figures = measure(pretrained, settings, target=True)
        return {**figures, **circumstances(began, world.device)}


def _results(settings: dict[str, Any], runs: dict[tuple[Any, ...], dict[str, Any]]) -> dict[str, Any]:
    ordered = sorted(runs, key=lambda key: (list(ROWS).index(key[0]), key[1]))
    summary: dict[str, dict[str, Any]] = {}
    for row in dict.fromkeys(row for row, _ in ordered):
        found = [runs[key] for key in ordered if key[0] == row]
        for figure in FIGURES:
            if values := [run[figure] for run in found if figure in run]:
                summary.setdefault(row, {})[figure] = spread(values)
    return {
        "recipe": "cgn-table1",
        "settings": settings,
        "runs": [{"row": row, "seed": seed, **runs[row, seed]} for row, seed in ordered],
        "summary": summary,
        "published": {
            source: {row: {"score": score, "mask": mask} for row, (score, mask) in found.items()}
            for source, found in PUBLISHED.items()
        },
    }


def _write(file: Path, settings: dict[str, Any], runs: dict[tuple[Any, ...], dict[str, Any]]) -> None:
    write_results(file, _results(settings, runs))


def table(results: dict[str, Any]) -> str:
    """Return a table of published figures and ours: score / mean mask, and our other measurements."""
    lines = [("row", "paper", "rerun", "ours", *FIGURES[2:])]
    for row, found in results["summary"].items():
        published = [PUBLISHED[source].get(row) for source in ("paper", "rerun")]
        cells = ["-" if pair is None else f"{pair[0]:.1f} / {_or_dash(pair[1])}" for pair in published]
        ours = f"{_figure(found.get('score'))} / {_figure(found.get('mask'))}"
        lines.append((row, *cells, ours, *(_figure(found.get(name)) for name in FIGURES[2:])))
    small = results["settings"]["tiny"]
    head = "score / mean mask" + (": the miniature, whose score is at most 4" if small else " (Inception score)")
    return "\n".join([f"CGN, Table 1, as {results['settings']['as']}: {head}", "", aligned(lines)])


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _figure(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    return f"{found['mean']:.2f}" + ("" if found["sd"] is None else f" ± {found['sd']:.2f}")
