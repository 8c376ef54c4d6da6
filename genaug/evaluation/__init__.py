"""Evaluation of trained models: measures, suites, audits."""

from genaug.evaluation.background_audit import Audit, audit, compare
from genaug.evaluation.corruptions import CORRUPTIONS, corrupt
from genaug.evaluation.groups import GroupAccuracy, group_accuracy, read_groups
from genaug.evaluation.measures.accuracy import accuracy
from genaug.evaluation.measures.background_gap import background_gap
from genaug.evaluation.measures.causal_bound import causal_bound, plot_bound_and_accuracy, search_interventions
from genaug.evaluation.measures.corruption_error import corruption_error, mean_corruption_error
from genaug.evaluation.measures.generation_quality import generation_quality
from genaug.evaluation.measures.grad_cam import grad_cam, save_grad_cams
from genaug.evaluation.measures.imagenet import (
    imagenet,
    imagenet_a,
    imagenet_r,
    imagenet_sketch,
    imagenet_v2,
    objectnet,
)
from genaug.evaluation.measures.imagenet_w import imagenet_w
from genaug.evaluation.measures.invariance import invariance
from genaug.evaluation.measures.mutual_information import mutual_information
from genaug.evaluation.measures.nuisance_correlation import (
    fit_nuisance_regressor,
    nuisance_correlation,
    plot_nuisance_correlation,
)
from genaug.evaluation.measures.shape_bias import plot_shape_bias, shape_bias, shape_bias_from_decisions
from genaug.evaluation.measures.stable_signal import stable_signal
from genaug.evaluation.models import load_classifier
from genaug.evaluation.scoring import preprocessing, score
from genaug.evaluation.suites import SUITES, evaluate

__all__ = [
    "CORRUPTIONS",
    "SUITES",
    "Audit",
    "GroupAccuracy",
    "accuracy",
    "audit",
    "background_gap",
    "causal_bound",
    "compare",
    "corrupt",
    "corruption_error",
    "evaluate",
    "fit_nuisance_regressor",
    "generation_quality",
    "grad_cam",
    "group_accuracy",
    "imagenet",
    "imagenet_a",
    "imagenet_r",
    "imagenet_sketch",
    "imagenet_v2",
    "imagenet_w",
    "invariance",
    "load_classifier",
    "mean_corruption_error",
    "mutual_information",
    "nuisance_correlation",
    "objectnet",
    "plot_bound_and_accuracy",
    "plot_nuisance_correlation",
    "plot_shape_bias",
    "preprocessing",
    "read_groups",
    "save_grad_cams",
    "score",
    "search_interventions",
    "shape_bias",
    "shape_bias_from_decisions",
    "stable_signal",
]
