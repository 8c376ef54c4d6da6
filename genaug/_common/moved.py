"""Old import paths that were documented. They still work, with a warning, and will be removed after one release."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "genaug.generators.conditional_digits": "genaug.generators.digits_vae",
    "genaug.plotting": "genaug.pictures",
    "genaug.recipes": "genaug.papers",
    "genaug.recipes.samples": "genaug.pictures.samples",
    "genaug.training.baselines": "genaug.papers.irm",
    "genaug.training.objectives": "genaug.training.losses",
}


class MovedModules:
    """Find and load modules under their old names. The standard base classes are left out: their import takes 10 ms."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in MOVED else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        old, new = module.__name__, MOVED[module.__name__]
        warnings.warn(f"{old} has moved to {new}", DeprecationWarning, stacklevel=2)
        found = importlib.import_module(new)
        for inner, place in MOVED.items():
            package, _, name = inner.rpartition(".")
            if package == old:  # for `from genaug.recipes import samples`
                setattr(found, name, importlib.import_module(place))
        sys.modules[old] = found  # the import statement returns the module from here
