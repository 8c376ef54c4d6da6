"""Writes tables of figures from the results under benchmarks/results, so that none is typed in by hand.

python tools/readme_tables.py            # rewrites README.md, pages of docs/ and genaug/papers
python tools/readme_tables.py --check    # exits 1 if it is out of date, as a test does
"""

import argparse
import csv
import json
import statistics
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genaug.assets import ASSETS
from genaug.papers import RECIPES
from genaug.papers.cgn_table2 import CONSTANTS, GENERATED, UNCLIPPED

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
VARIANTS = ("colored", "double-colored", "wildlife")
BASELINES = ("gan", "irm-2", "irm-5", "lntl")
# folder under benchmarks/results/cgn-table2, row of the recipe, what the README calls it
MEASURED = (
    ("all", "original", "biased digits alone"),
    ("all", "gan", "biased digits and images of a conditional GAN"),
    ("all", "irm-2", "IRM, 2 environments"),
    ("all", "irm-5", "IRM, 5 environments"),
    ("all", "lntl", "LNTL"),
    ("all", "mixed", "biased digits and counterfactuals"),
    ("embedded", "cgn", "**counterfactuals, embedded weights**"),
    ("embedded-pool10000", "cgn", "counterfactuals, embedded weights, `pool=10_000`"),
    ("authors", "cgn", "counterfactuals, the authors' checkpoints"),
    ("best", "best", "**counterfactuals, our recipe and classifier (`--rows best`)**"),
    ("best", "best-original", "control: our classifier, biased digits alone"),
)
# which of Table 2's constants a row depends on
DEPENDS = {
    "gan": ("gan_steps", "baseline_epochs"),
    "irm-2": ("irm", "baseline_epochs"),
    "irm-5": ("irm", "baseline_epochs"),
    "lntl": ("lntl", "baseline_epochs"),
    "best": ("best_images", "best_pool", "best_mask_jitter", "best_places"),
    "best-original": ("best_images", "best_places"),
}
OUTDATED = " [*]"


def mean_and_deviation(values: Sequence[float], digits: int = 1) -> str:
    """Return the mean of the values, and their standard deviation if there are several."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def machine(environment: dict[str, Any]) -> str:
    """The processor, its threads and torch's version, as the JSON results have them."""
    return f"{environment['cpu']}, {environment['threads']} thread, torch {environment['torch'].split('+')[0]}"


def _table2_runs(folder: str, row: str, variant: str) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """Settings and runs of a cell of Table 2, or None where it was not run."""
    # one folder a variant where a checkpoint was named, since a checkpoint is of one variant
    for name in (folder, f"{folder}-{variant}"):
        file = RESULTS / "cgn-table2" / name / "results.json"
        if file.exists():
            content = json.loads(file.read_text())
            if runs := [run for run in content["runs"] if (run["row"], run["variant"]) == (row, variant)]:
                return content["settings"], runs
    return None


def _table2_cell(cell: tuple[dict[str, Any], list[dict[str, Any]]] | None) -> str:
    if cell is None:
        return "not run"
    settings, runs = cell
    mark = OUTDATED if outdated(settings, runs) else ""
    return f"{mean_and_deviation([100 * run['test'] for run in runs])} (n={len(runs)}){mark}"


def outdated(settings: dict[str, Any], runs: Sequence[dict[str, Any]]) -> bool:
    """Return whether these runs of a row and variant used other constants or other embedded weights than today's."""
    row, variant = runs[0]["row"], runs[0]["variant"]
    constants = json.loads(json.dumps(CONSTANTS))  # results.json has lists where CONSTANTS has tuples

    def of_variant(value: Any) -> Any:
        return value.get(variant) if isinstance(value, dict) else value

    changed = any(of_variant(settings.get(name)) != of_variant(constants[name]) for name in DEPENDS.get(row, ()))
    embedded = row in GENERATED and settings.get("checkpoint") is None
    return changed or (embedded and {run["weights_sha256"] for run in runs} != {ASSETS[f"cgn-{variant}-mnist"].sha256})


def _with_note(lines: Sequence[str], note: str) -> str:
    """Return a table of Table 2's figures and its note, which explains the marks if there are any."""
    if any(OUTDATED in line for line in lines):
        note += f" Figures with{OUTDATED} were measured with earlier settings of the recipe or earlier weights."
    return "\n".join([*lines, "", note])


def _table2_circumstances(cells: Sequence[tuple[dict[str, Any], list[dict[str, Any]]]]) -> str:
    versions: dict[str, list[str]] = {}
    for settings, runs in cells:
        for run in runs:
            versions.setdefault(f"{settings['dtype']}, {run['device']}", []).append(run["torch"].split("+")[0])
    where = [f"{place}, torch {' and '.join(dict.fromkeys(found))}" for place, found in versions.items()]
    return f"mean ± standard deviation over n seeds; {'; '.join(where) or 'not run'}."


def _table2() -> tuple[list[str], str]:
    """Return the lines of the table, and where they were measured."""
    lines = ["| test accuracy, % | " + " | ".join(VARIANTS) + " |", "|---|" + "---|" * len(VARIANTS)]
    measured = []
    for folder, row, label in MEASURED:
        cells = [_table2_runs(folder, row, variant) for variant in VARIANTS]
        found = [cell for cell in cells if cell is not None]
        measured += found
        if row in GENERATED and found:
            sizes = sorted({run["train_images"] for _, runs in found for run in runs})
            label += f"; {' or '.join(f'{size:,}' for size in sizes)} images"
        lines.append(f"| {label} | " + " | ".join(map(_table2_cell, cells)) + " |")
    lines += [
        "| paper, Original | 35.9 | 10.3 | 10.1 |",
        "| paper, Original + GAN | 40.7 | 10.8 | 10.4 |",
        "| paper, Original + CGN | 95.1 | 89.0 | 85.7 |",
        "| independent rerun, 100,000 counterfactuals alone | 92.3 | 86.5 | 81.4 |",
    ]
    seen = "Epochs: 1 for our recipe, 5 for GAN, IRM and LNTL, 10 for the others."
    return lines, f"Measured here: {_table2_circumstances(measured)} {seen}"


def table2() -> str:
    return _with_note(*_table2())


def table2_unclipped() -> str:
    """Table 2's double-colored column on 8-bit images, and on the released loader's floats."""
    lines = ["| test accuracy, double-colored, % | 8-bit images | unclipped, as released |", "|---|---|---|"]
    measured = []
    for folder, row, label in MEASURED:
        if row not in UNCLIPPED or "pool" in folder or folder == "authors":
            continue
        cells = [_table2_runs(name, row, "double-colored") for name in (folder, "unclipped")]
        measured += [cell for cell in cells if cell is not None]
        lines.append(f"| {label} | " + " | ".join(map(_table2_cell, cells)) + " |")
    return _with_note(lines, f"Measured here: {_table2_circumstances(measured)}")


def table2_short() -> str:
    """The rows of `table2` that a first reader needs."""
    shown = ("| biased digits alone", "| **counterfactuals", "| paper, Original |", "| paper, Original + CGN")
    (head, rule, *rows), note = _table2()
    return _with_note([head, rule, *(row for row in rows if row.startswith(shown))], note)


_PHOTOGRAPHS = {
    "background_gap": "background gap",
    "mixed_rand": "Mixed-Rand",
    "second_mixed_rand": "second compositor",
    "background_alone": "background alone",
    "original": "originals",
    "art_painting": "paintings",
    "cartoon": "cartoons",
    "sketch": "sketches",
}


def photographs() -> str:
    """A table for each network of `benchmarks/photographs.py`."""
    tables = []
    for file in sorted((RESULTS / "photographs").glob("pacs-*.json")):
        results = json.loads(file.read_text())
        settings, environment = results["settings"], results["environment"]
        lines = ["| added to each training photograph | " + " | ".join(_PHOTOGRAPHS.values()) + " |"]
        lines.append("|---|" + "---|" * len(_PHOTOGRAPHS))
        for row, figures in results["rows"].items():
            cells = [f"{figures[name]['mean']:.1f} ± {figures[name]['stdev']:.1f}" for name in _PHOTOGRAPHS]
            lines.append(f"| {row.replace('TrivialAugmentWide', '`TrivialAugmentWide`')} | {' | '.join(cells)} |")
        network = settings["network"] + (f", {settings['steps']:,} steps" if settings["steps"] else "")
        bank = (
            settings["bank"].get("note")
            or f"masks of {settings['bank']['masks']}, filling {settings['bank']['inpainting']}"
        )
        seeds = ", ".join(str(seed) for seed in results["seeds"])
        lines += [
            "",
            f"{network}; mean ± standard deviation of seeds {seeds} (n={len(results['seeds'])}); "
            f"{settings['cutouts']:,} cutouts, {100 * settings['test_share']:.0f}% of them held out; {bank}; "
            f"{environment['cpu']}, "
            f"torch {environment['torch'].split('+')[0]}.",
        ]
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def audit_coverage() -> str:
    """How often intervals contain the true value, by model."""
    files = sorted(RESULTS.glob("audit-coverage-*-photographs.csv"))
    lines = [
        "| photographs | model reads | overall, % | of a class, % | of the worst class, % | measures within 93 to 97 |",
        "|---|---|---|---|---|---|",
    ]
    for file in files:
        with file.open() as text:
            rows = list(csv.DictReader(text))
        for model in dict.fromkeys(row["model"] for row in rows):
            cells, inside = [], []
            for among in (("overall",), ("a", "b", "c"), ("worst",)):
                found = [100 * float(row["covered"]) for row in rows if row["model"] == model and row["of"] in among]
                if among != ("worst",):
                    inside += [93 <= value <= 97 for value in found]
                spread = f"{statistics.mean(found):.1f} ({min(found):.1f} to {max(found):.1f})" if found else "-"
                cells.append(spread)
            number = file.stem.split("-")[2]
            lines.append(f"| {number} | {_READERS[model]} | {' | '.join(cells)} | {sum(inside)} of {len(inside)} |")
    repetitions = int(rows[0]["repetitions"])
    note = (
        f"Mean (lowest to highest) over the measures; n={repetitions:,} repetitions; one measure's standard error is "
        f"{100 * (0.05 * 0.95 / repetitions) ** 0.5:.1f} points. The last column counts overall and class measures."
    )
    return "\n".join([*lines, "", note])


_READERS = {
    "object": "the object",
    "background": "the background",
    "either": "either of them",
    "constant": "nothing: one class always",
    "random": "nothing: chance",
}


def audit_photographs() -> str:
    """Both classifiers and their difference, by seed."""
    files = sorted(RESULTS.glob("audit-photographs-*.json"))
    if not files:
        return "Not run."
    results = json.loads(files[-1].read_text())
    runs = results["runs"]
    lines = ["| measure, % | photographs | photographs and swaps | change in points, by seed |", "|---|---|---|---|"]
    for name, title in _AUDITED.items():
        cells = []
        for which in ("before", "after"):
            values = [run["measures"][name][which]["percent"] for run in runs]
            cells.append(mean_and_deviation(values))
        changes = [run["measures"][name]["change"] for run in runs]
        each = "; ".join(f"{one['percent']:+.1f} ({one['low']:+.1f} to {one['high']:+.1f})" for one in changes)
        lines.append(f"| {title} | {' | '.join(cells)} | {each} |")
    largest = max(size / 1e6 for run in runs for size in run["report_bytes"])
    note = (
        f"Mean ± standard deviation of seeds {', '.join(str(run['seed']) for run in runs)} (n={len(runs)}), "
        f"{runs[0]['photographs']:,} held-out photographs each. Changes have paired 95% intervals. Reports have at "
        f"most {largest:.1f} MB. {machine(results['environment'])}."
    )
    return "\n".join([*lines, "", note])


_AUDITED = {
    "original": "original photographs",
    "same": "backgrounds of the same class",
    "random": "backgrounds of random classes",
    "gap": "background gap",
    "flips": "answers that change with the background",
    "attraction": "answers that name the background's class",
    "inpainted": "background alone",
}


def biased_photographs() -> str:
    """Average and worst group of each way to train, a table for each network."""
    files = sorted(RESULTS.glob("biased-photographs-*.json"))
    return "\n\n".join(_biased(json.loads(file.read_text()), file.name) for file in files) or "Not run."


def _biased(results: dict[str, Any], name: str) -> str:
    runs = results["runs"]
    lines = ["| trained with | average, % | worst group, % |", "|---|---|---|"]
    for row in runs[0]["rows"]:
        cells = []
        for figure in ("average", "worst"):
            values = [run["rows"][row][figure] for run in runs]
            cells.append(mean_and_deviation(values))
        lines.append(f"| {row} | {' | '.join(cells)} |")
    changes = []
    for row, base in (("swaps", "plain"), ("swaps + DFR", "DFR")):
        values = [run["rows"][row]["worst"] - run["rows"][base]["worst"] for run in runs]
        changes.append(f"{row} minus {base}: {', '.join(f'{value:+.1f}' for value in values)}")
    note = (
        f"{name.removeprefix('biased-photographs-').split('-cpu')[0]}; mean ± standard deviation of seeds "
        f"{', '.join(str(run['seed']) for run in runs)} (n={len(runs)}); "
        f"{runs[0]['photographs']:,} photographs: 60% for training, 15% for DFR, 25% for the test. Worst group, "
        f"points by seed: {'; '.join(changes)}. {machine(results['environment'])}."
    )
    return "\n".join([*lines, "", note])


def diffusion_digits() -> str:
    """What classifiers learn from samples of the small diffusion model."""
    files = sorted(RESULTS.glob("diffusion-digits-*.csv"))
    if not files:
        return "Not run."
    with files[-1].open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = ["| trained on | training accuracy, % | test accuracy, % |", "|---|---|---|"]
    labels = {
        "biased digits": "the biased digits",
        "observed": "samples, nuisances as observed",
        "activations": "samples, interventions on activations",
        "uniform": "samples, do(nuisance)",
    }
    for way, label in labels.items():
        cells = []
        for split in ("train", "test"):
            values = [float(row[split]) for row in rows if row["way"] == way]
            cells.append(mean_and_deviation(values))
        lines.append(f"| {label} | {' | '.join(cells)} |")
    seeds = [row["seed"] for row in rows if row["way"] == "uniform"]
    threads, torch = files[-1].stem.removeprefix("diffusion-digits-cpu").split("-torch")
    note = (
        f"Mean ± standard deviation of seeds {', '.join(seeds)} (n={len(seeds)}); CPU, {threads} thread, torch {torch}."
    )
    return "\n".join([*lines, "", note])


def explore() -> str:
    """How fast the explorer's page is."""
    file = sorted(RESULTS.glob("explore-*.csv"))[-1]
    with file.open(newline="") as lines:
        rows = {row["what"]: row for row in csv.DictReader(lines)}
    table = ["| time | median | range | measured |", "|---|---|---|---|"]
    for what, label, unit in (
        ("first picture", "from the open page to its first picture", "visits"),
        ("slider to picture, image", "from a slider's move to the new picture, Image", "moves"),
        ("slider to picture, samples", "the same, Samples (16 images)", "moves"),
    ):
        row = rows[what]
        table.append(
            f"| {label} | {row['median_ms']} ms | {row['least_ms']} to {row['most_ms']} ms | {row['n']} {unit} |"
        )
    row = rows["first picture"]
    note = (
        f"Measured by `python benchmarks/explore.py` with Chromium and `{row['generator']}`: {row['cpu']}, "
        f"{row['cores']} cores, load average {row['load_1min']}, torch {row['torch'].split('+')[0]}."
    )
    return "\n".join([*table, "", note])


def demo() -> str:
    runs = [json.loads(file.read_text()) for file in sorted((RESULTS / "demo").glob("seed-*.json"))]
    lines = ["| trained on | training accuracy, % | test accuracy, % |", "|---|---|---|"]
    for row, label in (
        ("plain", "the biased digits"),
        ("counterfactual", "counterfactuals"),
        ("interventional", "generative interventions"),
    ):
        cells = []
        for split in ("train", "test"):
            values = [100 * run[row][split] for run in runs]
            cells.append(mean_and_deviation(values))
        lines.append(f"| {label} | {' | '.join(cells)} |")
    settings = runs[0]["settings"]
    seeds = ", ".join(str(run["settings"]["seed"]) for run in runs)
    seconds = [run["settings"]["seconds"] for run in runs]
    note = (
        f"Mean ± standard deviation of seeds {seeds} (n={len(runs)}); CPU, {settings['threads']} thread, "
        f"torch {settings['torch'].split('+')[0]}, {min(seconds):.0f} to "
        f"{max(seconds):.0f} seconds per seed, other work running."
    )
    return "\n".join([*lines, "", note])


def speed() -> str:
    files = sorted(RESULTS.glob("counterfactual_digits-*.csv"))
    if not files:
        return "Not run."
    lines = ["| method | images/s | speedup over the released code | measured with |", "|---|---|---|---|"]
    for file in files:
        circumstances = file.stem.removeprefix("counterfactual_digits-").replace("-", ", ")
        with file.open() as text:
            for row in csv.DictReader(text):
                rate, ratio = float(row["images_per_second_median"]), float(row["ratio"])
                lines.append(f"| {row['way']} | {rate:,.0f} | {ratio:.1f}x | {circumstances} |")
    return "\n".join(lines)


def imagenet_speed() -> str:
    files = sorted(RESULTS.glob("counterfactual-imagenet-256-*.csv"))
    if not files:
        return "Not run."
    lines = ["| method | images/s | lowest to highest | speedup over the released code |", "|---|---|---|---|"]
    notes = []
    for file in files:
        with file.open() as text:
            rows = list(csv.DictReader(text))
        for row in rows:
            rate = row["images_per_second_median"]
            spread = f"{row['lowest']} to {row['highest']}" if row["lowest"] != rate else rate
            ratio = row["ratio"] if row["ratio"] in ("", "not run") else f"{float(row['ratio']):,.2f}x"
            added = "" if row["added_step_percent"] in ("", "not run") else f"{row['added_step_percent']}% a step"
            lines.append(f"| {row['way']} | {rate} | {spread} | {ratio or added} |")
        difference, rounds = rows[0]["composite_largest_difference"], rows[0]["rounds"]
        place = file.stem.removeprefix("counterfactual-imagenet-256-").replace("-", ", ")
        notes.append(
            f"{place}, medians of {rounds} rounds by the {rows[0]['clock']} clock; the composite's largest "
            f"difference in float32 is {difference}"
        )
    return "\n".join([*lines, "", f"Measured with {'; '.join(notes)}."])


def _small_scale() -> dict[str, dict]:
    files = {file.parent.name: file for file in (RESULTS / "small-scale").glob("*/results.json")}
    return {name: json.loads(files[name].read_text()) for name in RECIPES if name in files}


def _here(effect: dict) -> str:
    if effect["interval"] is None:
        return f"{effect['mean']:+.2f}"
    low, high = effect["interval"]
    return f"{effect['mean']:+.2f} [{low:+.2f}, {high:+.2f}]"


def _processor(run: dict) -> str:
    return run.get("processor", run["device"])  # which older results do not have


def small_scale() -> str:
    lines = ["| table or figure | effect | paper | here [95% interval] | verdict |", "|---|---|---|---|---|"]
    found = _small_scale()
    for name, results in found.items():
        title = results["title"].split(" (")[0]
        for place, effect in enumerate(results["effects"]):
            first = f"[{title}](../genaug/papers/{name.replace('-', '_')}.py)" if place == 0 else ""
            what = effect["what"].replace("|", "\\|")
            lines.append(f"| {first} | {what} | {effect['paper']} | {_here(effect)} | {effect['verdict']} |")
    runs = [run for results in found.values() for run in results["runs"]]
    if not runs:
        return "Not run."
    seconds = [run["seconds"] for run in runs]
    where = "; ".join(
        dict.fromkeys(f"{_processor(run)}, {run['threads']} thread, torch {run['torch'].split('+')[0]}" for run in runs)
    )
    verdicts = [effect["verdict"] for results in found.values() for effect in results["effects"]]
    counts = ", ".join(
        f"{verdicts.count(verdict)} in the {verdict}"
        if "direction" in verdict
        else f"{verdicts.count(verdict)} {verdict}"
        for verdict in dict.fromkeys(verdicts)
    )
    times = f"{min(seconds):.0f} to {max(seconds):.0f} seconds per reproduction and seed"
    note = f"{len(verdicts)} effects: {counts}. {_seeds(found)}; {where}; {times}."
    return "\n".join([*lines, "", note])


def _seeds(found: dict[str, dict]) -> str:
    """Name the seeds of most reproductions, and then those of others."""
    titles: dict[str, list[str]] = {}
    for results in found.values():
        seeds = sorted({run["seed"] for run in results["runs"]})
        whole = len(seeds) > 3 and seeds == list(range(seeds[0], seeds[-1] + 1))
        listed = f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds))
        titles.setdefault(listed, []).append(results["title"].split(" (")[0])
    most, *others = sorted(titles, key=lambda listed: -len(titles[listed]))
    return "; ".join([f"Seeds {most}", *(f"{' and '.join(titles[listed])}: seeds {listed}" for listed in others)])


def _content(name: str) -> dict | None:
    file = RESULTS / name / "results.json"
    return json.loads(file.read_text()) if file.exists() else None


def _where(runs: list[dict]) -> str:
    """Seeds, hardware and times of runs."""
    seeds = sorted({run["seed"] for run in runs})
    places = dict.fromkeys(
        f"{run['device']}, {run['threads']} thread, torch {run['torch'].split('+')[0]}" for run in runs
    )
    seconds = [f"{run['seconds']:.0f}" for run in sorted(runs, key=lambda run: run["seconds"])]
    times = f"{seconds[0]} seconds" if len(seconds) == 1 else f"{seconds[0]} to {seconds[-1]} seconds each"
    return (
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}; {'; '.join(places)}; {times}, other work running"
    )


def irm_control() -> str:
    """IRM's training with its penalty and without, on the table's labels and on partly wrong ones."""
    results = _content("irm-control")
    if results is None:
        return "Not run."
    lines = ["| labels in training | without the penalty | with the penalty |", "|---|---|---|"]
    for wrong, label in (("0", "all true, as in Table 2"), ("0.25", "a quarter wrong, as IRM's authors have them")):
        found = [results["summary"].get(f"wrong labels {wrong}, weight {weight}") for weight in ("0", "10")]
        cells = [_counted(figure) for figure in found]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    run = results["runs"][0]
    version = run["torch"].split("+")[0]
    note = f"Test accuracy in percent, 2 environments, bfloat16, {run['device']}, torch {version}."
    return "\n".join([*lines, "", note])


def lntl_released() -> str:
    """LNTL by the table's training and by its authors', with the method and without it."""
    results = _content("lntl-released")
    if results is None:
        return "Not run."
    names = {"table": "as in Table 2", "released": "as in the released code"}
    lines = ["| training | epochs | without the method | with it |", "|---|---|---|---|"]
    for training, name in names.items():
        for epochs in sorted({run["epochs"] for run in results["runs"] if run["training"] == training}):
            found = [results["summary"].get(f"{training}, {epochs}, {method}") for method in (False, True)]
            cells = [_counted(figure) for figure in found]
            lines.append(f"| {name} | {epochs} | {' | '.join(cells)} |")
    run = results["runs"][0]
    version = run["torch"].split("+")[0]
    return "\n".join([*lines, "", f"Test accuracy in percent, bfloat16, {run['device']}, torch {version}."])


def best() -> str:
    files = sorted(RESULTS.glob("best-on-digits-*.csv"))
    if not files:
        return "Not run."
    with files[-1].open() as text:
        rows = list(csv.DictReader(text))
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    lines = ["| accuracy, % | " + " | ".join(variants) + " |", "|---|" + "---|" * len(variants)]
    for way in dict.fromkeys(row["way"] for row in rows):
        cells = []
        for variant in variants:
            values = [float(row["accuracy"]) for row in rows if (row["variant"], row["way"]) == (variant, way)]
            cells.append(f"{mean_and_deviation(values)} (n={len(values)})" if values else "not run")
        lines.append(f"| {way} | {' | '.join(cells)} |")
    place = files[-1].stem.split("-", 4)[-1].replace("-", ", ")
    note = f"Mean ± standard deviation over n seeds; {int(rows[0]['images']):,} images each, bfloat16, {place}."
    return "\n".join([*lines, "", note])


def figure7() -> str:
    results = _content("cgn-figure7")
    if results is None:
        return "Not run."
    numbers = sorted({run["counterfactuals"] for run in results["runs"]})
    heads = " | ".join(f"{number:,}" for number in numbers)
    lines = [f"| test accuracy, % | a noise | {heads} |", "|---|---|" + "---|" * len(numbers)]
    for variant, ratios in results["summary"].items():
        for place, (ratio, at) in enumerate(ratios.items()):
            found = [at.get(str(number)) for number in numbers]
            cells = [_counted(figure) for figure in found]
            lines.append(f"| {variant if place == 0 else ''} | {ratio} | {' | '.join(cells)} |")
    settings = results["settings"]
    note = f"{settings['dtype']}, {_where(results['runs'])}."
    beside = []
    for variant in results["summary"]:
        found = _content(f"cgn-table2/embedded-{variant}")
        if found is not None:
            beside.append(f"{100 * found['summary']['cgn'][variant]['test']['mean']:.1f} ({variant})")
    note += f" Table 2's own point, 100,000 seen ten times, ten a noise: {', '.join(beside)}."
    return "\n".join([*lines, "", note])


def figure6() -> str:
    results = _content("cgn-figure6")
    if results is None:
        return "Not run."
    lines = ["| trained on colors | | shape, bits | color, bits | mixed |", "|---|---|---|---|---|"]
    for training in results["summary"]:
        found = [run["bits"]["random"] for run in results["runs"] if run["training"] == training]
        for place, axis in enumerate(found[0]):
            figures = [[bits[axis][figure] for bits in found] for figure in ("shape", "colour", "mixed")]
            cells = [mean_and_deviation(values, digits=2) for values in figures]
            lines.append(f"| {training if place == 0 else ''} | {axis} | {' | '.join(cells)} |")
    tests = results["runs"][0]["test_images"]
    note = f"Of 3.32 bits, mean ± standard deviation; {tests:,} test digits in random colors; "
    note += f"{results['settings']['dtype']}, "
    return "\n".join([*lines, "", note + _where(results["runs"]) + "."])


def table5() -> str:
    results = _content("cgn-table5")
    if results is None:
        return "Not run."
    runs = results["runs"]
    environments = list(runs[0]["chance"])
    heads = " | ".join(environments)
    lines = [f"| accuracy, % | {heads} | range, points | random colors |", "|---|" + "---|" * (len(environments) + 2)]
    for signal in runs[0]["accuracies"]:
        found = [[run["accuracies"][signal][name] for run in runs] for name in environments]
        found += [[run[column][signal] for run in runs] for column in ("ranges", "random")]
        lines.append(f"| {signal} | {' | '.join(mean_and_deviation(values) for values in found)} |")
    verdicts = "; ".join(dict.fromkeys(", ".join(run["stable"]) or "none" for run in runs))
    note = f"Stable within {runs[0]['tolerance']:g} points: {verdicts}. Mean ± standard deviation over seeds; "
    note += f"{results['settings']['dtype']}, {_where(runs)}."
    return "\n".join([*lines, "", note])


# rows of genint-colored-mnist, and what the page calls them
COLOURED = {
    "real": "training digits",
    "irm": "training digits, IRM",
    "irm-released": "training digits, IRM at GenInt's released learning rate",
    "grey": "training digits, in gray",
    "known": "samples of a generator with known factors",
    "known-intervened": "interventions on a generator with known factors",
    "vae": "samples of the VAE",
    "vae-intervened": "interventions on the VAE",
    "real+vae": "half training digits, half interventions on the VAE",
    "gan": "samples of the GAN",
    "gan-intervened": "interventions on the GAN",
    "real+gan": "half training digits, half interventions on the GAN",
}


def _counted(figure: dict | None) -> str:
    """Return a cell with a figure in percent and its number of seeds, or "not run"."""
    return "not run" if figure is None else f"{_percent(figure)} (n={figure['n']})"


def _percent(figure: dict | None) -> str:
    if figure is None:
        return "-"
    return f"{100 * figure['mean']:.1f}" + ("" if figure["sd"] is None else f" ± {100 * figure['sd']:.1f}")


def coloured() -> str:
    results = _content("genint-colored-mnist")
    if results is None:
        return "Not run."
    parts = []
    for variant, rows in results["summary"].items():
        names = list(next(iter(rows.values())))
        tests = [name for name in names if name not in ("colour", "shape")]
        heads = [*tests, "color predicts label", "shape matches label", "n"]
        lines = [f"| {variant}, accuracy in %: trained on | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
        for row, label in COLOURED.items():
            figures = rows.get(row)
            if figures is None:
                lines.append(f"| {label} |" + " not run |" * len(heads))
                continue
            cells = [_percent(figures.get(name)) for name in (*tests, "colour", "shape")]
            lines.append(f"| {label} | {' | '.join(cells)} | {figures[tests[0]]['n']} |")
        parts.append("\n".join(lines))
    runs = results["runs"]
    where = "; ".join(
        dict.fromkeys(f"{run['device']}, {run['threads']} thread, torch {run['torch'].split('+')[0]}" for run in runs)
    )
    seeds = ", ".join(map(str, sorted({run["seed"] for run in runs})))
    seconds = [run["seconds"] for run in runs]
    note = (
        "Mean ± standard deviation of n "
        f"seeds (of {seeds}); {where}, other work running, {min(seconds):.0f} to {max(seconds):.0f} seconds per row "
        "and seed."
    )
    return "\n\n".join([*parts, note])


def rendering() -> str:
    """Hours and room for two sizes of set, from the rates of benchmarks/render.py and benchmarks/biggan.py."""
    rows: list[tuple[str, float, float]] = []
    notes = []
    for file in sorted(RESULTS.glob("render-*.csv")):
        with file.open() as text:
            found = list(csv.DictReader(text))
        for row in found:
            if row["question"] == "writing" and row["bytes_an_image"]:
                rows.append((f"{row['way']}, 32 pixels", float(row["median"]), float(row["bytes_an_image"])))
        large = next(row for row in found if row["question"] == "encoding" and "jpeg" in row["way"])
        with next(RESULTS.glob("biggan-256-cpu1-*.csv")).open() as text:
            alone = next(
                row for row in csv.DictReader(text) if (row["way"], row["batch"]) == ("ours, float32, eager", "8")
            )
        # generating, then encoding, on the same core
        rate = 1 / (1 / float(alone["images_per_second_median"]) + 1 / float(large["median"]))
        rows.append(("BigGAN-deep, 256 pixels, jpeg: by arithmetic, not run", rate, float(large["bytes_an_image"])))
        notes.append(
            f"{file.stem.removeprefix('render-').replace('-', ', ')}, medians of {found[0]['rounds']} rounds, with "
            f"{found[0]['load']} processes on average wanting the machine's cores"
        )
    if not rows:
        return "Not run."
    lines = [
        "| one process, one CPU thread for the generator | images/s | 1.28 M images | 100 M images |",
        "|---|---|---|---|",
    ]
    for way, rate, size in rows:
        cells = [f"{n / rate / 3600:,.1f} h, {n * size / 1e9:,.1f} GB" for n in (1_281_167, 100_000_000)]
        lines.append(f"| {way} | {rate:,.1f} | {' | '.join(cells)} |")
    lines += ["| BigGAN-deep, 128 to 512 pixels, one GPU | not run | not run | not run |"]
    note = (
        f"Digits: written by `render`; {'; '.join(notes)}. BigGAN: the rate of `benchmarks/biggan.py` on one core, and "
        "the rate and size of JPEGs of two photographs."
    )
    return "\n".join([*lines, "", note])


def cgn_table1() -> str:
    """The loss ablation of the miniature, beside the paper's of the full network."""
    files = [RESULTS / "cgn-table1" / name / "results.json" for name in ("tiny-paper", "tiny-released")]
    lines = [
        "| row | paper: score / mean mask | settings | here: score / mean mask | entropy | distance | texture "
        "| saliency |",
        "|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for results in [json.loads(file.read_text()) for file in files if file.exists()]:
        for row, found in results["summary"].items():
            paper = results["published"]["paper"][row]
            pair = f"{paper['score']} / {'-' if paper['mask'] is None else paper['mask']}"
            cells = [
                _spread(found.get(name)) for name in ("score", "mask", "entropy", "distance", "texture", "saliency")
            ]
            ours = " / ".join(cells[:2]).removesuffix(" / -")
            lines.append(f"| {row} | {pair} | {results['settings']['as']} | {ours} | {' | '.join(cells[2:])} |")
        runs = [run for run in results["runs"] if run["row"] != "biggan"]
        seconds = [run["seconds"] for run in runs]
        seeds = ", ".join(str(seed) for seed in sorted({run["seed"] for run in runs}))
        where = f"{runs[0]['device']}, {runs[0]['threads']} thread, torch {runs[0]['torch'].split('+')[0]}"
        times = f"{min(seconds):.0f} to {max(seconds):.0f} seconds per row, other work running"
        notes.append(
            f"as {results['settings']['as']}: {results['settings']['steps']} steps, seeds {seeds}, {where}, {times}"
        )
    if not notes:
        return "Not run."
    return "\n".join([*lines, "", f"Mean ± standard deviation over seeds; {'; '.join(notes)}."])


def _spread(figure: dict | None) -> str:
    if figure is None:
        return "-"
    digits = 2 if figure["mean"] < 10 else 0
    return f"{figure['mean']:.{digits}f}" + ("" if figure["sd"] is None else f" ± {figure['sd']:.{digits}f}")


def cgn_memory() -> str:
    files = sorted(RESULTS.glob("cgn_memory-*.csv"))
    if not files:
        return "Not run."
    with files[0].open() as text:
        rows = [row for row in csv.DictReader(text) if row["dtype"] == "float32"]
    sizes = {(row["as"], row["batch"], row["what"]): int(row["bytes"]) / 2**30 for row in rows}
    lines = ["| GiB, 256 pixels, float32 | as paper | as released |", "|---|---|---|"]
    for batch, what, label in (
        ("1", "weights", "weights of the four BigGAN, U2-Net and VGG16"),
        ("1", "between parts", "the same, gradients, Adam's state, the weights that spectral norm divides"),
        ("1", "peak of a part", "**peak of a step, one image at a time**"),
        ("2", "peak of a part", "two images at a time"),
    ):
        cells = [f"{sizes[name, batch, what]:.2f}" for name in ("paper", "released")]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    note = (
        "Counted, not run on a GPU (`python benchmarks/cgn_memory.py`): the sizes of all tensors that live at once in "
        "a step on torch's fake tensors. CUDA's context, its libraries' workspaces and gaps between blocks come on top."
    )
    return "\n".join([*lines, "", note])


def measured() -> str:
    """genaug/papers/measured.json: what `genaug reproduce list` says of ours."""
    found: dict[str, dict[str, str]] = {}
    parts = []
    for folder, row in (*(("all", row) for row in ("original", *BASELINES)), ("embedded", "cgn")):
        cells = []
        for variant in VARIANTS:
            files = [RESULTS / "cgn-table2" / name / "results.json" for name in (folder, f"{folder}-{variant}")]
            summaries = [json.loads(file.read_text())["summary"].get(row, {}) for file in files if file.exists()]
            test = next((summary[variant]["test"] for summary in summaries if variant in summary), None)
            cells.append(_counted(test))
        parts.append(f"{row} {' / '.join(cells)}")
    found["cgn-table2"] = {"full": "; ".join(parts)}
    tiny = RESULTS / "cgn-table1" / "tiny-released" / "results.json"
    if tiny.exists():
        rows = json.loads(tiny.read_text())["summary"]
        pairs = "; ".join(
            f"{row} {_spread(of['score'])} / {_spread(of['mask'])}" for row, of in rows.items() if "mask" in of
        )
        n = rows["all"]["mask"]["n"]
        found["cgn-table1"] = {
            "full": f"not run; --tiny --as released, a score of at most 4 and mean mask: {pairs} (n={n})"
        }
    if results := _content("genint-colored-mnist"):
        random = {
            variant: ", ".join(f"{row} {_percent(figures['random'])}" for row, figures in rows.items())
            for variant, rows in results["summary"].items()
        }
        found["genint-colored-mnist"] = {
            "full": "in random colors: " + "; ".join(f"{variant}: {cells}" for variant, cells in random.items())
        }
    found["cgn-figure3"] = {"full": "the sheet that the command draws"}
    if results := _content("cgn-table5"):
        runs = results["runs"]
        sizes = {signal: [run["ranges"][signal] for run in runs] for signal in runs[0]["ranges"]}
        ranges = ", ".join(f"{signal} {mean_and_deviation(values)}" for signal, values in sizes.items())
        stable = "; ".join(dict.fromkeys(", ".join(run["stable"]) or "none" for run in runs))
        found["cgn-table5"] = {"full": f"range of accuracies, points: {ranges}; stable: {stable} (n={len(runs)})"}
    if results := _content("cgn-figure6"):
        bits = results["summary"]["biased"]["random"]
        parts = [f"{axis} {bits[axis]['shape']:.2f} / {bits[axis]['colour']:.2f}" for axis in ("axis 1", "axis 2")]
        found["cgn-figure6"] = {
            "full": f"bits of shape / color: {', '.join(parts)} (n={results['summary']['biased']['n']})"
        }
    if results := _content("cgn-figure7"):
        parts = []
        for variant, ratios in results["summary"].items():
            points = [f"{int(n):,}: {100 * at['mean']:.1f}" for n, at in ratios["10"].items()]
            parts.append(f"{variant} {', '.join(points)}")
        counts = min(at["n"] for ratios in results["summary"].values() for at in ratios["10"].values())
        found["cgn-figure7"] = {"full": f"ten a noise, test accuracy in percent: {'; '.join(parts)} (n={counts})"}
    for name, results in _small_scale().items():
        effects = [f"{effect['what']}: {_here(effect)}, {effect['verdict']}" for effect in results["effects"]]
        found[name] = {"small_scale": f"{'; '.join(effects)} (n={len(results['runs'])})"}
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _runs(results: dict) -> str:
    runs = results["runs"]
    seconds = [run["seconds"] for run in runs]
    device, threads, torch = _processor(runs[0]), runs[0]["threads"], runs[0]["torch"].split("+")[0]
    times = f"{min(seconds):.0f} to {max(seconds):.0f} seconds per seed"
    return f"n={len(runs)}, {device}, {threads} thread, torch {torch}, {times}"


def head_of(text: str, results: dict) -> str:
    """A recipe's file, whose docstring ends with what was measured."""
    effects = "; ".join(f"{effect['what']}: {_here(effect)}" for effect in results["effects"])
    note = f"Measured here ({_runs(results)}; 95% intervals): {effects}."
    before, rest = text.split("\nMeasured here", 1)
    return before + "\n" + textwrap.fill(note, 120, break_on_hyphens=False) + '\n"""' + rest.split('"""', 1)[1]


def written(text: str, **tables: str) -> str:
    for name, table in tables.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, rest = text.split(begin)
        text = before + begin + table + "\n" + end + rest.split(end, 1)[1]
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    readme, page, rendered = ROOT / "README.md", ROOT / "docs" / "reproduce.md", ROOT / "docs" / "rendering.md"
    gallery = ROOT / "docs" / "gallery.md"
    trained = ROOT / "docs" / "imagenet_cgn.md"
    digits = ROOT / "docs" / "digits.md"
    imagenet = ROOT / "docs" / "imagenet.md"
    photos = ROOT / "docs" / "photographs.md"
    audits = ROOT / "docs" / "audit.md"
    diffusion = ROOT / "docs" / "diffusion.md"
    explored = ROOT / "docs" / "explore.md"
    files = {
        readme: written(readme.read_text(), demo=demo(), table2_short=table2_short()),
        page: written(page.read_text(), **{"small-scale": small_scale()}),
        gallery: written(gallery.read_text(), figure6=figure6(), figure7=figure7(), table5=table5()),
        rendered: written(rendered.read_text(), rendering=rendering()),
        trained: written(trained.read_text(), cgn_table1=cgn_table1(), cgn_memory=cgn_memory()),
        digits: written(
            digits.read_text(),
            table2=table2(),
            table2_unclipped=table2_unclipped(),
            speed=speed(),
            coloured=coloured(),
            irm=irm_control(),
            lntl=lntl_released(),
            best=best(),
        ),
        photos: written(photos.read_text(), photographs=photographs()),
        audits: written(
            audits.read_text(),
            **{"audit-coverage": audit_coverage(), "audit-photographs": audit_photographs()},
            **{"biased-photographs": biased_photographs()},
        ),
        explored: written(explored.read_text(), explore=explore()),
        diffusion: written(diffusion.read_text(), **{"diffusion-digits": diffusion_digits()}),
        imagenet: written(imagenet.read_text(), **{"imagenet-speed": imagenet_speed()}),
        ROOT / "genaug" / "papers" / "measured.json": measured(),
    }
    for name, results in _small_scale().items():
        file = ROOT / "genaug" / "papers" / f"{name.replace('-', '_')}.py"
        files[file] = head_of(file.read_text(), results)
    if parser.parse_args().check:
        return int(any(not file.exists() or file.read_text() != text for file, text in files.items()))
    for file, text in files.items():
        file.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
