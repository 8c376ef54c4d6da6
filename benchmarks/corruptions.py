"""ImageNet-C's corruptions for one's own images: as many a second as the package's, and the same ones?

The package is `imagecorruptions` 1.1.2, whose definitions are those of the published code but for "elastic_transform",
its size of frost and its own form of ImageMagick's motion blur. It does not run with today's numpy, setuptools and
scikit-image: `reference` lends it the four names that it misses, and changes nothing of what it computes.

    pip install --no-deps imagecorruptions==1.1.2
    pip install opencv-python-headless scikit-image scipy                          # tried: 5.0, 0.26, 1.17; numpy 2.4
    taskset -c 0 python benchmarks/corruptions.py --clock process                  # speed
    taskset -c 0 python benchmarks/corruptions.py --compare --images DIR           # differences
    taskset -c 0 python benchmarks/corruptions.py --ablate --clock process         # what each optimisation gains

Speed: both ways take turns, corruption by corruption, all five severities on every image, one thread; figures are
medians over the rounds, and the average over the 15 is of images over seconds. Differences: the mean absolute grey
level where the definition is deterministic; else an image's mean, its deviation and how much it was changed, each
averaged over the images, with the standard error of the difference, since draws differ. The published elastic transform
is compared with a second writing of it, by scipy.

Images: `--images DIR`, any folder of pictures, each scaled and cropped to 224 pixels as for ImageNet-C; by default
crops of scikit-learn's two sample photographs. Frost takes the package's photographs. Writes
benchmarks/results/corruptions[-differences|-ablation]-cpuN-torchVERSION.csv.
"""

import argparse
import csv
import importlib.util
import shutil
import statistics
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision.transforms.v2.functional import center_crop, pil_to_tensor, resize

from genaug._common.files import atomic_path
from genaug._common.records import processor
from genaug.evaluation import corruptions, filters
from genaug.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from genaug.evaluation.filters import zoomed

DETERMINISTIC = ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
PUBLISHED_ELASTIC = "elastic_transform, published"  # beside the package's own
MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": lambda corrupted, clean: corrupted.mean((1, 2, 3)),
    "deviation": lambda corrupted, clean: corrupted.std((1, 2, 3)),
    "change": lambda corrupted, clean: (corrupted - clean).abs().mean((1, 2, 3)),
}


def reference() -> Any:
    """The package `imagecorruptions`, made to run; raises ImportError where it, or what it needs, is not installed."""
    import scipy.ndimage
    import skimage.color  # which the package takes for granted
    import skimage.filters
    import skimage.util

    def gaussian(image: Any, sigma: Any, multichannel: bool = False, **options: Any) -> Any:
        return filters_gaussian(image, sigma, channel_axis=-1 if multichannel else None, **options)

    def resource_filename(module: str, name: str) -> str:
        return str(Path(importlib.util.find_spec(module.split(".")[0]).origin).parent / name)

    filters_gaussian = skimage.filters.gaussian
    resources = types.ModuleType("pkg_resources")
    resources.resource_filename = resource_filename
    names = {"pkg_resources": resources, "scipy.ndimage.interpolation": scipy.ndimage}
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(names)
    skimage.filters.gaussian = gaussian
    numpy.float_ = numpy.float64
    try:
        import imagecorruptions
    finally:  # the package has bound what it wants by now
        skimage.filters.gaussian = filters_gaussian
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    return imagecorruptions


@contextmanager
def photographs_of_frost() -> Iterator[Path]:
    """A folder of the package's photographs but the last of six, which neither it nor the published code ever draws."""
    package = Path(importlib.util.find_spec("imagecorruptions").origin).parent
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted((package / "frost").iterdir())[:5]:
            shutil.copy(path, folder)
        yield Path(folder)


def elastic_as_published(image: Any, severity: int, draws: Any) -> Any:
    """(H, W, 3) uint8 -> float64 grey levels: the published elastic transform by scipy, at 224 x 224."""
    from scipy import ndimage

    distance, sigma, corner = (
        (488, 170.8, 24.4),
        (488, 19.52, 48.8),
        (12.2, 2.44, 4.88),
        (17.08, 2.44, 4.88),
        (29.28, 2.44, 4.88),
    )[severity - 1]
    size = len(image)
    corners = numpy.array([[1, 1], [1, -1], [-1, -1]]) * (size // 3) + size // 2
    moved = corners + draws.uniform(-corner, corner, (3, 2))
    # (column, row, 1) of the result -> (column, row) of the image
    back = numpy.linalg.solve(numpy.c_[moved, numpy.ones(3)], corners.astype(float))
    matrix, offset = back[:2].T[::-1, ::-1], back[2][::-1]
    channels = numpy.moveaxis(image.astype(float), 2, 0)
    channels = [ndimage.affine_transform(c, matrix, offset, order=1, mode="mirror") for c in channels]
    right, down = (
        distance * ndimage.gaussian_filter(draws.uniform(-1, 1, (size, size)), sigma, mode="reflect", truncate=3)
        for _ in range(2)
    )
    rows, columns = numpy.mgrid[:size, :size]
    places = rows + down, columns + right
    return numpy.stack([ndimage.map_coordinates(c, places, order=1, mode="reflect") for c in channels], axis=2)


def sample_images(folder: Path | None, most: int) -> Tensor:
    """(N, 3, 224, 224) uint8: the shorter side scaled to 256, the middle cropped."""
    if folder is None:
        whole = [torch.tensor(image).permute(2, 0, 1) for image in load_sample_images().images]
        return torch.stack([image[:, 100:324, left : left + 224] for image in whole for left in (0, 150, 300, 400)])[
            :most
        ]
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))[:most]
    if not paths:
        raise SystemExit(f"no pictures in {folder}")
    images = []
    for path in paths:
        with Image.open(path) as file:
            images.append(center_crop(pil_to_tensor(resize(file.convert("RGB"), 256)), 224))
    return torch.stack(images)


def measure(images: Tensor, rounds: int, clock: Callable[[], float], frost: Path) -> dict[str, dict[str, list[float]]]:
    """Seconds for each corruption of all images at all severities: name -> way -> rounds."""
    package = reference()
    arrays = list(images.permute(0, 2, 3, 1).contiguous().numpy())

    def theirs(name: str) -> None:
        for severity in SEVERITIES:
            for array in arrays:
                package.corrupt(array, severity=severity, corruption_name=name)

    def ours(name: str) -> None:
        for severity in SEVERITIES:
            corrupt(images, name, severity, frost=frost)

    seconds = {name: {"package": [], "ours": []} for name in CORRUPTIONS}
    for i in range(rounds + 1):
        for name in CORRUPTIONS:
            for way, run in (("package", theirs), ("ours", ours)):
                begin = clock()
                run(name)
                if i:  # a first round that does not count: kernels, photographs
                    seconds[name][way].append(clock() - begin)
    return seconds


def differences(images: Tensor, frost: Path, seed: int = 0) -> list[dict[str, Any]]:
    """One row a corruption and severity: how far apart ours and the reference's are, in grey levels."""
    package = reference()
    arrays = list(images.permute(0, 2, 3, 1).contiguous().numpy())
    numpy.random.seed(seed)
    draws = numpy.random.default_rng(seed)
    clean = images.double()
    rows = []
    for name in (*CORRUPTIONS, PUBLISHED_ELASTIC):
        for severity in SEVERITIES:
            if name == PUBLISHED_ELASTIC:
                made = [elastic_as_published(array, severity, draws).clip(0, 255).astype("uint8") for array in arrays]
                ours = corrupt(images, "elastic_transform", severity, seed=seed)
            else:
                made = [package.corrupt(array, severity=severity, corruption_name=name) for array in arrays]
                ours = corrupt(images, name, severity, seed=seed, frost=frost, elastic="imagecorruptions")
            theirs = torch.from_numpy(numpy.stack(made)).permute(0, 3, 1, 2).double()
            ours = ours.double()
            row: dict[str, Any] = {"corruption": name, "severity": severity}
            row["mean_absolute"] = (ours - theirs).abs().mean().item() if name in DETERMINISTIC else None
            for what, measure_of in MEASURES.items():
                package_s, our_s = measure_of(theirs, clean), measure_of(ours, clean)
                row[f"package_{what}"], row[f"ours_{what}"] = package_s.mean().item(), our_s.mean().item()
                row[f"{what}_error"] = ((our_s - package_s).std() / len(images) ** 0.5).item()
            rows.append(row)
    return rows


def direct_defocus(image: Tensor, severity: int, draws: Any) -> Tensor:
    """Defocus as a convolution with all of its up to 21 x 21 weights."""
    radius, soften = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[severity]
    margin, side = max(8, radius), 64
    kernel = torch.fft.irfft2(filters.disk_spectrum(radius, soften, side, side), s=(side, side))
    kernel = kernel[: 2 * margin + 1, : 2 * margin + 1]
    padded = F.pad(image.float(), (margin,) * 4, mode="reflect")
    return F.conv2d(padded[:, None], kernel[None, None])[:, 0]


def looped_sources(steps: Tensor, height: int, width: int, reach: int) -> Tensor:
    """Glass blur's copies in their published order, one after the other."""
    shown = list(range(height * width))
    for down, right in steps.tolist():
        for h in range(height - reach, reach, -1):
            for w in range(width - reach, reach, -1):
                row, column = h - reach - 1, w - reach - 1
                shown[h * width + w] = shown[(h + down[row][column]) * width + w + right[row][column]]
    return torch.tensor(shown)


def interleaved_picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def scaled_channel_by_channel(image: Tensor, factor: float) -> Tensor:
    return zoomed(image.contiguous(), factor)


# what takes an optimisation's place: its name -> the corruption, and what is replaced by what
ABLATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "defocus: convolved directly": ("defocus_blur", {"_defocus_blur": direct_defocus}),
    "defocus: transforms of 240 and 244, not 240 and 250": ("defocus_blur", {"fast_length": lambda n: n}),
    "glass: a loop over pixels": ("glass_blur", {"glass_sources": looped_sources}),
    "zoom: channel by channel": ("zoom_blur", {"zoomed": scaled_channel_by_channel}),
    "JPEG: torch interleaves the channels": ("jpeg_compression", {"picture": interleaved_picture}),
}


def ablate(images: Tensor, path: Path, rounds: int, clock: str) -> None:
    now = time.process_time if clock == "process" else time.perf_counter
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ABLATIONS}
    for i in range(rounds + 1):
        for way, (name, replaced) in ABLATIONS.items():
            for without, times in zip((False, True), seconds[way], strict=True):
                with ExitStack() as stack:
                    for attribute, value in (replaced if without else {}).items():
                        stack.enter_context(mock.patch.object(corruptions, attribute, value))
                        if attribute == f"_{name}":
                            stack.enter_context(mock.patch.dict(corruptions._CORRUPTIONS, {name: value}))
                    begin = now()
                    for severity in SEVERITIES:
                        corrupt(images, name, severity)
                    if i:
                        times.append((now() - begin) / len(images) / len(SEVERITIES))
    rows = []
    for way, times in seconds.items():
        ours, without = (1000 * statistics.median(part) for part in times)
        print(f"{way:52} {without:8.2f} ms an image   ours {ours:6.2f} ms   {without / ours:6.2f} x")
        machine = processor()
        rows.append([way, f"{without:.3f}", f"{ours:.3f}", f"{without / ours:.2f}", rounds, clock, machine])
    head = ["in its place", "milliseconds_an_image", "ours", "ratio", "rounds", "clock", "machine"]
    write(path, head, rows)


def write(path: Path, head: list[str], rows: list[list[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(head)
        table.writerows(rows)
    print(path)


def compare(images: Tensor, frost: Path, path: Path) -> None:
    rows = differences(images, frost)
    for row in rows:
        absolute = row["mean_absolute"]
        middle = "random" if absolute is None else f"{absolute:.2f} grey levels"
        print(
            f"{row['corruption']:28} {row['severity']}  {middle:18}"
            + "".join(
                f"  {what} {row[f'package_{what}']:6.2f} / {row[f'ours_{what}']:6.2f} +- {row[f'{what}_error']:4.2f}"
                for what in MEASURES
            )
        )
    cells = [[f"{v:.3f}" if isinstance(v, float) else v for v in row.values()] for row in rows]
    write(path, [*rows[0], "images"], [[*row, len(images)] for row in cells])


def speed(images: Tensor, frost: Path, path: Path, rounds: int, clock: str) -> None:
    seconds = measure(images, rounds, time.process_time if clock == "process" else time.perf_counter, frost)
    count = len(images) * len(SEVERITIES)
    rates = {
        name: {way: [count / value for value in values] for way, values in ways.items()}
        for name, ways in seconds.items()
    }
    rates["average of the 15"] = {
        way: [len(CORRUPTIONS) * count / sum(ways[way][i] for ways in seconds.values()) for i in range(rounds)]
        for way in ("package", "ours")
    }
    rows = []
    for name, ways in rates.items():
        package, ours = (statistics.median(ways[way]) for way in ("package", "ours"))
        print(f"{name:20} package {package:8.1f} images/s   ours {ours:8.1f} images/s   {ours / package:6.1f} x")
        row = [name, f"{package:.4g}", f"{ours:.4g}", f"{min(ways['ours']):.4g}", f"{max(ways['ours']):.4g}"]
        rows.append([*row, rounds, f"{ours / package:.2f}", clock, processor()])
    head = ["corruption", "package_images_per_second_median", "ours_images_per_second_median", "ours_lowest"]
    write(path, [*head, "ours_highest", "rounds", "ratio", "clock", "machine"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compare", action="store_true", help="differences in place of speed")
    parser.add_argument("--ablate", action="store_true", help="what each optimisation gains")
    parser.add_argument("--images", type=Path, help="a folder of pictures")
    parser.add_argument("--most", type=int, default=8, help="how many images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("wall", "process"), default="wall")
    parser.add_argument("--out", default=Path(__file__).parent / "results", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")  # the package's, of what it uses of others
    images = sample_images(args.images, args.most)
    end = f"cpu{args.threads}-torch{torch.__version__.split('+')[0]}.csv"
    if args.ablate:
        ablate(images, args.out / f"corruptions-ablation-{end}", args.rounds, args.clock)
        return
    with photographs_of_frost() as frost:
        if args.compare:
            compare(images, frost, args.out / f"corruptions-differences-{end}")
        else:
            speed(images, frost, args.out / f"corruptions-{end}", args.rounds, args.clock)


if __name__ == "__main__":
    main()
