"""How much of the demo's third row is the interventions', and how much its generator's own variety.

The demo's classifier, trained for as many steps on as many images of the same generator and tested on the same digits,
as in `genaug demo` but for the interventions: none (`components=0`, what the paper calls GAN augmentation), the
paper's range of one standard deviation, and the demo's own. The last must give the demo's figure.

    python benchmarks/demo_control.py --seeds 0,1,2

Writes benchmarks/results/demo-control-cpuTHREADS-torchVERSION.csv, a row a seed and way; what is there is kept.
"""

import argparse
import csv
import statistics
from pathlib import Path

import torch

from genaug import DoubleColoredMNIST, GenerativeInterventionDataset, load_generator
from genaug._common.files import atomic_path
from genaug.datasets.colored_mnist import same_colour
from genaug.demo import digits as demo
from genaug.evaluation.measures.accuracy import accuracy, batches
from genaug.training.classifier.digits import fit_classifier

# way -> components, and standard deviations along one
WAYS = {"none": (0, 0.0), "scale 1": (demo.COMPONENTS, 1.0), f"scale {demo.SCALE:g}": (demo.COMPONENTS, demo.SCALE)}


def run(seed: int, components: int, scale: float, noise: str) -> tuple[float, float]:
    """Accuracy on the generated images and on the demo's test digits that can be seen."""
    digits = DoubleColoredMNIST(None, train=False, bias=0.0, seed=seed, digits="sklearn")
    seen = ~same_colour(digits.factors["texture"], digits.factors["background"])
    generator = load_generator(demo.INTERVENED)
    generator.noise = noise
    generated = GenerativeInterventionDataset(
        generator, length=demo.IMAGES, seed=seed, components=components, scale=scale
    )
    images, labels = generated.images(range(demo.IMAGES)), generated.labels(range(demo.IMAGES))
    model = fit_classifier(images, labels, seed=seed, network=demo.small_network, epochs=demo.EPOCHS)
    test = batches(digits.images()[seen], digits.factors["shape"][seen])
    return accuracy(model, batches(images, labels)), accuracy(model, test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2", help="with commas between")
    parser.add_argument("--noise", default="truncated", choices=("truncated", "normal"), help="of the generator")
    parser.add_argument("--out", default=Path(__file__).parent / "results", type=Path)
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    head = ["way", "components", "scale", "seed", "train", "test"]
    stem = "demo-control" + ("-normal-noise" if args.noise == "normal" else "")
    stem += f"-cpu{torch.get_num_threads()}-torch{torch.__version__.split('+')[0]}"
    path = args.out / f"{stem}.csv"
    rows: dict[tuple[str, int], list[str]] = {}
    if path.exists():
        with path.open(newline="") as file:
            rows = {(row[0], int(row[3])): row for row in list(csv.reader(file))[1:]}
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for way, (components, scale) in WAYS.items():
            if (way, seed) in rows:
                continue
            train, test = run(seed, components, scale, args.noise)
            rows[way, seed] = [way, str(components), f"{scale:g}", str(seed), f"{train:.4f}", f"{test:.4f}"]
            with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
                csv.writer(file).writerows([head, *rows.values()])
    for way in WAYS:
        values = [100 * float(rows[way, seed][5]) for seed in seeds]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        print(f"{way:10} test {statistics.mean(values):.1f}{spread} % (n={len(values)})")
    print(path)


if __name__ == "__main__":
    main()
