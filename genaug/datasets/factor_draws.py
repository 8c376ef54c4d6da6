"""The class and the noise of each factor of a counterfactual sample, as functions of (seed, index) alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genaug.datasets.factors import FACTORS, Backgrounds, Factor
from genaug.interventions.random_streams import integers, uniform

REFRESHED_EVERY = 64  # samples; it does not depend on `batch_size`, which must not change the images


@dataclass(frozen=True)
class FactorDraws:
    """The arguments of a dataset that determine its draws; see `CounterfactualDataset`. All tensors are on the CPU.

    A sample has a source for each factor: the number of its draw, or of its entry in the pool. The source determines
    the factor's class and noise. With backgrounds="other" or "same", the background's class also depends on that of the
    shape.
    """

    seed: int
    num_classes: int
    classes: Mapping[str, list[int]] | list[int]
    counterfactuals_per_noise: int
    tie: Sequence[Factor]
    backgrounds: Backgrounds
    pool: int | None
    refresh: float
    shared_noise: bool

    def lead(self, factor: str) -> str:
        """Return the factor whose label and draw this factor shares."""
        return self.tie[0] if factor in self.tie else factor

    def sources(self, positions: Tensor) -> dict[str, Tensor]:
        """Return the source of each factor for samples (B,)."""
        groups = positions // self.counterfactuals_per_noise
        indices = {"shape": groups, "texture": positions, "background": positions}
        indices = {name: indices[self.lead(name)] for name in FACTORS}
        if self.pool is None:
            return indices
        begin = self.begin(positions)
        entries = {
            name: begin + integers(self.seed, index, self.pool, f"{self.lead(name)} entry")
            for name, index in indices.items()
        }
        if self.backgrounds != "any":
            entries["background"] = self._related_entries(entries["shape"], begin, positions)
        return entries

    def begin(self, positions: Tensor) -> Tensor:
        """Return the first pool entry that each sample draws from. Samples that share a shape have the same one."""
        steps = positions // self.counterfactuals_per_noise * self.counterfactuals_per_noise // REFRESHED_EVERY
        return (steps.double() * (self.refresh * (self.pool or 0))).long()

    def labels(self, factor: str, sources: Tensor) -> Tensor:
        """Return the classes (B,) that a factor draws independently for these sources."""
        classes = self._classes(factor)
        return torch.tensor(classes)[integers(self.seed, sources, len(classes), f"{self.lead(factor)} label")]

    def labels_of(self, sources: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the classes of the samples with these sources."""
        labels = {name: self.labels(name, source) for name, source in sources.items()}
        if self.pool is None and self.backgrounds == "same":
            labels["background"] = labels["shape"]
        elif self.pool is None and self.backgrounds == "other":
            labels["background"] = self._other_labels(labels["shape"], sources["background"])
        return labels

    def noise_of(self, factor: str, sources: Tensor) -> tuple[str, Tensor]:
        """Return the name of the factor's noise stream, and the number of the noise for each of these sources."""
        lead = self.lead(factor)
        if not self.shared_noise:
            return lead, sources
        return "shape", sources if lead == "shape" else sources // self.counterfactuals_per_noise

    def check_pool(self) -> None:
        """Raise ValueError if the first pool has no background of the right class for one of its shapes."""
        if self.pool is not None and self.backgrounds != "any":
            entries = torch.arange(self.pool)
            self._related_entries(entries, torch.zeros_like(entries), entries)

    def _classes(self, factor: str) -> list[int]:
        """Return the classes from which the label of this factor is drawn."""
        return self.classes[self.lead(factor)] if isinstance(self.classes, Mapping) else self.classes

    def _other_labels(self, shapes: Tensor, sources: Tensor) -> Tensor:
        """Return a background class for each sample, drawn uniformly from the classes other than the shape's."""
        classes = torch.tensor(self._classes("background"))
        draws = uniform(self.seed, sources, 1, "background label")[:, 0]
        labels = torch.empty_like(sources)
        for shape in shapes.unique():
            here, others = shapes == shape, classes[classes != shape]
            labels[here] = others[(draws[here] * len(others)).long()]
        return labels

    def _related_entries(self, shapes: Tensor, begin: Tensor, positions: Tensor) -> Tensor:
        """Return pool entries whose background has the shape's class ("same") or another ("other"), drawn uniformly."""
        assert self.pool is not None
        wanted, draws = self.labels("shape", shapes), uniform(self.seed, positions, 1, "background entry")[:, 0]
        entries = torch.empty_like(positions)
        for first in begin.unique():
            here = begin == first
            labels = self.labels("background", first + torch.arange(self.pool))
            order = labels.argsort(stable=True)  # in this order, the entries of each class are consecutive
            counts = torch.bincount(labels, minlength=self.num_classes)
            runs, own = (counts.cumsum(0) - counts)[wanted[here]], counts[wanted[here]]
            eligible = own if self.backgrounds == "same" else self.pool - own
            if (eligible == 0).any():
                label = int(wanted[here][eligible == 0][0])
                kind = "class" if self.backgrounds == "same" else "another class than"
                raise ValueError(
                    f"pool must hold a background of {kind} {label} for backgrounds={self.backgrounds!r}, got "
                    f"{self.pool} entries without one. Use a larger pool."
                )
            number = (draws[here] * eligible).long()
            number = number + (runs if self.backgrounds == "same" else (number >= runs) * own)
            entries[here] = first + order[number]
        return entries
