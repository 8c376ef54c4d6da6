"""Train a classifier on photographs and generated images: `train(Settings(...))` is `genaug train classifier`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genaug.training.classifier.loop import train as train
    from genaug.training.classifier.settings import Settings as Settings
    from genaug.training.classifier.settings import Source as Source

_HOMES = {"Settings": "settings", "Source": "settings", "train": "loop"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:  # import on first use: the loop imports the Hub's library, which digits do not need
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
