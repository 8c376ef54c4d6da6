"""Classifiers with several linear heads on shared features, like CGN's for ImageNet (section 4.3)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import ResNet

from genaug._common.arguments import check_choice, check_integer, near
from genaug._common.files import atomic_path, no_folder, one_line
from genaug._common.names import AGGREGATES, HEADS, PREPROCESSING, Aggregate
from genaug.assets.registry import UnavailableAssetError

ENSEMBLE = "ensemble"
TIMM = "timm/"
_AUXILIARY = ("googlenet", "inception_v3")  # in training they return two outputs

Self = TypeVar("Self", bound="MultiHeadClassifier")

CARD = """---
{{ card_data }}
---

A classifier of images: a network with one or more heads on the same features. Its answer is the mean of the heads.

```python
from genaug import MultiHeadClassifier

model = MultiHeadClassifier.from_pretrained("this repository, or a folder")
logits = model(images)  # (B, num_classes); model(images, heads=True) has each head's
```

Backbone, heads and the number of classes are in config.json.
"""


class MultiHeadClassifier(
    nn.Module, PyTorchModelHubMixin, library_name="genaug", tags=["image-classification"], model_card_template=CARD
):
    """A network whose last layer is replaced by several heads. Its answer is their mean.

    `model(x)` returns the logits of the ensemble, in training and evaluation, so it works in any loop. `model(x,
    heads=True)` also returns the logits of each head. `save_pretrained(folder)` and `push_to_hub(repository)` store it
    as safetensors with its settings; `from_pretrained(folder or repository)` loads it.

    Args:
        backbone: a torchvision classifier whose last layer is linear, such as "resnet50" or "efficientnet_b0"; or a
            timm classifier as "timm/NAME".
        num_classes: number of classes of each head.
        heads: names of the heads. genaug's losses and datasets use shape, texture and background.
        weights: None for random weights, "DEFAULT" for the best published ImageNet weights, or torchvision's name or
            enum for others, such as `ResNet50_Weights.IMAGENET1K_V1`. torchvision or timm downloads them; timm has only
            "DEFAULT". With 1,000 classes each head starts as the published last layer. Otherwise heads are random.
        aggregate: "logits" averages the logits of the heads, as in CGN's code and appendix C.4. "log_probs" averages
            their log-probabilities, as in its section 4.3.
        frozen_batch_norm: keep the statistics of the batch norms during training, as CGN's released training does with
            published weights.

    Attributes:
        backbone: the network up to the features before its last layer.
        heads: name -> linear layer, an `nn.ModuleDict`.
        preprocessing: what is known about its images: "class_names", "image_size", and the "mean" and "std" of each
            channel in [0, 1]. It is saved as preprocessing.json beside the weights.

    Raises:
        ValueError: an unknown backbone, weights or aggregate; or heads unnamed, repeated, with a dot or called
            "ensemble".
        TypeError: an argument is of another type.
        genaug.AssetError: the weights cannot be downloaded.
    """

    _kind = "a classifier of torchvision's, or timm/NAME"

    def __init__(
        self,
        backbone: str = "resnet50",
        num_classes: int = 1000,
        *,
        heads: Sequence[str] = HEADS,
        weights: str | models.WeightsEnum | None = None,
        aggregate: Aggregate = "logits",
        frozen_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        timm = backbone.startswith(TIMM)
        known = [] if timm else self._known()
        if not timm and backbone not in known:
            raise ValueError(f"backbone must be {self._kind}, got {backbone!r}{near(backbone, known)}")
        names = [heads] if isinstance(heads, str) else list(heads)
        if not names or len(set(names)) < len(names) or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"heads must be names that differ, at least one, got {heads!r}")
        if wrong := [name for name in names if name == ENSEMBLE or "." in name]:
            raise ValueError(f"heads must not be called {ENSEMBLE!r} or have a dot, got {wrong[0]!r}")
        check_choice("aggregate", aggregate, AGGREGATES)
        if isinstance(weights, models.WeightsEnum):
            if timm or not isinstance(weights, models.get_model_weights(backbone)):
                raise ValueError(f"weights must be of the backbone {backbone}, got {weights}")
            weights = weights.name
        if weights is not None and not isinstance(weights, str):
            raise TypeError(f"weights must be None, a name or an enum of torchvision, got {weights!r}")
        names_of_weights = ("DEFAULT",) if timm else tuple(models.get_model_weights(backbone).__members__)
        if weights is not None and weights not in names_of_weights:
            if ("/" in weights or Path(weights).suffix) and not Path(weights).exists():
                raise ValueError(
                    f"weights must be a name of published weights, got {weights!r}, and there is no such file"
                )
            expected = ", ".join(names_of_weights)
            raise ValueError(f"weights of {backbone} must be None or one of {expected}, got {weights!r}")
        self.num_classes = check_integer("num_classes", num_classes, 2)
        self.aggregate = aggregate
        self.frozen_batch_norm = frozen_batch_norm
        try:
            network = _of_timm(backbone, weights) if timm else models.get_model(backbone, weights=weights)
        except OSError as error:  # the download failed
            home = "HF_HOME" if timm else "TORCH_HOME"
            raise UnavailableAssetError(
                f"weights {weights!r} of {backbone} could not be fetched ({one_line(error)}). Fetch them on a machine "
                f"with a network and copy its folder {home} here, or start without them by weights=None "
                "(--weights none)"
            ) from error
        self.backbone, last = _without_last_layer(network, backbone)
        self.preprocessing: Mapping[str, Any] | None = None
        self.heads = nn.ModuleDict({name: nn.Linear(last.in_features, num_classes) for name in names})
        if weights is not None and num_classes == last.out_features:
            for head in self.heads.values():
                head.load_state_dict(last.state_dict())
        # `weights` is left out, so that loading a saved model does not fetch the published weights first
        self._hub_mixin_config = {
            "backbone": backbone,
            "num_classes": self.num_classes,
            "heads": names,
            "aggregate": aggregate,
            "frozen_batch_norm": bool(frozen_batch_norm),
        }
        self.train(self.training)

    @overload
    def forward(self, images: Tensor, heads: Literal[False] = ...) -> Tensor: ...
    @overload
    def forward(self, images: Tensor, heads: bool) -> Tensor | dict[str, Tensor]: ...

    def forward(self, images: Tensor, heads: bool = False) -> Tensor | dict[str, Tensor]:
        """Return logits.

        Args:
            images: (B, 3, H, W), normalized as the weights were trained.
            heads: also return the logits of each head.

        Returns:
            (B, num_classes) of the ensemble. With `heads`, a dict of these by head, "ensemble" among them.
        """
        features = self.backbone(images)
        found = {name: head(features) for name, head in self.heads.items()}
        ensemble = self.combine(found)
        return {**found, ENSEMBLE: ensemble} if heads else ensemble

    def combine(self, logits: dict[str, Tensor]) -> Tensor:
        """Return the mean over heads, (B, num_classes), of logits or log-probabilities as `aggregate` says."""
        parts = torch.stack(list(logits.values()))
        return (parts if self.aggregate == "logits" else F.log_softmax(parts, dim=2)).mean(dim=0)

    def only(self, *names: str) -> Callable[[Tensor], Tensor]:
        """Return the classifier that averages these heads: CGN's Table 4 uses `model.only("shape", "texture")`.

        Raises:
            ValueError: there is no such head, or none was named.
        """
        if not names:
            raise ValueError(f"names must have at least one of {', '.join(self.heads)}, got none")
        for name in names:
            check_choice("names", name, self.heads)
        return _Some(self, names)

    def train(self, mode: bool = True) -> MultiHeadClassifier:
        """Set the mode as `nn.Module.train`; with `frozen_batch_norm` the batch norms stay in evaluation mode."""
        super().train(mode)
        if self.frozen_batch_norm:
            for module in self.modules():
                if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
                    module.eval()
        return self

    @classmethod
    def _known(cls) -> list[str]:
        return [name for name in models.list_models(module=models) if name not in _AUXILIARY]

    def _save_pretrained(self, save_directory: Path) -> None:
        super()._save_pretrained(save_directory)
        if self.preprocessing is not None:
            with atomic_path(save_directory / PREPROCESSING) as path:
                path.write_text(json.dumps(dict(self.preprocessing), indent=2) + "\n")

    @classmethod
    def from_pretrained(cls: type[Self], pretrained_model_name_or_path: str | Path, **options: Any) -> Self:
        """Load the model of a folder that `save_pretrained` wrote, or of a Hub repository, "owner/repo".

        Args:
            pretrained_model_name_or_path: the folder or the repository.
            options: arguments of `huggingface_hub.PyTorchModelHubMixin.from_pretrained`, such as `revision`.

        Raises:
            FileNotFoundError: there is no such folder, and a repository cannot have this name.
            RuntimeError: the folder or the repository has no such model, or the Hub cannot be reached.
        """
        name = os.fspath(pretrained_model_name_or_path)
        repository = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name)
        if not repository and not Path(name).is_dir():  # the Hub would be asked several times, and for a connection
            raise no_folder(name)
        return super().from_pretrained(name, **options)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> MultiHeadClassifier:
        try:
            model = super()._from_pretrained(model_id=model_id, **options)
        except OSError as error:
            raise RuntimeError(
                f"{model_id} could not be loaded ({one_line(error)}). It must be a folder of save_pretrained, or a "
                "repository of the Hub that can be reached"
            ) from error
        file = Path(model_id) / PREPROCESSING
        if file.is_file():
            model.preprocessing = json.loads(file.read_text())
        return model.eval()  # older versions of the Hub's client leave it in training mode


class MultiHeadResNet(MultiHeadClassifier):
    """A `MultiHeadClassifier` on a torchvision ResNet, ResNeXt or Wide ResNet, such as "resnet50".

    Arguments, attributes and errors are those of `MultiHeadClassifier`. Other backbones are refused.
    """

    _kind = "a ResNet of torchvision's"

    @classmethod
    def _known(cls) -> list[str]:
        every = models.list_models(module=models)
        return [name for name in every if models.get_model_builder(name).__module__ == ResNet.__module__]


def timm_and(name: str) -> tuple[Any, str]:
    """Return the package timm, and its name for the model "timm/NAME".

    Raises:
        ModuleNotFoundError: timm is not installed.
        ValueError: timm has no such model.
    """
    try:
        import timm
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{name} needs timm: pip install timm") from None
    bare = name.removeprefix(TIMM)
    if not timm.is_model(bare):
        raise ValueError(f"timm has no model {bare!r}{near(bare, timm.list_models())}")
    return timm, bare


def _of_timm(name: str, weights: str | None) -> nn.Module:
    timm, bare = timm_and(name)
    return timm.create_model(bare, pretrained=weights is not None)


def _without_last_layer(network: nn.Module, name: str) -> tuple[nn.Module, nn.Linear]:
    """Return the network up to its last linear layer, and that layer."""
    linear = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear or list(network.children())[-1] is not network.get_submodule(linear[-1].split(".")[0]):
        raise ValueError(f"backbone must end in a linear layer, but {name} does not")
    last = network.get_submodule(linear[-1])
    network.set_submodule(linear[-1], nn.Identity())
    assert isinstance(last, nn.Linear)
    return network, last


class _Some(nn.Module):
    """The mean of some heads of a model."""

    def __init__(self, model: MultiHeadClassifier, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, tuple(names)

    def forward(self, images: Tensor) -> Tensor:
        found = self.model(images, heads=True)
        return self.model.combine({name: found[name] for name in self.names})
