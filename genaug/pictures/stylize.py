"""Give a photograph the texture of a class (CGN's blog post): Gatys' style transfer toward a generated texture.

genaug stylize photo.jpg --class 340 --out zebra.png
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torchvision.transforms.v2 import functional as v2

from genaug._common.arguments import check_classes, check_integer, check_truncation
from genaug._common.files import open_image
from genaug._common.progress import progress
from genaug._common.video import moves, save_video
from genaug.generators.images import to_uint8
from genaug.pictures.interpolations import Way, found_counterfactual
from genaug.pictures.samples import save_image
from genaug.transforms.style_transfer import CONTENT_LAYER, STYLE_LAYERS, gatys
from genaug.transforms.vgg import load_encoder

SMALLEST, LARGEST = 16, 4096  # limits of the shorter side of a stylized picture, in pixels
MOST_FRAMES = 10_000


def run(
    image: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    label: int,
    generator: str | os.PathLike[str] | nn.Module = "cgn-imagenet-256",
    steps: int = 50,
    size: int = 256,
    frames: int | None = None,
    seed: int = 0,
    truncation: float = 1.0,
    network: str | os.PathLike[str] = "vgg19",
    device: torch.device | str | None = None,
) -> Path:
    """Optimize a picture until its feature correlations match those of a generated texture, and keep its content.

    Args:
        image: a picture in any format that Pillow reads.
        out: a picture such as .png. A .gif or .mp4 shows the walk of the blog post: each frame has the texture of
            another noise of the class.
        label: the class of the texture.
        generator: a counterfactual generator, as `CounterfactualDataset` takes it.
        steps: number of L-BFGS steps, which start at the picture.
        size: shorter side of the picture during optimization and of the result, in pixels.
        frames: number of frames of a .gif or .mp4 (default: 25).
        seed: random seed of the texture's noise.
        truncation: scale of the noise, in (0, 1].
        network: VGG19's weights: a name from `genaug assets list` or a `.safetensors` file.
        device: device of the computation (default: CPU, or the device of a module).

    Returns:
        The file that was written; without ffmpeg, an .mp4 becomes a .gif.

    Raises:
        ValueError: the file is not a picture, or an argument is out of its range.
        TypeError: the generator has no texture mechanism.
        genaug.AssetError: the generator or the network is not available.
        OSError: `out` cannot be written.
    """
    check_integer("steps", steps, 1)
    check_integer("size", size, SMALLEST, LARGEST)
    check_truncation(truncation)
    picture = v2.pil_to_tensor(open_image(image))
    moving = moves(out)
    if frames is not None and not moving:
        raise ValueError(f"frames are of a .gif or .mp4, but out is {Path(out).name!r}")
    frames = check_integer("frames", 25 if frames is None else frames, 2, MOST_FRAMES)
    if not moving and Image.registered_extensions().get(Path(out).suffix.lower()) not in Image.SAVE:
        raise ValueError(f"a picture's name must end in its format, such as .png, got {os.fspath(out)!r}")
    found, _, place = found_counterfactual(generator, device)
    check_classes([label], found.num_classes)
    vgg = load_encoder(network, ("vgg19",), max(STYLE_LAYERS, CONTENT_LAYER), reflect=False).to(place)
    content = v2.resize(picture, [size], antialias=True).float()[None].to(place) / 255
    points = 3 if moving else 1
    way = Way(found, points, over="texture", between="noises", classes=[label], seed=seed, truncation=truncation)
    positions = [i * points / frames for i in range(frames)] if moving else [0.0]
    textures = way.at(positions)["texture"].add(1).div(2).clamp(0, 1).to(place)
    count = torch.full((1,), steps, device=place)
    made = [
        gatys(vgg, content, [texture], count).cpu()
        for texture in progress(textures, description="stylizing", unit="picture")
    ]
    pixels = to_uint8(torch.cat(made) * 2 - 1)
    if moving:
        return save_video(out, pixels)
    save_image(out, pixels[0])
    return Path(out)
