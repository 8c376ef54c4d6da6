"""Counterfactual and generatively intervened images for training classifiers that do not take shortcuts.

The public names load on first use, so that importing the package costs nothing: no weights, no torch, no CUDA.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from genaug._common.moved import MovedModules

if TYPE_CHECKING:
    from genaug.assets import AssetError as AssetError
    from genaug.datasets.colored_mnist import ColoredMNIST as ColoredMNIST
    from genaug.datasets.colored_mnist import DoubleColoredMNIST as DoubleColoredMNIST
    from genaug.datasets.colored_mnist import WildlifeMNIST as WildlifeMNIST
    from genaug.datasets.counterfactual import CounterfactualDataset as CounterfactualDataset
    from genaug.datasets.generative_intervention import GenerativeInterventionDataset as GenerativeInterventionDataset
    from genaug.datasets.rendered import RenderedDataset as RenderedDataset
    from genaug.generators import load_generator as load_generator
    from genaug.interventions.directions import Directions as Directions
    from genaug.interventions.fitting import fit_directions as fit_directions
    from genaug.models.multi_head_resnet import MultiHeadClassifier as MultiHeadClassifier
    from genaug.models.multi_head_resnet import MultiHeadResNet as MultiHeadResNet
    from genaug.photographs.bank import PhotographBank as PhotographBank
    from genaug.training.losses import GenIntLoss as GenIntLoss
    from genaug.training.losses import MultiHeadLoss as MultiHeadLoss
    from genaug.training.mixing import MixedLoader as MixedLoader
    from genaug.transforms.background_swap import BackgroundSwap as BackgroundSwap
    from genaug.transforms.style_transfer import StyleTransferIntervention as StyleTransferIntervention

__version__ = "0.1.0"

_HOMES = {
    "AssetError": "genaug.assets",
    "BackgroundSwap": "genaug.transforms.background_swap",
    "ColoredMNIST": "genaug.datasets.colored_mnist",
    "CounterfactualDataset": "genaug.datasets.counterfactual",
    "Directions": "genaug.interventions.directions",
    "DoubleColoredMNIST": "genaug.datasets.colored_mnist",
    "GenIntLoss": "genaug.training.losses",
    "GenerativeInterventionDataset": "genaug.datasets.generative_intervention",
    "MixedLoader": "genaug.training.mixing",
    "MultiHeadLoss": "genaug.training.losses",
    "MultiHeadClassifier": "genaug.models.multi_head_resnet",
    "MultiHeadResNet": "genaug.models.multi_head_resnet",
    "PhotographBank": "genaug.photographs.bank",
    "RenderedDataset": "genaug.datasets.rendered",
    "StyleTransferIntervention": "genaug.transforms.style_transfer",
    "WildlifeMNIST": "genaug.datasets.colored_mnist",
    "fit_directions": "genaug.interventions.fitting",
    "load_generator": "genaug.generators",
}

__all__ = [*_HOMES, "__version__"]

sys.meta_path.insert(0, MovedModules())  # first: a folder that a checkout has left counts as a package


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name == "evaluation":  # the measures are promised as genaug.evaluation.<measure>
        return importlib.import_module("genaug.evaluation")
    raise AttributeError(f"module 'genaug' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
