"""Classifiers by name: torchvision's and timm's, with published weights or a file of one's own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from genaug.arguments import near
from genaug.assets.formats import read
from genaug.evaluation.scoring import preprocessing
from genaug.files import one_line
from genaug.models.multi_head_resnet import MultiHeadResNet

TIMM = "timm/"
_SAVED = ("config.json", "model.safetensors")  # what `save_pretrained` writes


@dataclass(frozen=True)
class Classifier:
    """A classifier of ImageNet's 1,000 classes and what its images go through.

    Attributes:
        name: what it was asked for by.
        model: (B, 3, H, W) -> (B, 1000).
        transform: PIL image -> what the model takes, as its weights were tested.
        cropped_transform: the same for images that have been cut to 224 x 224 already.
    """

    name: str
    model: nn.Module
    transform: Callable[[Any], Any]
    cropped_transform: Callable[[Any], Any]


def load_classifier(name: str, weights: str | os.PathLike[str] | None = None) -> Classifier:
    """Builds a classifier and loads its weights.

    Args:
        name: one of torchvision's, such as "resnet50", or of timm's, such as "timm/resnet50.a1_in1k"; or a folder that
            `MultiHeadResNet.save_pretrained` wrote, such as the model/ of `genaug train classifier`. Its images are
            resized to 256 and cut to 224.
        weights: a file with a state dict (.pth, .pt, .bin, .safetensors), or one of torchvision's names for published
            weights, such as "IMAGENET1K_V1"; by default the best published ones. Published weights are fetched.

    Raises:
        ValueError: an unknown name, weights that do not fit, or a folder without a model.
        ModuleNotFoundError: timm is not installed.
        genaug.AssetError: the file does not exist, is damaged, or needs code to be run to be read.
        RuntimeError: published weights cannot be fetched.
    """
    file = Path(weights) if weights is not None and (isinstance(weights, os.PathLike) or Path(weights).suffix) else None
    if file is not None and not file.is_file():
        raise FileNotFoundError(f"no such file: {file}")
    if Path(name).is_file():
        raise ValueError(f"{name} is a file: pass the name of its network, such as 'resnet50', and the file as weights")
    if Path(name).is_dir():
        return _saved(Path(name), weights)
    label = name if weights is None else f"{name}, {file.name if file else weights}"
    try:
        if name.startswith(TIMM):
            if weights is not None and file is None:
                raise ValueError(f"weights must be a file for timm's models, whose names say theirs, got {weights!r}")
            classifier = _timm(name, label, pretrained=file is None)
        else:
            classifier = _torchvision(name, label, None if file else str(weights or "DEFAULT"))
    except OSError as error:  # of a download
        raise RuntimeError(
            f"the weights of {name} could not be fetched ({one_line(error)}); pass a file of them as weights"
        ) from error
    if file is not None:
        _load(classifier.model, file, name)
    return classifier


def _saved(folder: Path, weights: Any) -> Classifier:
    if weights is not None:
        raise ValueError(f"weights must be left out for the folder {folder}, which has its own, but got {weights!r}")
    if missing := [file for file in _SAVED if not (folder / file).is_file()]:
        raise ValueError(
            f"{folder} must be a folder of MultiHeadResNet.save_pretrained, such as the model/ that `genaug train "
            f"classifier` writes, but has no {missing[0]}"
        )
    config, weights = (folder / file for file in _SAVED)
    try:
        model = MultiHeadResNet(**json.loads(config.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{config} is not one of MultiHeadResNet's: {one_line(error)}") from None
    _load(model, weights, "its config.json")
    # a single head is the model's answer and needs no figures beside it
    whole: Any = model if len(model.heads) > 1 else model.only(*model.heads)
    return Classifier(os.fspath(folder), whole, preprocessing(), preprocessing(None, None))


def _torchvision(name: str, label: str, weights: str | None) -> Classifier:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"torchvision has no classifier {name!r}{near(name, known)}; timm's are called timm/NAME")
    published = models.get_model_weights(name)
    if weights is not None and weights not in published.__members__:
        raise ValueError(
            f"weights of {name} must be a file or one of {', '.join(published.__members__)}, got {weights!r}"
        )
    chosen = None if weights is None else published[weights]
    # a file is taken to be trained as the first published weights were: resized to 256, cut to 224
    preset = (chosen or next(iter(published))).transforms()
    # built for published weights these two change what they are given; a file of weights is taken to want the same
    as_published = chosen is None and name in ("googlenet", "inception_v3")
    extra = {"transform_input": True, "init_weights": False} if as_published else {}
    return Classifier(
        label,
        models.get_model(name, weights=chosen, **extra),
        preset,
        _cropped(preset.crop_size[0], preset.mean, preset.std),
    )


def _timm(name: str, label: str, pretrained: bool) -> Classifier:
    try:
        import timm
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{name} needs timm: pip install timm") from None

    bare = name.removeprefix(TIMM)
    if not timm.is_model(bare):
        raise ValueError(f"timm has no model {bare!r}{near(bare, timm.list_models())}")
    model = timm.create_model(bare, pretrained=pretrained)
    config = timm.data.resolve_model_data_config(model)
    return Classifier(
        label,
        model,
        timm.data.create_transform(**config, is_training=False),
        _cropped(config["input_size"][-1], config["mean"], config["std"]),
    )


def _cropped(size: int, mean: Any, std: Any) -> Callable[[Any], Any]:
    resize = None if size == 224 else size
    return preprocessing(resize, resize, mean, std)


def _load(model: nn.Module, file: Path, name: str) -> None:
    state: dict[str, Any] = read(file)[0]
    for key in ("state_dict", "model"):  # what training scripts wrap it in
        if isinstance(state.get(key), dict):
            state = state[key]
    # DataParallel's and DistributedDataParallel's names
    state = {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    own = model.state_dict()
    wrong = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    wrong += [key for key in state if key not in own]
    wrong += [key for key in own if key in state and state[key].shape != own[key].shape]
    if wrong:
        raise ValueError(
            f"{file} does not fit {name}: {len(wrong)} tensors differ in name or shape, such as {wrong[0]}"
        )
    model.load_state_dict(state, strict=False)
