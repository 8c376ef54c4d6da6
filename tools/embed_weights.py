"""Puts a finished training run among the weights that ship with the package, with its card and its registry row.

    python tools/embed_weights.py cgn-colored-mnist runs/colored --results benchmarks/results/cgn-table2/results.json
    python tools/embed_weights.py vae-digits runs/vae-digits --results benchmarks/results/demo

Every figure on the card comes from the run's own metadata and log, and from the results file.
"""

import argparse
import json
import re
import shutil
import statistics
from pathlib import Path

from genaug.assets import cache, named_weights, registry, store

# of runs from before the machine was recorded: one thread each, on a machine shared with other work
MACHINE = "CPU, 1 thread, torch 2.15.0, on a shared machine"

CARD = """# {name}

{what}. {paper}.

| | |
|---|---|
| trained by | `{command}` |
| data | {data}; the biased training split alone |
| settings | {settings} |
| time | {time} |
| size | {size:,} bytes: {precision} |
| licence | {licence} |
| measured | {measured} |

The last losses of the run: {losses}.
"""

DATA = {
    "colored": "ColoredMNIST, 60,000 digits",
    "double-colored": "DoubleColoredMNIST, 50,000 digits",
    "wildlife": "WildlifeMNIST, 50,000 digits, ten striped and ten veined textures of DTD",
    "digits": "the demo's: scikit-learn's digits, double-coloured, bias 0.95, 1,287 digits",
}


def of_demo(folder: Path) -> str:
    """What the demo's third row says, whose generator `vae-digits` is."""
    runs = [json.loads(file.read_text()) for file in sorted(folder.glob("seed-*.json"))]
    tests = [100 * run["interventional"]["test"] for run in runs]
    used, threads = runs[0]["settings"]["interventions"], runs[0]["settings"]["threads"]
    return (
        f"demo, {runs[0]['settings']['training_images']:,} interventions, {used['components']} components, "
        f"scale {used['scale']:g}: test accuracy {statistics.mean(tests):.1f} +/- {statistics.stdev(tests):.1f}% "
        f"(n={len(tests)}, CPU, {singular(f'{threads} threads')})"
    )


def singular(text: str) -> str:
    return re.sub(r"\b1 (minute|thread)s\b", r"1 \1", text)


def measured(name: str, variant: str | None, results: Path | None) -> str:
    if results is None:
        return "not run"
    if results.is_dir():
        return of_demo(results)
    content = json.loads(results.read_text())
    figures = content["summary"].get("cgn", {}).get(variant)
    runs = [run for run in content["runs"] if run["row"] == "cgn" and run["variant"] == variant]
    weights = cache.sha256(store.EMBEDDED / f"{name}.safetensors")
    if figures is None or any(run["weights_sha256"] != weights for run in runs):
        return "not run"
    test, count = figures["test"], content["settings"]["num_counterfactuals"]
    spread = "" if test["sd"] is None else f" +/- {100 * test['sd']:.1f}"
    return (
        f"CGN, Table 2, {count:,} counterfactuals alone: test accuracy {100 * test['mean']:.1f}%{spread} "
        f"(n={test['n']}, {content['settings']['dtype']}, {runs[0]['device']})"
    )


def card_of(name: str, run: Path, figures: str) -> str:
    """The card of the weights that `run` ended with, which lie in their place already."""
    row, target = registry.ASSETS[name], store.EMBEDDED / f"{name}.safetensors"
    _, metadata = store.load_asset(target)
    training = json.loads(metadata["training"])
    variant, last = training.get("variant", "digits"), json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    small = metadata["kind"] == "conditional-digits"
    flags = f" --seed {training['seed']}" + (" --dtype bfloat16" if "bfloat16" in training.get("dtype", "") else "")
    if variant != "digits":
        flags = f" --root DIR{' --textures DIR' if variant == 'wildlife' else ''} --steps {training['steps']}{flags}"
    return CARD.format(
        name=name,
        what=row.what[0].upper() + row.what[1:],
        paper=row.paper,
        command=f"genaug train {'vae-digits' if small else f'cgn-mnist --variant {variant}'} --out RUN{flags}",
        data=DATA[variant],
        settings=", ".join(f"{key} {value}" for key, value in training.items() if key not in ("variant", "dtype")),
        time=singular(
            f"{last['step']:,} steps in {last['seconds'] / 60:.0f} minutes, {metadata.get('machine', MACHINE)}"
        ),
        size=target.stat().st_size,
        precision="float16" if small else "weights in float16, batch statistics and biases in float32",
        licence=row.licence,
        measured=figures,
        losses=", ".join(f"{key} {value}" for key, value in last.items() if key not in ("step", "seconds")),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=list(registry.ASSETS))
    parser.add_argument("run", type=Path, nargs="?", help="what `genaug train ... --out` wrote; else keep weights")
    parser.add_argument(
        "--results",
        type=Path,
        help="results.json of `genaug reproduce cgn-table2`; of vae-digits, the folder of the demo's seed-N.json",
    )
    arguments = parser.parse_args()

    name, target = arguments.name, store.EMBEDDED / f"{arguments.name}.safetensors"
    if arguments.run:
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(arguments.run / "generator.safetensors", target)
    _, metadata = store.load_asset(target)
    figures = measured(name, json.loads(metadata["training"]).get("variant"), arguments.results)
    card = target.with_suffix(".md")
    if arguments.run:
        text = card_of(name, arguments.run, figures)
    else:
        text = re.sub(r"\| measured \| .* \|", lambda _: f"| measured | {figures} |", singular(card.read_text()))
    card.write_text(text)

    source = Path(named_weights.__file__)
    text = source.read_text()
    begin = text.index(f'name="{name}"')
    end = text.index("\n    ),", begin)
    block = text[begin:end]
    for field, value in (
        ("sha256", f'"{cache.sha256(target)}"'),
        ("size", f"{target.stat().st_size:_}"),
        ("figures", json.dumps(figures)),
    ):
        written = rf"(\n\s+{field}=)(\((?:\n.*)*?\n\s+\)|.*),"  # a long text is in parentheses
        block = re.sub(written, lambda match, value=value: f"{match[1]}{value},", block)
    source.write_text(text[:begin] + block + text[end:])
    print(card.read_text())


if __name__ == "__main__":
    main()
