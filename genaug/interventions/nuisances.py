"""Named nuisances: properties, described in words, that can vary between images of a class without changing it.

A diffusion model gets its nuisances in words. So do(nuisance) is a draw from a list that is the same for every class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from genaug._common.arguments import check_choice
from genaug.interventions.random_streams import integers, permutation, seeds, uniform

# Phrases that fit after "a photo of a {label}, " for things one can photograph
NUISANCES: dict[str, tuple[str, ...]] = {
    "place": (
        "on grass",
        "on sand",
        "on snow",
        "on a rock",
        "on a road",
        "in a forest",
        "in a desert",
        "at the sea",
        "in the mountains",
        "in a city street",
        "in a parking lot",
        "in a living room",
        "in a kitchen",
        "on a wooden table",
        "in front of a brick wall",
        "in front of a white wall",
    ),
    "weather": ("on a clear day", "on a cloudy day", "in the rain", "in fog", "in falling snow"),
    "light": ("in bright light", "in soft light", "in backlight", "at sunset", "at night", "under a lamp"),
    "view": (
        "seen from the front",
        "seen from the side",
        "seen from behind",
        "seen from above",
        "close up",
        "far away",
    ),
}


class Nuisances:
    """Factors, each with the names of its values, and how often each value was observed with each class.

    Args:
        values: a list of names for one factor, called "nuisance"; a dict of lists, one for each factor; "default" for
            `NUISANCES`; None for no factor.
        observed: how often each value was seen with each class, for `balance="observed"`: a (num_classes, values)
            array of counts or shares, or, with several factors, a dict of them.
        num_classes: number of rows of `observed`.

    Raises:
        ValueError: a factor is empty or has a name twice, or `observed` has another shape or a row without counts.
        TypeError: the names are not strings.
    """

    def __init__(self, values: Any = None, observed: Any = None, num_classes: int = 0) -> None:
        if values is None:
            values = {}
        elif isinstance(values, str):
            check_choice("nuisances", values, ("default",))
            values = NUISANCES
        elif not isinstance(values, Mapping):
            values = {"nuisance": values}
        self.factors: dict[str, tuple[str, ...]] = {name: _names(name, rows) for name, rows in values.items()}
        self.observed = None if observed is None else self._checked(observed, num_classes)

    def _checked(self, observed: Any, num_classes: int) -> dict[str, Tensor]:
        if not isinstance(observed, Mapping) and len(self.factors) > 1:
            raise ValueError(
                f"observed must be a dict with a table for each of {', '.join(self.factors)}, got one table"
            )
        tables = observed if isinstance(observed, Mapping) else dict.fromkeys(self.factors, observed)
        if set(tables) != set(self.factors):
            raise ValueError(f"observed must have the factors {', '.join(self.factors)}, got {', '.join(tables)}")
        shares = {}
        for name, names in self.factors.items():
            table = torch.as_tensor(tables[name], dtype=torch.float64)
            if table.shape != (num_classes, len(names)):
                raise ValueError(
                    f"observed[{name!r}] must be of shape ({num_classes}, {len(names)}), classes by values, "
                    f"got {tuple(table.shape)}"
                )
            if not table.isfinite().all() or (table < 0).any() or not table.sum(1).all():
                raise ValueError(f"observed[{name!r}] must be counts or shares, with some in every row")
            shares[name] = table / table.sum(1, keepdim=True)
        return shares

    def __len__(self) -> int:
        """Return the number of factors."""
        return len(self.factors)

    def __repr__(self) -> str:
        return ", ".join(f"{name} ({len(values)})" for name, values in self.factors.items()) or "none"

    @property
    def combinations(self) -> int:
        """Return the number of combinations of values."""
        return math.prod(map(len, self.factors.values()))

    def names(self, numbers: Sequence[int]) -> dict[str, str]:
        """Return the name of each factor's value, for the indices (F,)."""
        return {factor: values[number] for (factor, values), number in zip(self.factors.items(), numbers, strict=True)}

    def check_balance(self, balance: str) -> None:
        """Raise ValueError for an unknown value of `balance`, and for "observed" without a table of observations."""
        check_choice("balance", balance, ("uniform", "observed"))
        if balance == "observed" and self.observed is None:
            raise ValueError(
                'balance="observed" needs the generator\'s observed=: how often each nuisance was seen with each '
                "class, a table of (num_classes, values)"
            )

    def draw(
        self,
        seed: int,
        positions: Tensor,
        *,
        labels: Tensor | None = None,
        per_group: int = 1,
        balance: str = "uniform",
        stream: str = "noise",
    ) -> Tensor:
        """Return the indices of the values of each sample, (B, F) int64 on the CPU.

        Args:
            seed: random seed.
            positions: (B,) int64, indices of the samples.
            labels: (B,) int64, their classes; needed only for `balance="observed"`.
            per_group: number of consecutive samples that form a group. In a group, each value of a factor comes up once
                before any comes up again.
            balance: "uniform" draws every value equally often for every class: do(nuisance). "observed" draws each
                value as often as it was observed with the sample's class: the biased control.
            stream: name of the draw.

        Raises:
            ValueError: as for `check_balance`.
        """
        self.check_balance(balance)
        positions = positions.cpu()
        if balance == "observed":
            assert self.observed is not None
            assert labels is not None
            columns = [
                _inverse(self.observed[factor][labels.cpu()], uniform(seed, positions, 1, f"{stream}/{factor}"))
                for factor in self.factors
            ]
        else:
            groups, place = positions // per_group, positions % per_group
            columns = [
                permutation(seed, groups, len(values), f"{stream}/{factor}").gather(1, (place % len(values))[:, None])[
                    :, 0
                ]
                for factor, values in self.factors.items()
            ]
        return torch.stack(columns, 1) if columns else positions.new_empty(len(positions), 0)


def worded_noise(nuisances: Nuisances, seed: int, indices: Tensor, stream: str) -> Tensor:
    """Return the noise of a generator that takes nuisances in words, (B, 2 + F) int64.

    Each row has a seed for the generator's own noise, a number in 0..2**31 - 1 that selects one of the class's
    photographs, and the indices of the nuisances' values. Arguments are as in `random_streams.uniform`.
    """
    photographs = integers(seed, indices, 2**31, f"{stream}/photograph")
    own = seeds(seed, indices, f"{stream}/seed")
    return torch.cat([torch.stack([own, photographs], 1), nuisances.draw(seed, indices, stream=stream)], 1)


def _inverse(shares: Tensor, draws: Tensor) -> Tensor:
    """Return the index (B,) whose share in (B, values) contains a uniform draw (B, 1); never one with share zero."""
    ends = shares.cumsum(1)
    return torch.searchsorted(ends / ends[:, -1:], draws, right=True)[:, 0].clamp(max=shares.shape[1] - 1)


def _names(factor: str, values: Any) -> tuple[str, ...]:
    if not isinstance(factor, str) or not factor.isidentifier() or factor == "label":
        raise ValueError(f"a factor of nuisances must have a name such as 'place', other than 'label', got {factor!r}")
    if isinstance(values, str) or not isinstance(values, Sequence) or not all(isinstance(v, str) for v in values):
        raise TypeError(f"nuisances of {factor!r} must be a list of strings, got {values!r:.60}")
    if not values:
        raise ValueError(f"nuisances of {factor!r} must not be empty")
    if len(set(values)) < len(values):
        twice = next(v for v in values if list(values).count(v) > 1)
        raise ValueError(f"nuisances of {factor!r} must differ, got {twice!r} twice")
    return tuple(values)
