"""Load a classifier from a name, a file, a folder or a Python path, with its class names and preprocessing."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from genaug._common.arguments import near
from genaug._common.files import near_path, one_line
from genaug._common.imagenet import IMAGENET_MEAN, IMAGENET_STD
from genaug._common.names import PREPROCESSING
from genaug.assets.convert import WEIGHTS
from genaug.assets.formats import read
from genaug.assets.registry import AssetError, UnavailableAssetError
from genaug.evaluation.scoring import Model, preprocessing
from genaug.models.multi_head_resnet import TIMM, MultiHeadClassifier, timm_and

UNTRAINED = "none"
_SUFFIXES = (*WEIGHTS, ".pt2", ".ckpt")  # of models and weights
MODEL = "model"  # the folder of the model in the output of `genaug train classifier`
PREFIXES = ("_orig_mod.", "module.", "model.")  # added by torch.compile, DistributedDataParallel, Lightning
_SAVED = ("config.json", "model.safetensors")  # what `save_pretrained` writes


@dataclass(frozen=True)
class Classifier:
    """A classifier and its preprocessing.

    Attributes:
        name: the name that it was loaded by.
        model: (B, 3, H, W) -> (B, num_classes).
        transform: PIL image -> what the model takes, as in the test of its weights.
        cropped_transform: the same for square images, such as the 224 x 224 images of the suites. Takes PIL images or
            (B, 3, H, W) uint8 tensors.
        class_names: name of each logit; None if they are not known.
        batch_transform: (B, 3, S, S) uint8 -> what the model takes, resized from any S to the model's size; None for
            224 pixels and ImageNet's mean and deviation.
        trained_on: the folders of photographs that `genaug train classifier` trained it on; empty if not known.
    """

    name: str
    model: Model
    transform: Callable[[Any], Any]
    cropped_transform: Callable[[Any], Any]
    class_names: tuple[str, ...] | None = None
    batch_transform: Callable[[Any], Any] | None = None
    trained_on: tuple[str, ...] = ()


def load_classifier(name: str, weights: str | os.PathLike[str] | None = None) -> Classifier:
    """Load a classifier, for any set of classes.

    Args:
        name: one of:

            - a model of torchvision, such as "resnet50", or of timm, such as "timm/resnet50.a1_in1k";
            - the output folder of `genaug train classifier`;
            - a folder of `MultiHeadClassifier.save_pretrained` or of Hugging Face's `save_pretrained`, or the name of a
              Hugging Face repository, such as "microsoft/resnet-50";
            - a TorchScript file (`torch.jit.save`) or an exported program (`torch.export.save`);
            - a file of weights that is named after a network of torchvision, such as resnet18.pth, or has the weights
              of a ResNet;
            - a Python path "package.module:function" to a model, a `Classifier`, or a function that returns one.
        weights: for a model of torchvision or timm, a file with a state dict (.pth, .pt, .ckpt, .bin, .safetensors),
            which determines the number of classes. Or torchvision's name for published weights, such as
            "IMAGENET1K_V1". "none" gives an untrained network, always the same (default: the best published weights,
            which are downloaded).

    Raises:
        ValueError: an unknown name, weights that do not fit, or a folder without a model.
        ModuleNotFoundError: timm, transformers or the module of a Python path is not installed.
        FileNotFoundError: there is no such file or folder.
        genaug.AssetError: the file is damaged, reading it would execute code, or published weights cannot be
            downloaded.
    """
    path = Path(name)
    if weights is not None and (path.exists() or ":" in name or _of_hub(name)):
        raise ValueError(f"weights must be left out for {name}, which has its own, got {os.fspath(weights)!r}")
    if path.is_dir():
        if not (path / _SAVED[0]).is_file() and (path / MODEL / _SAVED[0]).is_file():
            return _saved(path / MODEL)  # the folder of a training
        return _saved(path) if not _huggingface_folder(path) else _huggingface(name)
    if path.is_file():
        return _program(path)
    if ":" in name:
        return _python(name)
    if _is_path(name):
        raise FileNotFoundError(f"no such file or folder: {name}{near_path(name)}")
    if _of_hub(name):
        return _huggingface(name)
    file = Path(weights) if weights is not None and (isinstance(weights, os.PathLike) or Path(weights).suffix) else None
    if file is not None and not file.is_file():
        raise FileNotFoundError(f"no such file: {file}{near_path(file)}")
    label = name if weights is None else f"{name}, {file.name if file else weights}"
    state = None if file is None else _state(file)
    untrained = weights == UNTRAINED
    try:
        if name.startswith(TIMM):
            if weights is not None and file is None and not untrained:
                raise ValueError(
                    f"weights must be a file or 'none' for timm's models, whose names say theirs, got {weights!r}"
                )
            return _timm(name, label, file, state, untrained)
        return _torchvision(name, label, file, state, None if file or untrained else str(weights or "DEFAULT"))
    except OSError as error:  # the download failed
        raise UnavailableAssetError(
            f"the weights of {name} could not be fetched ({one_line(error)}); pass a file of them as weights"
        ) from error


def imagenet_names() -> tuple[str, ...]:
    """Return torchvision's names of ImageNet's 1,000 classes."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])


def _is_path(name: str) -> bool:
    """Return whether a name that is not an existing file or folder can only be meant as a path."""
    if name.startswith(TIMM):
        return False
    written = name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).suffix in _SUFFIXES
    # the name of a Hub repository has no similar names in a local folder
    return written or ("/" in name and (Path(name).parent.is_dir() or bool(near_path(name))))


def _of_hub(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith(TIMM) and not Path(name).suffix


def _prepared(
    name: str,
    model: Model,
    transform: Callable[[Any], Any] | None,
    size: int = 224,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    class_names: Sequence[str] | None = None,
) -> Classifier:
    cropped = None if size == 224 else size
    return Classifier(
        name,
        model,
        preprocessing(round(size * 8 / 7), size, mean, std) if transform is None else transform,
        preprocessing(cropped, cropped, mean, std),
        None if class_names is None else tuple(class_names),
        preprocessing(size, size, mean, std),
    )


def _described(file: Path) -> dict[str, Any]:
    """Return the content of preprocessing.json for `_prepared`, or nothing if there is none."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text())
        if not isinstance(found, dict):
            raise TypeError(f"got {type(found).__name__}")
        said = {
            "size": int(found["image_size"]) if "image_size" in found else 224,
            "mean": tuple(map(float, found.get("mean", IMAGENET_MEAN))),
            "std": tuple(map(float, found.get("std", IMAGENET_STD))),
        }
        names = found.get("class_names")
        return said | ({} if names is None else {"class_names": tuple(map(str, names))})
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{file} must be JSON with any of class_names, image_size, mean and std ({one_line(error)})"
        ) from None


def _saved(folder: Path) -> Classifier:
    if missing := [file for file in _SAVED if not (folder / file).is_file()]:
        if (folder / "checkpoint.pt").is_file():
            raise ValueError(f"{folder} is a training that is not finished: run its command again to resume it")
        raise ValueError(
            f"{folder} must be a folder of MultiHeadClassifier.save_pretrained, such as the model/ that `genaug train "
            f"classifier` writes, or of Hugging Face, got no {missing[0]}"
        )
    config, weights = (folder / file for file in _SAVED)
    try:
        model = MultiHeadClassifier(**json.loads(config.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{config} is not one of MultiHeadClassifier's: {one_line(error)}") from None
    _fit(model, _state(weights), weights, "its config.json")
    # a single head is the model's answer, so figures of heads are not needed
    whole: Any = model if len(model.heads) > 1 else model.only(*model.heads)
    described = _described(folder / PREPROCESSING)
    names = described.get("class_names")
    if names is not None and len(names) != model.num_classes:
        raise ValueError(f"{folder / PREPROCESSING} must name {model.num_classes} classes, got {len(names)}")
    transform = None if described else preprocessing()
    return replace(_prepared(os.fspath(folder), whole, transform, **described), trained_on=_trained_on(folder.parent))


def _trained_on(run: Path) -> tuple[str, ...]:
    """Return the folders of photographs that the results.json of a training names."""
    try:
        return tuple(map(str, json.loads((run / "results.json").read_text())["trained_on"]))
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _torchvision(
    name: str, label: str, file: Path | None, state: dict[str, Tensor] | None, weights: str | None
) -> Classifier:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(
            f"torchvision has no classifier {name!r}{near(name, known)}; timm's are called timm/NAME, and a model of "
            "your own is a file, a folder or package.module:function"
        )
    published = models.get_model_weights(name)
    if weights is not None and weights not in published.__members__:
        raise ValueError(
            f"weights of {name} must be a file, 'none' or one of {', '.join(published.__members__)}, got {weights!r}"
        )
    chosen = None if weights is None else published[weights]
    # a weights file is assumed to use the preprocessing of the first published weights: resize to 256, crop to 224
    preset = (chosen or next(iter(published))).transforms()
    # these two networks transform their input if built with published weights; a weights file is assumed to need that
    as_published = chosen is None and name in ("googlenet", "inception_v3")
    extra = {"transform_input": True, "init_weights": False} if as_published else {}
    with _seeded():
        model = models.get_model(name, weights=chosen, **extra)
    count = None if state is None else _class_count(model, state)
    if state is not None and file is not None:
        if count is not None:
            model = models.get_model(name, weights=None, num_classes=count, **extra)
        _fit(model, state, file, name)
    given = {"size": preset.crop_size[0], "mean": preset.mean, "std": preset.std}
    if count is None:
        given["class_names"] = imagenet_names()
    named = {} if file is None else _described(file.parent / PREPROCESSING)
    return _prepared(label, model, None if named else preset, **(given | named))


def _timm(name: str, label: str, file: Path | None, state: dict[str, Tensor] | None, untrained: bool) -> Classifier:
    timm, bare = timm_and(name)
    with _seeded():
        model = timm.create_model(bare, pretrained=state is None and not untrained)
    if state is not None and file is not None:
        if (count := _class_count(model, state)) is not None:
            model = timm.create_model(bare, pretrained=False, num_classes=count)
        _fit(model, state, file, name)
    config = timm.data.resolve_model_data_config(model)
    given = {"size": config["input_size"][-1], "mean": config["mean"], "std": config["std"]}
    if getattr(model, "num_classes", None) == len(imagenet_names()):
        given["class_names"] = imagenet_names()
    named = {} if file is None else _described(file.parent / PREPROCESSING)
    transform = None if named else timm.data.create_transform(**config, is_training=False)
    return _prepared(label, model, transform, **(given | named))


@contextmanager
def _seeded() -> Iterator[None]:
    """Draw untrained weights from a fixed seed, without changing the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def _huggingface_folder(folder: Path) -> bool:
    try:
        return "model_type" in json.loads((folder / "config.json").read_text())
    except (OSError, ValueError, TypeError):
        return False


class _Logits(nn.Module):
    """A Hugging Face classifier that returns only its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(pixel_values=images).logits


@dataclass(frozen=True)
class _Processed:
    """A Hugging Face processor as a transform: PIL image -> (3, H, W) float32."""

    processor: Any

    def __call__(self, image: Image.Image) -> Tensor:
        return self.processor(image, return_tensors="pt")["pixel_values"][0]


def _huggingface(name: str) -> Classifier:
    try:
        from transformers import AutoImageProcessor, AutoModelForImageClassification
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{name} needs transformers: pip install transformers") from None

    try:
        model = AutoModelForImageClassification.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise RuntimeError(
            f"{name} could not be loaded as an image classifier of Hugging Face ({one_line(error)})"
        ) from error
    names = [str(model.config.id2label[number]) for number in range(model.config.num_labels)]
    try:
        processor = AutoImageProcessor.from_pretrained(name)
    except OSError:  # a model without preprocessing settings is assumed to use ImageNet's
        return _prepared(name, _Logits(model), None, class_names=names)
    transform = _Processed(processor)
    # the size, mean and deviation of any processor, whatever its settings are called
    black, white = (transform(Image.new("RGB", (224, 224), color)) for color in ("black", "white"))
    std = 1 / (white - black)[:, 0, 0].double()
    mean = -black[:, 0, 0] * std
    return _prepared(name, _Logits(model), transform, black.shape[-1], mean.tolist(), std.tolist(), names)


class _FixedBatch(nn.Module):
    """An exported program for batches of one size. The last batch is padded."""

    def __init__(self, module: nn.Module, batch: int) -> None:
        super().__init__()
        self.module, self.batch = module, batch

    def forward(self, images: Tensor) -> Tensor:
        parts = [self.module(part) for part in self._filled(images).split(self.batch)]
        return torch.cat(parts)[: len(images)]

    def _filled(self, images: Tensor) -> Tensor:
        over = -len(images) % self.batch
        return torch.cat([images, images[-1:].expand(over, -1, -1, -1)]) if over else images


class _Program(nn.Module):
    """A program with a fixed mode, on which neither `train` nor `eval` may be called."""

    def __init__(self, program: Any) -> None:
        super().__init__()
        self.program = [program]  # in a list, so that it is not a submodule

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        return self.program[0].state_dict(*arguments, **options)

    def forward(self, images: Tensor) -> Any:
        return self.program[0](images)


def _program(file: Path) -> Classifier:
    entries: list[str] = []
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            entries = archive.namelist()
    described = _described(file.parent / PREPROCESSING)
    try:
        if any(entry.rpartition("/")[2] == "constants.pkl" for entry in entries):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch calls TorchScript deprecated, but the file exists anyway
                model: nn.Module = torch.jit.load(str(file), map_location="cpu")
        elif any(entry.endswith(("serialized_exported_program.json", "models/model.json")) for entry in entries):
            exported = torch.export.load(str(file))
            taken = [node for node in exported.graph.nodes if node.op == "placeholder"][-1].meta["val"].shape
            model = _Program(exported.module())
            if isinstance(taken[0], int):
                model = _FixedBatch(model, taken[0])
            if isinstance(taken[-1], int):
                described = {"size": taken[-1]} | described
        elif (network := _network_of(file)) is not None:
            return load_classifier(network, file)
        else:
            raise ValueError(
                f"{file} must be a TorchScript file or an exported program. For a file of weights pass the name of its "
                "network, such as 'resnet50', and the file as weights (--weights)"
            )
    except (RuntimeError, OSError) as error:
        raise AssetError(f"{file} cannot be opened as a model ({one_line(error)})") from error
    return _prepared(os.fspath(file), model, None, **described)


def _network_of(file: Path) -> str | None:
    """Return the torchvision network that a weights file is named after, or else the ResNet that its weights fit."""
    from torchvision import models

    known = models.list_models(module=models)
    stem = file.stem.lower()
    named = max((name for name in known if stem.startswith(name)), key=len, default=None)
    if named is not None:
        return named
    try:
        state = _state(file)
    except AssetError:
        return None
    for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"):
        with torch.device("meta"):
            own = models.get_model(name).state_dict()
        unwrapped = _unwrapped(own, state)
        if own.keys() == unwrapped.keys() and unwrapped["conv1.weight"].shape == own["conv1.weight"].shape:
            return name
    return None


def _python(name: str) -> Classifier:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ValueError(f"a Python path must be package.module:function, got {name!r}")
    if os.getcwd() not in sys.path:  # `python -m` adds the current folder; a console script does not
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{name} cannot be imported ({error})") from None
    if not hasattr(module, attribute):
        raise ValueError(f"{module_name} has no {attribute!r}{near(attribute, dir(module))}")
    found = getattr(module, attribute)
    if callable(found) and not isinstance(found, nn.Module):
        try:
            required = [
                p
                for p in inspect.signature(found).parameters.values()
                if p.default is p.empty and p.kind < p.VAR_POSITIONAL
            ]
        except (TypeError, ValueError):
            required = []
        found = found if required else found()
    if isinstance(found, Classifier):
        return found
    if not callable(found):
        raise TypeError(
            f"{name} must be a model, a Classifier or a function that returns one, got {type(found).__name__}"
        )
    return _prepared(name, found, None)


def _state(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a weights file, however its training script wrapped them."""
    state: Mapping[Any, Any] = read(file)[0]
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state.get(key), Mapping):
            state = state[key]
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


def _unwrapped(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without the prefixes of torch.compile, DistributedDataParallel and Lightning.

    Tensors outside the prefix, such as a loss's weights in Lightning's file, are left out.
    """
    found = dict(state)
    first = next(iter(own), "")
    while first not in found:
        prefix = next((p for p in PREFIXES if any(key.startswith(p) for key in found)), None)
        if prefix is None:
            return dict(state)
        found = {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
    return found


def _class_count(model: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes of a file's last layer, or None if it equals the model's."""
    state = _unwrapped(model.state_dict(), state)
    counts = {
        len(state[key])
        for key, tensor in model.state_dict().items()
        if key in state and tensor.ndim and len(state[key]) != len(tensor) and state[key].shape[1:] == tensor.shape[1:]
    }
    return counts.pop() if len(counts) == 1 else None


def _fit(model: nn.Module, state: Mapping[str, Tensor], file: Path, name: str) -> None:
    own = model.state_dict()
    state = _unwrapped(own, state)
    wrong = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    wrong += [key for key in state if key not in own]
    wrong += [key for key in own if key in state and state[key].shape != own[key].shape]
    if wrong:
        first = next(iter(own), "")
        prefixed = next((key for key in state if key.endswith(f".{first}")), None)
        advice = f"; its names begin with {prefixed.removesuffix(first)!r}: save them without it" if prefixed else ""
        raise ValueError(
            f"{file} does not fit {name}: {len(wrong)} tensors differ in name or shape, such as {wrong[0]}{advice}"
        )
    model.load_state_dict(dict(state), strict=False)
