"""Small-scale reproductions of tables and figures that need ImageNet-scale training.

A reproduction uses the measures of the paper on scikit-learn's digits, whose colors reveal the class (`demo_digits`).
It takes minutes. It tests whether each effect has the same direction as in the paper. The sizes of effects are not
comparable. All seeds share the training digits. They also share the generators' weights, except in GenInt's Table 4.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genaug._common import plotting
from genaug._common.arguments import check_integer
from genaug._common.files import writable_folder
from genaug._common.records import aligned, circumstances, foreign, read_results, spread, write_results

Figures = dict[str, dict[str, float]]  # row -> column -> value

AS, REVERSED, OPEN = "same direction as the paper", "opposite direction", "inconclusive"


@dataclass(frozen=True)
class Effect:
    """An effect that a table or figure of the paper shows. It is a number that is positive if the effect exists.

    Attributes:
        what: The effect in words.
        paper: The size of the effect in the paper.
        of: Function from the figures of one seed to the number.
    """

    what: str
    paper: str
    of: Callable[[Figures], float]


def difference(row: str, other: str, column: str, paper: str) -> Effect:
    """Return the effect that `row` has a higher value in `column` than `other`."""
    return Effect(f"{column}: {row} over {other}", paper, lambda found: found[row][column] - found[other][column])


@dataclass(frozen=True)
class SmallScale:
    """A small-scale reproduction of a table or figure.

    Attributes:
        name: Name of the recipe in `genaug reproduce`.
        title: Title of the table or figure.
        measure: Function from a seed to its figures.
        effects: The effects that the table or figure of the paper shows.
        settings: Settings of `measure`, written to results.json. Results with other settings cannot be continued.
        draw: Function from (the figures of each seed, path) that writes a picture (default: a plot of the effects).
    """

    name: str
    title: str
    measure: Callable[[int], Figures]
    effects: Sequence[Effect]
    settings: Mapping[str, Any]
    draw: Callable[[Sequence[Figures], Path], None] | None = None

    def run(self, out: str | os.PathLike[str], seeds: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:
        """Measure each seed, print figures and effects, and write results.json and a picture to `out`.

        results.json is written after each seed. Seeds in it are not run again, so an interrupted run can be resumed.

        Args:
            out: Output folder.
            seeds: Seeds from 0 to 2**63 - 1, one run each. A seed sets the colors of the test digits, the generated
                images and the classifiers (default: 0, 1, 2).

        Returns:
            The content of results.json: "title"; "settings"; "runs", the figures and environment of each seed;
            "summary", mean and standard deviation of each figure (None for one run); "effects", each with its mean,
            its 95% interval (Student's t; None for one run) and its verdict. The verdict is "inconclusive" unless the
            interval excludes zero.

        Raises:
            ValueError: `seeds` is empty or repeats a seed, or `out` has other results.
            TypeError: A seed is not an integer.
            OSError: `out` cannot be written.
        """
        if not seeds:
            raise ValueError("seeds must not be empty")
        seeds = [check_integer("seeds", seed, 0) for seed in seeds]
        if max(seeds) >= 2**63:
            raise ValueError(f"seeds must be below 2**63, got {max(seeds)}")
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must be distinct, got {', '.join(map(str, seeds))}")
        file = Path(out) / "results.json"
        runs = self._finished(file)
        writable_folder(out)
        if there := [seed for seed in seeds if seed in runs]:
            print(f"{file} already has seed {', '.join(map(str, there))}", flush=True)
        for seed in seeds:
            if seed not in runs:
                start = time.perf_counter()
                figures = self.measure(seed)
                runs[seed] = {"seed": seed, "figures": figures, **circumstances(start)}
                self._write(file, runs)
        results = self._write(file, runs)
        picture = file.parent / f"{self.name}.png"
        if self.draw is None:
            draw_effects(results, picture)
        else:
            self.draw([run["figures"] for run in results["runs"]], picture)
        print(f"{table(results)}\n\nPicture: {picture}\nNumbers: {file}")
        return results

    def _finished(self, file: Path) -> dict[int, dict[str, Any]]:
        """Return the finished runs in `file`, by seed."""
        what = f"{self.name}'s small-scale reproduction"
        settings = {"small_scale": self.name, **self.settings}
        runs = read_results(file, what, "settings", settings, ("runs", "effects")).get("runs", [])
        try:
            shapes = {json.dumps({row: list(columns) for row, columns in run["figures"].items()}) for run in runs}
            values = [value for run in runs for columns in run["figures"].values() for value in columns.values()]
            whole = len(shapes) < 2 and all(type(value) in (int, float) and math.isfinite(value) for value in values)
            for effect in self.effects if runs else ():
                effect.of(runs[0]["figures"])
            finished = {check_integer("seed", run["seed"], 0): run for run in runs}
        except (KeyError, TypeError, ValueError, AttributeError):
            whole = False
        if not whole:
            raise foreign(file, what)
        return finished

    def _write(self, file: Path, runs: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
        ordered = [runs[seed] for seed in sorted(runs)]
        every = [run["figures"] for run in ordered]
        results = {
            "title": self.title,
            "settings": {"small_scale": self.name, **self.settings},
            "runs": ordered,
            "summary": {
                row: {column: spread([figures[row][column] for figures in every]) for column in columns}
                for row, columns in every[0].items()
            },
            "effects": [
                {
                    "what": effect.what,
                    "paper": effect.paper,
                    **of_effect(values := [effect.of(figures) for figures in every]),
                    "values": values,
                }
                for effect in self.effects
            ],
        }
        write_results(file, results)
        return results


def of_effect(values: Sequence[float]) -> dict[str, Any]:
    """Return mean, 95% interval (Student's t) and verdict of an effect, from one value per seed.

    The interval covers the variation over everything that a seed draws: the colors of the test digits, the generated
    images and the classifiers. It is not clipped to the range of the measure.
    """
    from scipy.stats import t  # takes a second to import

    found = spread(values)
    mean, sd, n = found["mean"], found["sd"], found["n"]
    if sd is None:
        return {**found, "interval": None, "verdict": OPEN}
    reach = float(t.ppf(0.975, n - 1)) * sd / n**0.5
    low, high = mean - reach, mean + reach
    return {**found, "interval": [low, high], "verdict": AS if low > 0 else REVERSED if high < 0 else OPEN}


def table(results: Mapping[str, Any]) -> str:
    """Return figures and effects as text."""
    summary = results["summary"]
    groups: dict[str, list[str]] = {}  # rows with the same first column share a table
    for row, cells in summary.items():
        groups.setdefault(next(iter(cells)), []).append(row)
    figures = []
    for rows in groups.values():
        columns = list(dict.fromkeys(column for row in rows for column in summary[row]))
        lines = [[row, *(_figure(summary[row].get(column)) for column in columns)] for row in rows]
        figures.append(aligned([["", *columns], *lines], right=True))
    n = len(results["runs"])
    effects = [["effect", "paper", "here [95% interval]", ""]]
    for effect in results["effects"]:
        interval = effect["interval"]
        here = f"{effect['mean']:+.2f}" + ("" if interval is None else f" [{interval[0]:+.2f}, {interval[1]:+.2f}]")
        verdict = effect["verdict"] if interval else f"{OPEN} (an interval needs two seeds)"
        effects.append([effect["what"], effect["paper"], here, verdict])
    seeds = ", ".join(str(run["seed"]) for run in results["runs"])
    spread = "mean ± standard deviation of seeds" if n > 1 else "seed"
    head = f"{results['title']}: small-scale reproduction on digits, {spread} {seeds}"
    return "\n\n".join([head, *figures, aligned(effects)])


def _figure(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    return f"{found['mean']:.2f}" + ("" if found["sd"] is None else f" ± {found['sd']:.2f}")


def draw_effects(results: Mapping[str, Any], path: Path) -> None:
    """Draw each effect: one dot per seed, the mean with its interval, and zero. The paper's effects are positive."""
    effects = results["effects"]
    left, wide, high, top = 24, 560, 74, 86
    beside = [f"paper {effect['paper']}" for effect in effects]
    verdicts = [plotting.text_width(effect["verdict"], 10, weight="bold") for effect in effects]
    right = max(*verdicts, *(plotting.text_width(text, 9) for text in beside))
    longest = max(plotting.text_width(effect["what"], 10.5) for effect in effects)
    title = plotting.text_width(results["title"], 14, weight="bold")
    width = 2 * left + max(wide + 20 + right, title, longest)
    with plotting.new_figure(width, top + high * len(effects) + 24) as figure:
        plotting.write(figure, left, 34, results["title"], weight="bold", size=14)
        seeds = f"n={len(results['runs'])} seeds"
        words = f"small-scale reproduction on digits: one dot per seed, mean and 95% interval, {seeds}"
        plotting.write(figure, left, 56, words, color=plotting.FAINT, size=10)
        for place, effect in enumerate(effects):
            y = top + high * place
            plotting.write(figure, left, y + 8, effect["what"], size=10.5)
            axes = plotting.axes_at(figure, left, y + 16, wide, 30)
            ends = [0.0, *effect["values"], *(effect["interval"] or [])]
            low, high_end = min(ends), max(ends)
            margin = 0.08 * (high_end - low or 1)
            axes.set(xlim=(low - margin, high_end + margin), ylim=(-1, 1), yticks=[])
            axes.axvline(0, color=plotting.INK, linewidth=1)
            colour = {AS: plotting.COLOURS[0], REVERSED: plotting.COLOURS[1], OPEN: plotting.FAINT}[effect["verdict"]]
            if effect["interval"]:
                axes.plot(effect["interval"], [0, 0], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
            axes.plot(effect["values"], [0] * len(effect["values"]), "o", color=colour, markersize=5, alpha=0.8)
            axes.plot([effect["mean"]] * 2, [-0.8, 0.8], color=colour, linewidth=2)
            axes.tick_params(length=0, labelsize=8.5, labelcolor=plotting.FAINT, pad=1)
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.spines["bottom"].set_color("#cccccc")
            plotting.write(figure, left + wide + 20, y + 24, effect["verdict"], color=colour, weight="bold", size=10)
            plotting.write(figure, left + wide + 20, y + 42, beside[place], color=plotting.FAINT, size=9)
        plotting.save(figure, path)


def points(every: Sequence[Figures], row: str) -> list[tuple[float, float, float]]:
    """Return a row with numeric columns as a line of `plotting.Panel`: means over seeds with standard errors."""
    found = {column: spread([figures[row][column] for figures in every]) for column in every[0][row]}
    return [(float(x), at["mean"], (at["sd"] or 0.0) / at["n"] ** 0.5) for x, at in found.items()]


def draw_curves(every: Sequence[Figures], path: Path, panels: Sequence[plotting.Panel], title: str) -> None:
    """Draw the curves side by side, like the paper's figure."""
    subtitle = f"small-scale reproduction on digits; whiskers: one standard error, n={len(every)} seeds"
    plotting.save_curves(path, panels, title=title, subtitle=subtitle)
