"""Generatively intervened images as a map-style dataset (GenInt, section 4.1)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from genaug._common.arguments import check_choice, check_indices, check_integer, check_numbers
from genaug._common.names import COMPONENTS
from genaug.assets import asset_path
from genaug.datasets.generated import GeneratedDataset, Output
from genaug.generators.batches import in_batches
from genaug.generators.images import from_uint8, to_uint8
from genaug.interventions.directions import Directions
from genaug.interventions.fitting import fit_directions, noiseless_centre
from genaug.interventions.nuisances import Nuisances
from genaug.interventions.offsets import offset_ranges
from genaug.interventions.random_streams import integers, permutation, uniform
from genaug.interventions.steering import (
    as_input,
    evaluating,
    has_latent,
    intervene,
    isolated,
    noise_moments,
    noise_of,
    shift,
    steer,
)

if TYPE_CHECKING:
    import numpy as np


class GenerativeInterventionDataset(GeneratedDataset):
    """Images of a conditional generator, each with one principal direction of its latent set at random.

    X_int = I(t, s, k, Y') of GenInt, section 4.1. A noise and a class are drawn. One of the first k directions is
    chosen. The noise's component along it is replaced by a random offset that does not depend on the class.

    Sample i is a function of (seed, i) alone. It does not depend on the batch, the worker, the process or the order. It
    is bitwise identical on a CPU, and within one gray level on a GPU in float32 (not run). On a GPU a batch is one
    generator call. On a CPU the generator gets 8 images at a time.

    Args:
        generator: a name from `genaug assets list`, the path of a converted checkpoint, or a module. A module needs
            `z_dim`, `num_classes`, `image_size` and `forward(z, labels, truncation)`. The method takes noise (B, z_dim)
            in the module's dtype, already multiplied by the truncation, and labels (B,), and returns images (B, 3, H,
            W) in [-1, 1]. The attribute `noise` declares the noise (default: "normal"; see `generators.protocol`). The
            module is called in evaluation mode. Its layers are its submodules, or what its methods `activation` and
            `from_activation` define (see `interventions.steering.steer`).
        length: number of samples. Images are made on request, so any length is free.
        seed: random seed.
        classes: classes to draw from (default: all).
        truncation: t, scale of the noise, in (0, 1]. Lower values give more typical and less varied images.
        components: k, number of directions to intervene on. 0 means observational sampling, where every sample has its
            own noise. This is the baseline that the paper calls GAN augmentation.
        scale: s, range of the offset, in standard deviations along the direction. A number s means [-s, s], a pair
            gives both ends. Offsets are uniform. The standard deviation is that of the noise the directions were fitted
            with, or of the dataset's own noise if directions is None. "released" takes the released code's range for
            each of 60 components, in the latent's own units. These ranges were set by eye for the released code's own
            directions of BigGAN-deep, whose signs are not known. The range of component 51, [6, 12], is as released.
        interventions_per_noise: number of consecutive samples that share noise and label (default: 5, as in the
            released code). Their components differ, up to the number of components.
        mode: "latent" (the released code) sets the component of the noise. "activation" (the paper's equation) sets the
            component of a layer's output, from which the generator continues. If the layer is linear in the noise, its
            output is the same in both modes. The images are the same if the noise enters nowhere else. In BigGAN, later
            layers get the noise in their batch norms. "latent" also changes these, as the paper's step back to the
            noise by regression does.
        layer: layer whose principal components are used.
        balance: for generators with named nuisances. "uniform" draws each nuisance in the same way for every class,
            do(nuisance). "observed" draws them with the frequencies of the class in the generator's `observed` table:
            the biased control. The samples of one noise have different nuisances, up to the number of values.
        recognized_by: a classifier that maps (B, 3, H, W) in [-1, 1] to logits (B, num_classes). If it assigns a sample
            to another class, the sample's noise and nuisances are drawn again.
        draws: largest number of draws per sample. The last one is kept, recognized or not.
        targets: "label" for the class, an int, or "all" for a dict of "label" and the index of each nuisance's value.
        directions: None for the exact ones, if the layer is linear in the noise; a name from `genaug assets list`; a
            file of `Directions.save` or of GANSpace; an array (k, z_dim) of latent directions; or `Directions`. With
            mode="activation", sampled directions work for the classes that the fit had samples of.
        device: device of generation and of the returned images (default: CPU, or the device of a module).
        dtype: floating-point type of the generator (default: float32).
        batch_size: largest number of images in one generator call on a GPU. Limits memory; does not change the images.
        transform: applied to each image, a `tv_tensors.Image` or, with output="pil", a PIL image.
        target_transform: applied to each target.
        output: "tensor" for uint8 `tv_tensors.Image` (3, H, W), or "pil" for PIL images.

    Raises:
        ValueError, TypeError: an argument is out of its range or of another type; the message names it.
        genaug.AssetError: a name is unknown, or its file is missing, damaged or of another kind.
    """

    @isolated()
    def __init__(
        self,
        generator: str | os.PathLike[str] | nn.Module,
        length: int = 1_000_000,
        seed: int = 0,
        classes: Sequence[int] | None = None,
        truncation: float = 1.0,
        components: int = COMPONENTS,
        scale: float | tuple[float, float] | Literal["released"] = 1.0,
        interventions_per_noise: int = 5,
        mode: Literal["latent", "activation"] = "latent",
        layer: str = "gen_z",
        directions: str | os.PathLike[str] | Directions | Tensor | np.ndarray | None = None,
        balance: Literal["uniform", "observed"] = "uniform",
        recognized_by: Callable[[Tensor], Tensor] | None = None,
        draws: int = 10,
        targets: Literal["label", "all"] = "label",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int = 64,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        output: Output = "tensor",
    ) -> None:
        components = check_integer("components", components, 0)
        interventions_per_noise = check_integer("interventions_per_noise", interventions_per_noise, 1)
        check_choice("mode", mode, ("latent", "activation"))
        check_choice("targets", targets, ("label", "all"))
        check_integer("draws", draws, 1)
        self._ranges = offset_ranges(scale, components)
        super().__init__(
            generator,
            length=length,
            seed=seed,
            classes=classes,
            truncation=truncation,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            transform=transform,
            target_transform=target_transform,
            output=output,
        )
        self.nuisances: Nuisances = getattr(self._network, "nuisances", None) or Nuisances()
        self.balance = balance
        self.nuisances.check_balance(balance)
        if mode == "latent" and directions is None and not has_latent(self._network):
            if components and not self.nuisances:
                raise ValueError(
                    f'{self.generator_name} must have nuisances=, or mode="activation" and directions of '
                    "fit_directions(samples=...), for there to be interventions; components=0 samples without any"
                )
            components = 0
        self.recognized_by, self.draws, self.targets = recognized_by, draws, targets
        self._known_draws: dict[int, int] = {}
        self.components = components
        self.scale = scale
        if not components:  # samples of one noise differ only in nuisances, at most as many as a factor has values
            values = self.nuisances.factors.values()
            interventions_per_noise = min(interventions_per_noise, max(map(len, values), default=1))
        self.interventions_per_noise = interventions_per_noise
        self.mode = mode
        self.layer = layer
        self.directions = self._checked_directions(directions) if components else None
        self._source = "exact"
        if directions is not None:
            named = isinstance(directions, (str, os.PathLike))
            self._source = os.fspath(directions) if named else type(directions).__name__  # type: ignore[arg-type]
        self._centre = self._found_centre()
        self._placed: Tensor | None = None

    def _checked_directions(self, directions: Any) -> Directions:
        latent, size = has_latent(self._network), self._network.z_dim
        if hasattr(self._network, "mechanisms") and self.layer not in dict(self._network.named_modules()):
            raise TypeError(
                f"generator must have one noise, which {self.layer} takes, but {self.generator_name} has mechanisms "
                "with noise of their own: CounterfactualDataset takes it"
            )
        if latent and self.components > size:
            raise ValueError(f"components must be at most the latent size, {size}, got {self.components}")
        if directions is None:
            return fit_directions(self._network, self.layer, self.components, truncation=self.truncation)
        if isinstance(directions, (str, os.PathLike)):
            directions = Directions.load(asset_path(directions))
        elif not isinstance(directions, Directions):
            directions = Directions(directions)
            # An array does not say which noise it was fitted with, so unit and center are those of the dataset's noise.
            mean, deviation = noise_moments(self._network, self.truncation)
            directions.latent_stdev.fill_(deviation)
            directions.stdev.fill_(deviation)
            directions.latent_centre = mean * directions.vectors.sum(1)
        directions.check(self._network, self.layer if self.mode == "activation" else None)
        if self.components > len(directions):
            raise ValueError(f"components must be at most the {len(directions)} directions, got {self.components}")
        return directions

    def _found_centre(self) -> Tensor | None:
        """Return the mean's coordinates along each direction, (num_classes or 1, k), computed once for all workers."""
        d = self.directions
        if d is None or self.mode == "latent":
            return None if d is None else d.latent_centre[None]
        if d.centre is not None:
            # A single row is the same mean for every class.
            unknown = [c for c in self.classes if len(d.centre) > 1 and d.centre[c].isnan().any()]
            if unknown:
                raise ValueError(
                    f"directions know no mean of {len(unknown)} of the classes, {unknown[0]} among them: "
                    "fit them with these among its classes= and with more samples=, or leave them out by classes="
                )
            return d.centre
        return noiseless_centre(self._network, self.layer, d.components, self.truncation, self.batch_size)

    @isolated()
    def labels(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Return the classes of these samples, (B,) int64 on the device."""
        return self._labels(check_indices(indices, self.length)).to(self.device)

    @isolated()
    def interventions(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Return the component that was set for each sample, (B,) int64, and its value, (B,) float64, on the CPU.

        `describe` names the unit of the values.

        Raises:
            ValueError: the dataset is observational, with components=0.
        """
        if not self.components:
            raise ValueError("components must be at least 1 for there to be interventions, but is 0")
        return self._interventions(check_indices(indices, self.length))

    @isolated()
    def moved(
        self,
        noise: int | Sequence[int] | Tensor,
        offsets: Mapping[int, float] | None = None,
        nuisances: Mapping[str, str] | None = None,
    ) -> Tensor:
        """Return images of chosen noise, moved along several directions at once.

        An offset is added to the drawn component, so that 0 changes nothing. The dataset's interventions replace the
        component instead.

        Args:
            noise: numbers of the noise, (B,), at least 0, as in "noise_index" of `describe`.
            offsets: component -> distance along its direction, in the dataset's unit (default: standard deviations).
            nuisances: factor -> name of its value. Other factors keep their drawn value.

        Returns:
            (B, 3, H, W) uint8 on the device.

        Raises:
            ValueError: a number, a component or a nuisance is not known, or mode is "activation".
            TypeError: numbers are not integers.
        """
        if self.mode != "latent":
            raise ValueError(f'mode must be "latent" to move the noise, got {self.mode!r}')
        numbers = check_numbers("noise", noise)
        return torch.cat([self._moved(part, offsets or {}, nuisances or {}) for part in numbers.split(self.batch_size)])

    def _moved(self, numbers: Tensor, offsets: Mapping[int, float], nuisances: Mapping[str, str]) -> Tensor:
        positions = numbers * self.interventions_per_noise
        z = self._noise_of_draw(positions, numbers, 0).to(self.device)
        labels = self._labels(positions).to(self.device)
        for component, offset in offsets.items():
            check_integer("component", component, 0, self.components - 1)
            distance = (offset * self._units()[0][component]).to(self.device)
            z = shift(z, self._rows()[component].expand_as(z), distance.expand(len(z)))
        for factor, value in nuisances.items():
            check_choice("nuisances", factor, self.nuisances.factors)
            values = self.nuisances.factors[factor]
            check_choice(factor, value, values)
            z[:, list(self.nuisances.factors).index(factor) - len(self.nuisances)] = values.index(value)
        with self._generating():
            images = self._call(self._generate, z, labels)
        if not images.isfinite().all():
            raise ValueError(f"images must be finite, got NaN or infinity for offsets {dict(offsets)}")
        return to_uint8(self._check_part("images", images, len(numbers), 3, -1, 1))

    @isolated()
    def factors(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Return the class of each sample as "label", and the index of each nuisance's value by the name of its factor.

        All are (B,) int64 on the device, the format of `group_accuracy`. `nuisances.factors` has the names of the
        values.
        """
        positions = check_indices(indices, self.length)
        drawn = self._drawn(positions)
        numbers = self._noise(positions, drawn)[:, -len(self.nuisances) :].unbind(1) if self.nuisances else ()
        columns = {"label": self._labels(positions), **dict(zip(self.nuisances.factors, numbers, strict=True))}
        return {name: column.to(self.device) for name, column in columns.items()}

    def _targets(self, indices: Sequence[int] | Tensor) -> list[Any]:
        if self.targets == "label":
            return self.labels(indices).tolist()
        columns = {name: column.tolist() for name, column in self.factors(indices).items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    @isolated()
    def descriptions(self, indices: Sequence[int] | Tensor) -> list[dict[str, Any]]:
        """Return the metadata of these samples: labels, noise indices, components and offsets, JSON-serializable.

        `offset` is in standard deviations along the direction, or, with scale="released", in the latent's own units.
        """
        positions = check_indices(indices, self.length)
        nothing: list[Any] = [None] * len(positions)
        chosen, offsets = [v.tolist() for v in self._interventions(positions)] if self.components else [nothing] * 2
        labels = self._labels(positions).tolist()
        more: list[dict[str, Any]] = [{} for _ in labels]
        drawn = self._drawn(positions)
        if self.recognized_by is not None:
            more = [{"draws": draw + 1} for draw in drawn.tolist()]
        if hasattr(self._network, "describe"):
            noise = self._noise(positions, drawn).to(self.device)
            said = self._network.describe(noise, self._labels(positions).to(self.device))
            more = [{**a, **b, "balance": self.balance} for a, b in zip(said, more, strict=True)]
        return [
            {
                "generator": self.generator_name,
                "seed": self.seed,
                "index": index,
                "label": label,
                # the noise is a function of (seed, this number)
                "noise_index": index // self.interventions_per_noise,
                "component": component,
                "offset": offset,
                "offset_unit": "latent" if self.scale == "released" else "stdev",
                "mode": self.mode,
                "layer": self.layer,
                "directions": self._source,
                "truncation": self.truncation,
                **added,
            }
            for index, label, component, offset, added in zip(
                positions.tolist(), labels, chosen, offsets, more, strict=True
            )
        ]

    def _labels(self, positions: Tensor) -> Tensor:
        drawn = integers(self.seed, positions // self.interventions_per_noise, len(self.classes), "label")
        return torch.tensor(self.classes)[drawn]

    def _interventions(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return each sample's component, (B,) int64, and its offset in the unit of `scale`, (B,) float64."""
        groups, place = positions // self.interventions_per_noise, positions % self.interventions_per_noise
        # The samples of one noise take components in a random order, so that none repeats before all were used.
        orders = permutation(self.seed, groups, self.components, "component")
        components = orders.gather(1, place[:, None] % self.components)[:, 0]
        low, high = self._ranges[components].unbind(1)
        return components, low + (high - low) * uniform(self.seed, positions, 1, "offset")[:, 0]

    def _rows(self) -> Tensor:
        """Return the directions, (k, ...) on the device."""
        if self._placed is None:
            assert self.directions is not None
            rows = self.directions.vectors if self.mode == "latent" else self.directions.components
            self._placed = rows[: self.components].to(self.device)
        return self._placed

    def _units(self) -> tuple[Tensor, Tensor]:
        """Return the length of an offset of 1 along each direction, (k,), and the coordinates of the mean."""
        d, centre = self.directions, self._centre
        assert d is not None
        assert centre is not None
        unit = d.latent_stdev if self.mode == "latent" else d.stdev
        if self.scale == "released":
            unit = unit / d.latent_stdev
        return unit[: self.components], centre[:, : self.components]

    def _noise(self, positions: Tensor, drawn: Tensor) -> Tensor:
        """Return the noise (B, z_dim), on the CPU, of samples (B,) and their draws (B,), counted from 0."""
        groups = positions // self.interventions_per_noise
        z = self._noise_of_draw(positions, groups, 0)
        for draw in drawn[drawn > 0].unique().tolist():
            rows = drawn == draw
            z[rows] = self._noise_of_draw(positions[rows], groups[rows], draw)
        return z

    def _noise_of_draw(self, positions: Tensor, groups: Tensor, draw: int) -> Tensor:
        if draw:  # a repeated draw has its own noise, which it does not share with other samples of the same noise
            stream, groups = f"noise/draw {draw}", positions
        else:
            stream = "noise"
        z = noise_of(self._network, self.seed, groups, self.truncation, stream)
        if self.nuisances:
            z[:, -len(self.nuisances) :] = self.nuisances.draw(
                self.seed,
                positions,
                labels=self._labels(positions),
                per_group=1 if draw else self.interventions_per_noise,
                balance=self.balance,
                stream=f"{stream} of nuisances",
            )
        return z

    def _drawn(self, positions: Tensor) -> Tensor:
        """Return the index of each sample's draw, (B,): 0, unless a classifier filters draws.

        In that case, the images have to be made, unless they were just made.
        """
        if self.recognized_by is None:
            return torch.zeros_like(positions)
        known = dict(self._known_draws)  # the draws of the last images, because rendering also describes each image
        unknown = positions[[position not in known for position in positions.tolist()]]
        for part in unknown.split(self.batch_size) if len(unknown) else ():
            known.update(zip(part.tolist(), self._accepted(part)[1].tolist(), strict=True))
        return torch.tensor([known[position] for position in positions.tolist()]).long()

    def _make(self, positions: Tensor) -> Tensor:
        if self.recognized_by is not None:
            return self._accepted(positions)[0]
        return self._made(positions, torch.zeros_like(positions))

    def _accepted(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image of each sample's first draw that the classifier recognizes, and the index of this draw."""
        drawn = torch.zeros_like(positions)
        images = self._made(positions, drawn)
        waiting = torch.arange(len(positions))
        while True:
            shown = images[waiting.to(self.device)]
            waiting = waiting[~self._recognized(shown, self._labels(positions[waiting]))]
            waiting = waiting[drawn[waiting] < self.draws - 1]
            if not len(waiting):
                self._known_draws = dict(zip(positions.tolist(), drawn.tolist(), strict=True))
                return images, drawn
            drawn[waiting] += 1
            images[waiting.to(self.device)] = self._made(positions[waiting], drawn[waiting])

    def _recognized(self, images: Tensor, labels: Tensor) -> Tensor:
        classifier: Any = self.recognized_by
        module = evaluating(classifier) if isinstance(classifier, nn.Module) else nullcontext()
        with module:
            logits = in_batches(classifier, from_uint8(images))
        if logits.shape != (len(labels), self._network.num_classes):
            raise ValueError(
                f"recognized_by must return logits of shape ({len(labels)}, {self._network.num_classes}), "
                f"got {tuple(logits.shape)}"
            )
        return logits.argmax(1).cpu() == labels

    def _made(self, positions: Tensor, drawn: Tensor) -> Tensor:
        """Make the images of these samples and draws."""
        labels = self._labels(positions)
        inputs = [self._noise(positions, drawn), labels]
        if self.components:
            chosen, offsets = self._interventions(positions)
            unit, centre = self._units()
            means = centre.expand(self._network.num_classes, -1)[labels, chosen]
            inputs += [chosen, (offsets * unit[chosen]).float(), means]
        with self._generating():
            images = self._call(self._generate, *(column.to(self.device) for column in inputs))
        images = self._check_part("images", images, len(positions), 3, -1, 1)
        self._first = False
        return self._pixels(images, positions)

    def _made_of(self, index: int) -> dict[str, Any]:
        positions = torch.tensor([index])
        made = {"label": int(self._labels(positions)), "scale": self.scale, "truncation": self.truncation}
        if self.components:
            chosen, offsets = self._interventions(positions)
            made |= {"component": int(chosen), "offset": float(offsets)}
        return made

    def _generate(self, z: Tensor, labels: Tensor, *intervention: Tensor) -> Tensor:
        if not intervention:
            return self._network(as_input(self._network, z), labels, self.truncation)
        chosen, offsets, centre = intervention
        rows = self._rows()[chosen]
        if self.mode == "latent":
            z = intervene(z, rows, offsets, centre)
            return self._network(as_input(self._network, z), labels, self.truncation)

        def change(output: Tensor, part: slice) -> Tensor:
            return intervene(output, rows[part], offsets[part], centre[part])

        return steer(self._network, self.layer, change, z, labels, self.truncation)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_placed": None}

    def _lines(self) -> list[str]:
        words = [f"Nuisances: {self.nuisances}", f"Balance: {self.balance}"] if self.nuisances else []
        if not self.components:
            return words or ["Components: 0 (observational)"]
        return [
            *words,
            f"Components: {self.components}",
            f"Scale: {self.scale}",
            f"Interventions per noise: {self.interventions_per_noise}",
            f"Mode: {self.mode}",
            f"Directions: {self.directions}",
        ]
