"""What is measured of a trained model: one file a measure."""

from genaug.evaluation.accuracy import accuracy
from genaug.evaluation.background_gap import background_gap
from genaug.evaluation.imagenet import (
    imagenet,
    imagenet_a,
    imagenet_r,
    imagenet_sketch,
    imagenet_v2,
    objectnet,
)
from genaug.evaluation.invariance import invariance
from genaug.evaluation.models import load_classifier
from genaug.evaluation.scoring import preprocessing, score
from genaug.evaluation.shape_bias import plot_shape_bias, shape_bias, shape_bias_from_decisions
from genaug.evaluation.suites import SUITES, evaluate

__all__ = [
    "SUITES",
    "accuracy",
    "background_gap",
    "evaluate",
    "imagenet",
    "imagenet_a",
    "imagenet_r",
    "imagenet_sketch",
    "imagenet_v2",
    "invariance",
    "load_classifier",
    "objectnet",
    "plot_shape_bias",
    "preprocessing",
    "score",
    "shape_bias",
    "shape_bias_from_decisions",
]
