"""Draw the images of a generator, and the changes along its directions, like the figures of CGN, GenInt and GANSpace.

genaug sample cgn-double-colored-mnist --out sheet.png
genaug walk biggan-deep-256 --components 0,1,2 --out walk.gif
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genaug._common.arguments import (
    check_classes,
    check_device,
    check_integer,
    check_number,
    check_seed,
    check_truncation,
)
from genaug._common.files import atomic_path
from genaug._common.plotting import save_animation, save_sheet
from genaug._common.progress import progress
from genaug._common.video import moves
from genaug.assets import asset_path
from genaug.datasets.factors import best_classes
from genaug.datasets.generated import names_of
from genaug.generators import load_generator
from genaug.generators.images import to_uint8
from genaug.interventions.composition import compose
from genaug.interventions.directions import Directions
from genaug.interventions.fitting import fit_directions
from genaug.interventions.random_streams import integers
from genaug.interventions.steering import (
    as_input,
    evaluating,
    generator_device,
    has_latent,
    intervene,
    noise_of,
    steer,
)

MOST_COLUMNS = 1_000  # of a sheet
ROWS = 5  # classes of a sheet if none are named; images of a walk's animation
STEPS = 9  # columns of a walk's sheet
FRAMES = 25  # of a walk's animation, one way
AT_ONCE = 8  # images in a generator call: bounds memory


def run(
    generator: str | os.PathLike[str] | nn.Module,
    out: str | os.PathLike[str],
    *,
    num: int = 10,
    seed: int = 0,
    classes: Sequence[int] | str | None = None,
    truncation: float = 1.0,
    device: torch.device | str | None = None,
) -> None:
    """Draw a contact sheet: parts and composites of a counterfactual generator, or classes of any other generator.

    Args:
        generator: a name from `genaug assets list`, a converted checkpoint, or a module, as the datasets take it.
        out: image file; its suffix sets the format, such as .png.
        num: number of columns, 1 to 1,000.
        seed: random seed of noise and classes.
        classes: classes to draw from; for a generator without parts, classes to show (default: drawn from all classes).
            "best" as for `CounterfactualDataset`.
        truncation: scale of the noise, in (0, 1].
        device: device of the generator (default: CPU, or the device of a module).

    Raises:
        ValueError: `num` is outside 1..1000, `truncation` is outside (0, 1], the generator does not have a class, or
            the suffix is not an image format.
        genaug.AssetError: the generator is not available.
        OSError: the folder of `out` cannot be written.
    """
    check_integer("num", num, 1, MOST_COLUMNS)
    check_seed(seed)
    check_truncation(truncation)
    network, title, place = found_generator(generator, device)
    if isinstance(classes, str):
        each = [list(of_factor) for of_factor in best_classes(classes, network).values()]
    else:
        known = check_classes(classes, network.num_classes, names_of(network))
        each = [known] * 3
    rows: dict[str, Tensor] = {}
    columns: list[str] = []
    if hasattr(network, "mechanisms"):
        draw = torch.Generator().manual_seed(seed)
        noise = [noise_of(network, seed, torch.arange(num), truncation, f"{i}") for i in range(3)]
        labels = [torch.tensor(of)[torch.randint(len(of), (num,), generator=draw)] for of in each]
        whole = getattr(network, "default_tie", ()) == ("shape", "texture")  # textures are whole objects
        if whole:
            noise[1], labels[1] = noise[0], labels[0]
        inputs = [[part.to(place) for part in parts] for parts in (noise, labels)]
        made = made_parts(network, inputs[0], inputs[1], truncation)
        rows = {"object" if whole and name == "texture" else name: images for name, images in made.items()}
        if hasattr(network, "describe"):
            columns = [_photographs(described) for described in network.describe(*inputs)]
    else:
        if classes is None:
            picks = torch.arange(min(ROWS, len(known)))
            known = sorted({known[i] for i in integers(seed, picks, len(known), "class").tolist()})
        z = noise_of(network, seed, torch.arange(num), truncation)
        rows = {
            _class_name(network, label): _images(network, z, torch.full((num,), label), truncation, place)
            for label in known
        }
        columns = _captions(network, z)
    save_sheet(out, {row: to_uint8(images) for row, images in rows.items()}, title=title, columns=columns)


def walk(
    generator: str | os.PathLike[str] | nn.Module,
    out: str | os.PathLike[str],
    *,
    components: Sequence[int] = (0, 1, 2, 3, 4),
    scale: float = 3.0,
    seed: int = 0,
    classes: Sequence[int] | None = None,
    directions: str | os.PathLike[str] | None = None,
    truncation: float = 1.0,
    device: torch.device | str | None = None,
) -> Path:
    """Show what moving along principal directions changes (GenInt, section 4.1), as in GANSpace's figures.

    Args:
        generator: a name from `genaug assets list`, a converted checkpoint, or a module, as the datasets take it.
        out: a picture such as .png has one row per component, with one image moved from -scale to scale. A .gif or .mp4
            shows the same movement in time, with one row per component and one column per image.
        components: numbers of the components; component 0 has the most variance.
        scale: maximum offset, in standard deviations along the direction.
        seed: random seed of noise and classes.
        classes: classes to draw from (default: all).
        directions: a name from `genaug assets list`, or a file of `Directions.save` or of GANSpace (default: the exact
            directions of `gen_z`).
        truncation: scale of the noise, in (0, 1].
        device: device of the generator (default: CPU, or the device of a module).

    Returns:
        The file that was written; without ffmpeg, an .mp4 becomes a .gif.

    Raises:
        ValueError: there are no components or one is not known, `scale` is negative, `truncation` is outside (0, 1],
            the generator does not have a class, or the directions belong to another generator.
        genaug.AssetError: the generator or the directions are not available.
        OSError: the folder of `out` cannot be written.
    """
    check_number("scale", scale)
    if not components:
        raise ValueError("components must not be empty")
    check_truncation(truncation)
    network, title, place = found_generator(generator, device)
    most = 1 + max(check_integer("components", component, 0) for component in components)
    latent = has_latent(network)
    if directions is None and not latent:
        shown = check_classes(classes, network.num_classes, names_of(network))[:ROWS]
        return _nuisance_walk(network, out, shown, components[0], seed, title, place)
    if directions is None:
        if most > network.z_dim:
            raise ValueError(f"components must be below the latent size, {network.z_dim}, got {most - 1}")
        found = fit_directions(network, components=most, truncation=truncation)
    else:
        found = Directions.load(asset_path(directions))
        found.check(network, None if latent else found.layer)
        if most > len(found):
            raise ValueError(f"components must be below {len(found)}, which {directions} has, got {most - 1}")
    known = torch.tensor(check_classes(classes, network.num_classes))
    animated = moves(out)
    count = ROWS if animated else 1
    z = noise_of(network, seed, torch.arange(count), truncation)
    labels = known[integers(seed, torch.arange(count), len(known), "class")]

    def moved(component: int, offset: float) -> Tensor:
        if not latent:
            return to_uint8(_steered(network, z, labels, found, component, offset, place))
        direction = found.vectors[component].expand(count, -1)
        distance = (offset * found.latent_stdev[component]).expand(count)
        z_moved = intervene(z, direction, distance, found.latent_centre[component].expand(count))
        return to_uint8(_images(network, z_moved, labels, truncation, place))

    offsets = torch.linspace(-scale, scale, FRAMES if animated else STEPS).tolist()
    title += f", {_signed(-scale)} to {scale:g} standard deviations"
    frames = [
        {f"component {c}": moved(c, offset) for c in components}
        for offset in progress(offsets, description="walk", unit="step")
    ]
    if animated:
        return save_animation(out, frames, title=title)
    rows = {row: torch.cat([frame[row] for frame in frames]) for row in frames[0]}
    save_sheet(out, rows, title=title, columns=[_signed(offset) for offset in offsets])
    return Path(out)


def save_image(path: str | os.PathLike[str], image: Tensor) -> None:
    """Write an image (3, H, W) uint8 to a file, whole or not at all. The suffix sets the format.

    Raises:
        ValueError: the suffix is not an image format.
        OSError: the folder cannot be written.
    """
    from torchvision.transforms.v2.functional import to_pil_image

    with atomic_path(path) as temporary:
        to_pil_image(image).save(temporary)


@torch.no_grad()
def made_parts(
    generator: Any, noise: Sequence[Tensor], labels: Sequence[Tensor], truncation: float
) -> dict[str, Tensor]:
    """Return the parts and composites of a batch by name, (B, 1 or 3, H, W) floats in [-1, 1], on the CPU.

    A generator with `parts` also shows its pre-mask, as in the figures of CGN's appendix.
    """
    made: dict[str, list[Tensor]] = {}
    chunks = [[part.split(AT_ONCE) for part in parts] for parts in (noise, labels)]
    with evaluating(generator):
        for z, y in zip(zip(*chunks[0], strict=True), zip(*chunks[1], strict=True), strict=True):
            shown: dict[str, Tensor] = {}
            if hasattr(generator, "parts"):
                premask, mask, texture, background = generator.parts(z, y, truncation)
                shown["pre-mask"] = premask
            else:
                mask, texture, background = generator.mechanisms(z, y, truncation)
            mask, texture, background = mask.float(), texture.float(), background.float()
            shown |= {"mask": mask * 2 - 1, "texture": texture, "background": background}
            shown["counterfactual"] = getattr(generator, "compose", compose)(mask, texture, background)
            for name, part in shown.items():
                made.setdefault(name, []).append(part.float().cpu())
    return {name: torch.cat(part) for name, part in made.items()}


def _class_name(generator: Any, label: int) -> str:
    names = names_of(generator)
    return names[label] if names else f"class {label}"


def _photographs(described: Mapping[str, Any]) -> str:
    """Return the files that a sample of a bank is made of, as a caption: the object's and the background's."""
    files = described.get("photographs", {})
    return f"{files['shape']}\non {files['background']}" if files else ""


def _captions(generator: Any, z: Tensor) -> list[str]:
    """Return the named nuisances of each sample, one per line, or nothing without names."""
    nuisances = getattr(generator, "nuisances", None)
    if not nuisances:
        return []
    return ["\n".join(nuisances.names(row).values()) for row in z[:, -len(nuisances) :].tolist()]


def _nuisance_walk(
    generator: Any, out: str | os.PathLike[str], labels: Sequence[int], factor: int, seed: int, title: str, place: Any
) -> Path:
    """Draw a sheet of do(nuisance) from one noise: one row per class and one column per value of a nuisance."""
    nuisances = generator.nuisances
    if not nuisances:
        raise ValueError(
            f"{title} has no named nuisances: give --directions, a file of Directions.save for one of its layers"
        )
    if factor >= len(nuisances):
        raise ValueError(f"components must be below {len(nuisances)}, the factors of its nuisances, got {factor}")
    if moves(out):
        raise ValueError("a walk through named nuisances is a picture: give a name that ends in .png")
    values = list(nuisances.factors.values())[factor]
    z = noise_of(generator, seed, torch.zeros(1, dtype=torch.int64), 1.0).repeat(len(values), 1)
    z[:, factor - len(nuisances)] = torch.arange(len(values))
    rows = {
        _class_name(generator, label): to_uint8(_images(generator, z, torch.full((len(z),), label), 1.0, place))
        for label in progress(labels, description="walk", unit="class")
    }
    save_sheet(out, rows, title=title, columns=values)
    return Path(out)


def _steered(
    generator: Any, z: Tensor, labels: Tensor, found: Directions, component: int, offset: float, place: torch.device
) -> Tensor:
    """Return images (B, 3, H, W) on the CPU with the layer's component set to an offset in standard deviations."""
    assert found.components is not None
    assert found.centre is not None
    assert found.layer is not None
    centre = found.centre[:, component].expand(generator.num_classes)[labels]
    if centre.isnan().any():
        raise ValueError("directions must know every class that is shown: fit them with more samples=")
    direction = found.components[component].to(place)
    distance = (offset * found.stdev[component]).expand(len(z)).to(place)

    def change(output: Tensor, rows: slice) -> Tensor:
        return intervene(output, direction.expand_as(output), distance[rows], centre.to(place)[rows])

    with torch.no_grad(), evaluating(generator):
        return steer(generator, found.layer, change, z.to(place), labels.to(place), 1.0).cpu()


def _signed(number: float) -> str:
    """Return a number with a minus sign instead of a hyphen, which is too short."""
    return f"{number:g}".replace("-", "\N{MINUS SIGN}")


def found_generator(
    generator: str | os.PathLike[str] | nn.Module, device: torch.device | str | None
) -> tuple[Any, str, torch.device]:
    """Return the module, its title and its device."""
    if not isinstance(generator, nn.Module):
        network = load_generator(generator, check_device("device", device))
        return network, Path(generator).name, generator_device(network)
    network = generator if device is None else generator.to(check_device("device", device))
    return network, type(generator).__name__, generator_device(network)


def _images(generator: Any, z: Tensor, labels: Tensor, truncation: float, device: torch.device) -> Tensor:
    """Return images on the CPU for noise that is already multiplied by the truncation."""
    with torch.no_grad(), evaluating(generator):
        z, labels = as_input(generator, z.to(device)), labels.to(device)
        parts = zip(z.split(AT_ONCE), labels.split(AT_ONCE), strict=True)
        return torch.cat([generator(*part, truncation).cpu() for part in parts])
