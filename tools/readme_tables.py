"""Writes the README's tables from the results under benchmarks/results, so that no figure is typed in by hand.

python tools/readme_tables.py            # rewrites README.md
python tools/readme_tables.py --check    # exits 1 if it is out of date, as a test does
"""

import argparse
import csv
import json
import statistics
import sys
from pathlib import Path

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


def written(text: str) -> str:
    for name, table in (("demo", demo()), ("table2", table2()), ("speed", speed())):
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, rest = text.split(begin)
        text = before + begin + table + "\n" + end + rest.split(end, 1)[1]
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    readme = ROOT / "README.md"
    before = readme.read_text()
    after = written(before)
    if parser.parse_args().check:
        return int(before != after)
    readme.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
