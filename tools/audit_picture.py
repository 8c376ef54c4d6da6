"""Draw scenes, train a small network on them, audit it, and photograph the report: docs/audit-report.png.

    pip install playwright     # and Chromium
    python tools/audit_picture.py --out audit-picture

Of the drawn boats 95% are on water, of the cars on roads, of the trees on meadows. It takes about a minute of one core.
"""

from __future__ import annotations

import argparse
import shutil
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor, nn

from genaug import PhotographBank
from genaug.evaluation import audit

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("boat", "car", "tree")
SIDE, SCALE, EACH, BIAS = 192, 2, 100, 0.95  # scenes are drawn SCALE times as large


def background(place: int, draws: torch.Generator) -> Image.Image:
    """Water, a road or a meadow, under a sky."""
    size = SIDE * SCALE
    shade = int(torch.randint(-25, 26, (1,), generator=draws))
    horizon = int(size * (0.25 + 0.15 * float(torch.rand(1, generator=draws))))
    sky, ground = (170 + shade, 205 + shade, 235), ((40, 105, 150), (105, 105, 108), (95, 150, 60))[place]
    ground = tuple(value + shade for value in ground)
    image = Image.new("RGB", (size, size), sky)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, horizon, size, size), fill=ground)
    for _ in range(140):
        x, y = (float(v) for v in torch.rand(2, generator=draws))
        left, top = x * size, horizon + y * (size - horizon)
        light = tuple(min(255, value + 28) for value in ground)
        if place == 0:
            pen.arc((left, top, left + 36, top + 9), 180, 360, fill=light, width=3)
        elif place == 1:
            pen.line((left, top, left + 5, top + 2), fill=tuple(v - 22 for v in ground), width=3)
        else:
            pen.line((left, top, left + 3, top - 12), fill=light, width=3)
    if place == 1:
        for start in range(0, size, 70):
            pen.rectangle((start, size * 0.72, start + 40, size * 0.745), fill=(230, 225, 200))
    return image


def thing(label: int, draws: torch.Generator) -> tuple[Image.Image, Image.Image]:
    """A boat, a car or a tree of a random color, and its mask."""
    size = SIDE * SCALE
    red, green, blue = (int(v) for v in torch.randint(60, 226, (3,), generator=draws))
    image, mask = Image.new("RGB", (size, size)), Image.new("L", (size, size))
    wide = size * (0.42 + 0.14 * float(torch.rand(1, generator=draws)))
    left, base = (size - wide) * float(torch.rand(1, generator=draws)) * 0.8 + 0.1 * (size - wide), size * 0.78

    def at(*points: float) -> list[tuple[float, float]]:
        return [(left + x * wide, base - y * wide) for x, y in zip(points[::2], points[1::2], strict=True)]

    color, dark = (red, green, blue), (red // 2, green // 2, blue // 2)
    shapes = {
        0: [
            ("polygon", at(0, 0.28, 1, 0.28, 0.82, 0, 0.16, 0), dark),
            ("polygon", at(0.5, 1, 0.5, 0.34, 0.92, 0.34), color),
        ],
        1: [
            (
                "polygon",
                at(0.02, 0.12, 0.02, 0.34, 0.22, 0.36, 0.34, 0.56, 0.72, 0.56, 0.86, 0.36, 0.98, 0.3, 0.98, 0.12),
                color,
            ),
            ("ellipse", at(0.12, 0.22, 0.34, 0), dark),
            ("ellipse", at(0.66, 0.22, 0.88, 0), dark),
        ],
        2: [
            ("polygon", at(0.44, 0, 0.56, 0, 0.55, 0.5, 0.45, 0.5), dark),
            ("ellipse", at(0.12, 1.05, 0.88, 0.36), color),
        ],
    }
    for target, plain in ((image, None), (mask, 255)):
        pen = ImageDraw.Draw(target)
        for kind, points, fill in shapes[label]:
            getattr(pen, kind)(points, fill=fill if plain is None else plain)
    return image, mask


def write_scenes(folder: Path, each: int, seed: int, bias: float) -> Path:
    """Scenes and their masks, one folder per class in photos/ and masks/."""
    draws = torch.Generator().manual_seed(seed)
    for label, name in enumerate(CLASSES):
        for kind in ("photos", "masks"):
            (folder / kind / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            own = float(torch.rand(1, generator=draws)) < bias
            place = label if own else (label + 1 + int(torch.randint(2, (1,), generator=draws))) % 3
            image, mask = thing(label, draws)
            scene = Image.composite(image, background(place, draws), mask.filter(ImageFilter.GaussianBlur(1)))
            for kind, picture in (("photos", scene), ("masks", mask)):
                small = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
                small.save(folder / kind / name / f"{number:03d}.png")
    return folder


def prepare(images: Tensor) -> Tensor:
    return nn.functional.interpolate(images.float() / 127.5 - 1, 64, mode="bilinear", antialias=True)


def trained(bank: PhotographBank, seed: int) -> nn.Module:
    """A small network, trained on the photographs of a bank."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        widths = (3, 16, 32, 64)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, len(CLASSES)))
    images, labels = prepare(bank.files.parts(range(len(bank.files)))[0]), bank.files.labels
    draws = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.01)
    for _ in range(12):
        for part in torch.randperm(len(labels), generator=draws).split(32):
            batch = torch.where(
                torch.rand(len(part), 1, 1, 1, generator=draws) < 0.5, images[part], images[part].flip(3)
            )
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch), labels[part]).backward()
            optimizer.step()
    return model.eval()


def photograph(page: Path, file: Path, width: int, height: int, scheme: str) -> None:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, offline=True)
        opened = context.new_page()
        opened.goto(page.absolute().as_uri())
        opened.screenshot(path=file)
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for scenes, banks and the report")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "audit-report.png")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    banks = {}
    for seed, name in enumerate(("train", "test")):
        folder = arguments.out / name
        if not folder.exists():
            write_scenes(folder, EACH if name == "train" else EACH // 2, seed, BIAS)
        banks[name] = PhotographBank.build(
            folder / "photos", arguments.out / f"bank-{name}", masks=folder / "masks", size=SIDE
        )
    model = trained(banks["train"], 0)
    result = audit(model, banks["test"], transform=prepare, name="small network", batch_size=256)
    page = result.save(arguments.out / "report")
    print(result.verdict())
    photograph(page, arguments.picture, 1100, 900, "light")
    print(page, arguments.picture)


if __name__ == "__main__":
    main()
