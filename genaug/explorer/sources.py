"""The generators that the page offers, and the controls of each."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genaug._common.arguments import check_choice, check_device
from genaug._common.files import list_images
from genaug.assets import ASSETS, KINDS
from genaug.datasets.generated import names_of
from genaug.generators import load_generator
from genaug.interventions.blending import BLENDS
from genaug.interventions.steering import has_latent, noise_kind
from genaug.photographs.bank import PhotographBank

DEFAULT = "cgn-double-colored-mnist"
COMPONENTS = 8  # directions with a slider
REPORT_FILES = ("audit.json", "comparison.json")  # beside a report's index.html


@dataclass(frozen=True)
class Traits:
    """The properties of a generator that can be changed.

    Attributes:
        name: the name that it was asked for by.
        counterfactual: whether it makes shape, texture and background separately.
        bank: whether it is a bank of photographs.
        num_classes: number of classes; they are 0 to num_classes - 1.
        class_names: one name per class.
        image_size: height and width of its images, in pixels.
        truncated: whether truncation changes its images.
        default_tie: factors that are tied at first.
        components: number of principal directions that have a slider.
        nuisances: factor -> names of its values.
        own_settings: whether it is a bank that was saved with a placement or blends.
    """

    name: str
    counterfactual: bool
    bank: bool
    num_classes: int
    class_names: tuple[str, ...]
    image_size: int
    truncated: bool
    default_tie: tuple[str, ...]
    components: int
    nuisances: Mapping[str, tuple[str, ...]]
    own_settings: bool = False

    @property
    def ways(self) -> list[int | str]:
        """Return what a walk can move along: components and nuisances."""
        return [*range(self.components), *self.nuisances]

    @property
    def walks(self) -> bool:
        return bool(self.ways)


def traits_of(name: str, generator: Any) -> Traits:
    """Return the properties of a generator that can be changed."""
    counterfactual = hasattr(generator, "mechanisms")
    latent = has_latent(generator)
    named = names_of(generator)
    nuisances = getattr(generator, "nuisances", None)
    return Traits(
        name=name,
        counterfactual=counterfactual,
        bank=isinstance(generator, PhotographBank),
        num_classes=generator.num_classes,
        class_names=tuple(map(str, named or range(generator.num_classes))),
        image_size=generator.image_size,
        truncated=latent and noise_kind(generator) != "uniform",
        default_tie=tuple(getattr(generator, "default_tie", ())) if counterfactual else (),
        components=min(COMPONENTS, generator.z_dim) if latent and not counterfactual else 0,
        nuisances=dict(nuisances.factors) if nuisances else {},
        own_settings=isinstance(generator, PhotographBank)
        and (generator.placement is not None or generator.blend != BLENDS),
    )


class Sources:
    """The embedded generators and the given one, by name. Each is loaded once.

    Args:
        given: a name from `genaug assets list`, a converted checkpoint, a bank, or None.
        device: device of the generators (default: CPU).

    Raises:
        genaug.AssetError: the generator is not available.
        ValueError: the path holds photographs or something else that is not a generator.
    """

    def __init__(self, given: str | None = None, device: str | None = None) -> None:
        embedded = [row.name for row in ASSETS.values() if row.embedded and KINDS[row.kind].generates]
        first = given or DEFAULT
        self.names = tuple(dict.fromkeys([first, *sorted(embedded, key=lambda name: name != DEFAULT)]))
        self.device = check_device("device", device)
        self._lock = threading.Lock()
        self._held: dict[str, tuple[Any, Traits]] = {}
        if given is not None:
            check_is_generator(given)
        self._held[first] = self._loaded(first)

    @property
    def first(self) -> str:
        return self.names[0]

    def generator(self, name: str) -> Any:
        """Return the generator of this name; raises ValueError for one that the page does not offer."""
        return self._get(name)[0]

    def traits(self, name: str) -> Traits:
        """Return the properties of the generator that can be changed; errors as `generator`."""
        return self._get(name)[1]

    def _get(self, name: str) -> tuple[Any, Traits]:
        check_choice("generator", name, self.names)  # a link must not open any other file
        with self._lock:
            if name not in self._held:
                self._held[name] = self._loaded(name)
            return self._held[name]

    def _loaded(self, name: str) -> tuple[Any, Traits]:
        generator = load_generator(name, self.device)
        return generator, traits_of(name, generator)


def is_report(path: str | os.PathLike[str]) -> bool:
    """Return whether a folder is a report of `genaug audit`."""
    folder = Path(path)
    return (folder / "index.html").is_file() and any((folder / name).is_file() for name in REPORT_FILES)


def check_is_generator(path: str) -> None:
    """Raise ValueError for a folder of photographs, and say how to make a bank of it first."""
    folder = Path(path)
    if folder.is_dir() and not any((folder / kind.marker).is_file() for kind in KINDS.values() if kind.marker):
        subfolders = [entry for entry in sorted(folder.iterdir()) if entry.is_dir()]
        if any(list_images(entry) for entry in subfolders[:3]):
            raise ValueError(
                f"{path} is a folder of photographs, not a bank. Cut the objects out first: "
                f"genaug cutouts {path} --out bank, then genaug explore bank"
            )
