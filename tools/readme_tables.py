"""Writes tables of figures from the results under benchmarks/results, so that none is typed in by hand.

python tools/readme_tables.py            # rewrites README.md, pages of docs/ and genaug/recipes
python tools/readme_tables.py --check    # exits 1 if it is out of date, as a test does
"""

import argparse
import csv
import json
import statistics
import sys
import textwrap
from pathlib import Path

from genaug.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
VARIANTS = ("colored", "double-colored", "wildlife")
# folder under benchmarks/results/cgn-table2, row of the recipe, what the README calls it
MEASURED = (
    ("original", "original", "biased digits alone"),
    ("embedded", "cgn", "**counterfactuals, embedded weights**"),
    ("embedded-pool10000", "cgn", "counterfactuals, embedded weights, `pool=10_000`"),
    ("embedded-pool2000", "cgn", "counterfactuals, embedded weights, `pool=2_000`"),
    ("authors", "cgn", "counterfactuals, the authors' checkpoints"),
)


def table2() -> str:
    lines = ["| test accuracy, % | " + " | ".join(VARIANTS) + " |", "|---|" + "---|" * len(VARIANTS)]
    circumstances: list[str] = []
    for folder, row, label in MEASURED:
        cells = []
        for variant in VARIANTS:
            # one folder a variant where a checkpoint was named, since a checkpoint is of one variant
            files = [RESULTS / "cgn-table2" / name / "results.json" for name in (folder, f"{folder}-{variant}")]
            contents = [json.loads(file.read_text()) for file in files if file.exists()]
            found = [content for content in contents if variant in content["summary"].get(row, {})]
            if not found:
                cells.append("not run")
                continue
            figure = found[0]["summary"][row][variant]["test"]
            spread = "" if figure["sd"] is None else f" ± {100 * figure['sd']:.1f}"
            cells.append(f"{100 * figure['mean']:.1f}{spread} (n={figure['n']})")
            settings = found[0]["settings"]
            count = "" if row == "original" else f"{settings['num_counterfactuals']:,} counterfactuals, "
            circumstances += [
                f"{count}{settings['dtype']}, {run['device']}, torch {run['torch'].split('+')[0]}"
                for run in found[0]["runs"]
                if (run["row"], run["variant"]) == (row, variant)
            ]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    lines += [
        "| paper, Original | 35.9 | 10.3 | 10.1 |",
        "| paper, Original + CGN | 95.1 | 89.0 | 85.7 |",
        "| independent rerun, 100,000 counterfactuals alone | 92.3 | 86.5 | 81.4 |",
    ]
    note = "; ".join(dict.fromkeys(circumstances))
    return "\n".join([*lines, "", f"Measured here: mean ± standard deviation over n seeds; {note or 'not run'}."])


def demo() -> str:
    runs = [json.loads(file.read_text()) for file in sorted((RESULTS / "demo").glob("seed-*.json"))]
    lines = ["| trained on | accuracy there, % | on test digits, % |", "|---|---|---|"]
    for row, label in (
        ("plain", "the biased digits"),
        ("counterfactual", "counterfactuals"),
        ("interventional", "generative interventions"),
    ):
        cells = []
        for split in ("train", "test"):
            values = [100 * run[row][split] for run in runs]
            cells.append(f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    settings = runs[0]["settings"]
    seeds = ", ".join(str(run["settings"]["seed"]) for run in runs)
    seconds = [run["settings"]["seconds"] for run in runs]
    note = (
        f"Mean ± standard deviation of seeds {seeds} (n={len(runs)}); CPU, {settings['threads']} thread, "
        f"torch {settings['torch'].split('+')[0]}, {min(seconds):.0f} to "
        f"{max(seconds):.0f} seconds a seed, other work running."
    )
    return "\n".join([*lines, "", note])


def speed() -> str:
    files = sorted(RESULTS.glob("counterfactual_digits-*.csv"))
    if not files:
        return "Not run."
    lines = ["| way | images/s | against the released way | measured with |", "|---|---|---|---|"]
    for file in files:
        circumstances = file.stem.removeprefix("counterfactual_digits-").replace("-", ", ")
        with file.open() as text:
            for row in csv.DictReader(text):
                rate, ratio = float(row["images_per_second_median"]), float(row["ratio"])
                lines.append(f"| {row['way']} | {rate:,.0f} | {ratio:.1f}x | {circumstances} |")
    return "\n".join(lines)


def _twins() -> dict[str, dict]:
    files = {file.parent.name: file for file in (RESULTS / "twins").glob("*/results.json")}
    return {name: json.loads(files[name].read_text()) for name in RECIPES if name in files}


def _here(effect: dict) -> str:
    if effect["interval"] is None:
        return f"{effect['mean']:+.2f}"
    low, high = effect["interval"]
    return f"{effect['mean']:+.2f} [{low:+.2f}, {high:+.2f}]"


def twins() -> str:
    lines = ["| of | effect | paper | here [95% interval] | |", "|---|---|---|---|---|"]
    found = _twins()
    for name, results in found.items():
        title = results["title"].split(" (")[0]
        for place, effect in enumerate(results["effects"]):
            first = f"[{title}](../genaug/recipes/{name.replace('-', '_')}.py)" if place == 0 else ""
            what = effect["what"].replace("|", "\\|")
            lines.append(f"| {first} | {what} | {effect['paper']} | {_here(effect)} | {effect['verdict']} |")
    runs = [run for results in found.values() for run in results["runs"]]
    if not runs:
        return "Not run."
    seeds = ", ".join(str(seed) for seed in sorted({run["seed"] for run in runs}))
    seconds = [run["seconds"] for run in runs]
    where = "; ".join(
        dict.fromkeys(f"{run['device']}, {run['threads']} thread, torch {run['torch'].split('+')[0]}" for run in runs)
    )
    verdicts = [effect["verdict"] for results in found.values() for effect in results["effects"]]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts))
    times = f"{min(seconds):.0f} to {max(seconds):.0f} seconds a twin and seed"
    note = f"Of {len(verdicts)} effects {counts}. Seeds {seeds}; {where}; {times}."
    return "\n".join([*lines, "", note])


# rows of genint-colored-mnist, and what the page calls them
COLOURED = {
    "real": "training digits",
    "irm": "training digits, IRM",
    "irm-released": "training digits, IRM at GenInt's released learning rate",
    "grey": "training digits, in grey",
    "vae": "samples of the VAE",
    "vae-intervened": "interventions on the VAE",
    "real+vae": "half training digits, half interventions on the VAE",
    "gan": "samples of the GAN",
    "gan-intervened": "interventions on the GAN",
    "real+gan": "half training digits, half interventions on the GAN",
}


def _coloured() -> dict:
    return json.loads((RESULTS / "genint-colored-mnist" / "results.json").read_text())


def _percent(figure: dict | None) -> str:
    if figure is None:
        return "-"
    return f"{100 * figure['mean']:.1f}" + ("" if figure["sd"] is None else f" ± {100 * figure['sd']:.1f}")


def coloured() -> str:
    results = _coloured()
    parts = []
    for variant, rows in results["summary"].items():
        names = list(next(iter(rows.values())))
        tests = [name for name in names if name not in ("colour", "shape")]
        heads = [*tests, "colour tells", "shape agrees", "n"]
        lines = [f"| {variant}: trained on | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
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
        "In percent, mean ± standard deviation of n "
        f"seeds (of {seeds}); {where}, other work running, {min(seconds):.0f} to {max(seconds):.0f} seconds a row "
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
            alone = next(row for row in csv.DictReader(text) if row["way"].startswith("ours") and row["batch"] == "8")
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


def measured() -> str:
    """genaug/recipes/measured.json: what `genaug reproduce list` says of ours."""
    found: dict[str, dict[str, str]] = {}
    parts = []
    for folder, row in (("original", "original"), ("embedded", "cgn")):
        files = [RESULTS / "cgn-table2" / f"{folder}-{variant}" / "results.json" for variant in VARIANTS]
        tests = [
            json.loads(file.read_text())["summary"][row][variant]["test"]
            for file, variant in zip(files, VARIANTS, strict=True)
        ]
        cells = [f"{100 * t['mean']:.1f}" + ("" if t["sd"] is None else f" ± {100 * t['sd']:.1f}") for t in tests]
        parts.append(f"{row} {' / '.join(cells)} (n={min(t['n'] for t in tests)})")
    found["cgn-table2"] = {"full": "; ".join(parts)}
    random = {
        variant: ", ".join(f"{row} {_percent(figures['random'])}" for row, figures in rows.items())
        for variant, rows in _coloured()["summary"].items()
    }
    found["genint-colored-mnist"] = {
        "full": "in random colours: " + "; ".join(f"{variant}: {cells}" for variant, cells in random.items())
    }
    found["cgn-figure3"] = {"full": "the sheet that the command draws"}
    for name, results in _twins().items():
        effects = [f"{effect['what']}: {_here(effect)}, {effect['verdict']}" for effect in results["effects"]]
        found[name] = {"twin": f"{'; '.join(effects)} (n={len(results['runs'])})"}
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _runs(results: dict) -> str:
    runs = results["runs"]
    seconds = [run["seconds"] for run in runs]
    device, threads, torch = runs[0]["device"], runs[0]["threads"], runs[0]["torch"].split("+")[0]
    times = f"{min(seconds):.0f} to {max(seconds):.0f} seconds a seed"
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
    digits = ROOT / "docs" / "digits.md"
    files = {
        readme: written(readme.read_text(), demo=demo(), table2=table2(), speed=speed()),
        page: written(page.read_text(), twins=twins()),
        rendered: written(rendered.read_text(), rendering=rendering()),
        digits: written(digits.read_text(), coloured=coloured()),
        ROOT / "genaug" / "recipes" / "measured.json": measured(),
    }
    for name, results in _twins().items():
        file = ROOT / "genaug" / "recipes" / f"{name.replace('-', '_')}.py"
        files[file] = head_of(file.read_text(), results)
    if parser.parse_args().check:
        return int(any(not file.exists() or file.read_text() != text for file, text in files.items()))
    for file, text in files.items():
        file.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
