"""A ResNet with several linear heads on the same features: CGN's classifier of ImageNet (section 4.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import ResNet

from genaug.arguments import check_choice, check_integer, near

HEADS = ("shape", "texture", "background")
ENSEMBLE = "ensemble"
AGGREGATES = ("logits", "log_probs")

CARD = """---
{{ card_data }}
---

A classifier of images: a ResNet with several heads on the same features, whose mean is its answer.

```python
from genaug import MultiHeadResNet

model = MultiHeadResNet.from_pretrained("this repository, or a folder")
logits = model(images)  # (B, num_classes); model(images, heads=True) has each head's
```

Backbone, heads and the number of classes are in config.json.
"""


class MultiHeadResNet(
    nn.Module, PyTorchModelHubMixin, library_name="genaug", tags=["image-classification"], model_card_template=CARD
):
    """A ResNet whose last layer is replaced by several heads; its answer is their mean.

    `model(x)` returns the ensemble's logits, in training and evaluation alike, so that any loop works;
    `model(x, heads=True)` each head's, too. `save_pretrained(folder)`, `MultiHeadResNet.from_pretrained(folder or
    repository)` and `push_to_hub(repository)` store it as safetensors with its settings.

    Args:
        backbone: one of torchvision's ResNets, ResNeXts or Wide ResNets, such as "resnet50".
        num_classes: of each head.
        heads: their names. The heads that the losses and datasets here know are shape, texture and background.
        weights: None for random ones, "DEFAULT" for the best published ones of ImageNet, or torchvision's name of any;
            these are fetched by torchvision. With 1,000 classes each head starts as the published last layer, otherwise
            heads are random.
        aggregate: "logits" takes the mean of the heads' logits, as CGN's code and its appendix C.4; "log_probs" that of
            their log-probabilities, as its section 4.3 words it.
        frozen_batch_norm: leave the batch norms' statistics as they are in training, too, as CGN's released training
            does with published weights.

    Attributes:
        backbone: the ResNet up to its pooled features.
        heads: name -> linear layer, an `nn.ModuleDict`.

    Raises:
        ValueError: an unknown backbone, weights or aggregate, or heads without a name, doubled or called "ensemble".
        TypeError: an argument is of another kind.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        num_classes: int = 1000,
        *,
        heads: Sequence[str] = HEADS,
        weights: str | None = None,
        aggregate: str = "logits",
        frozen_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        every = models.list_models(module=models)
        known = [name for name in every if models.get_model_builder(name).__module__ == ResNet.__module__]
        if backbone not in known:
            raise ValueError(f"backbone must be a ResNet of torchvision's, but got {backbone!r}{near(backbone, known)}")
        names = [heads] if isinstance(heads, str) else list(heads)
        if not names or len(set(names)) < len(names) or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"heads must be names that differ, at least one, but got {heads!r}")
        if wrong := [name for name in names if name == ENSEMBLE or "." in name]:
            raise ValueError(f"heads must not be called {ENSEMBLE!r} or have a dot, but got {wrong[0]!r}")
        check_choice("aggregate", aggregate, AGGREGATES)
        published = models.get_model_weights(backbone)
        if weights is not None and weights not in published.__members__:
            expected = ", ".join(published.__members__)
            raise ValueError(f"weights of {backbone} must be None or one of {expected}, but got {weights!r}")
        self.num_classes = check_integer("num_classes", num_classes, 2)
        self.aggregate = aggregate
        self.frozen_batch_norm = frozen_batch_norm
        network = models.get_model(backbone, weights=weights)
        last = network.fc
        network.fc = nn.Identity()
        self.backbone = network
        self.heads = nn.ModuleDict({name: nn.Linear(last.in_features, num_classes) for name in names})
        if weights is not None and num_classes == last.out_features:
            for head in self.heads.values():
                head.load_state_dict(last.state_dict())
        # what is saved has its weights beside it: loading must not fetch the published ones first
        self._hub_mixin_config = {
            "backbone": backbone,
            "num_classes": self.num_classes,
            "heads": names,
            "aggregate": aggregate,
            "frozen_batch_norm": bool(frozen_batch_norm),
        }
        self.train(self.training)

    def forward(self, images: Tensor, heads: bool = False) -> Any:
        """Logits.

        Args:
            images: (B, 3, H, W), normalised as the weights were trained.
            heads: return those of each head, too.

        Returns:
            (B, num_classes), the ensemble's; with `heads` a dict of these by head, "ensemble" among them.
        """
        features = self.backbone(images)
        found = {name: head(features) for name, head in self.heads.items()}
        ensemble = self.combine(found)
        return {**found, ENSEMBLE: ensemble} if heads else ensemble

    def combine(self, logits: dict[str, Tensor]) -> Tensor:
        """The mean over heads, (B, num_classes), of logits or log-probabilities as `aggregate` says."""
        parts = torch.stack(list(logits.values()))
        return (parts if self.aggregate == "logits" else F.log_softmax(parts, dim=2)).mean(dim=0)

    def only(self, *names: str) -> Callable[[Tensor], Tensor]:
        """The classifier that is the mean of these heads: CGN's Table 4 has `model.only("shape", "texture")`.

        Raises:
            ValueError: there is no such head, or none was named.
        """
        if not names:
            raise ValueError(f"names must have at least one of {', '.join(self.heads)}, but got none")
        for name in names:
            check_choice("names", name, self.heads)
        return _Some(self, names)

    def train(self, mode: bool = True) -> MultiHeadResNet:
        """As `nn.Module.train`; with `frozen_batch_norm` the batch norms stay in evaluation mode."""
        super().train(mode)
        if self.frozen_batch_norm:
            for module in self.modules():
                if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
                    module.eval()
        return self


class _Some(nn.Module):
    """The mean of some heads of a model."""

    def __init__(self, model: MultiHeadResNet, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, tuple(names)

    def forward(self, images: Tensor) -> Tensor:
        found = self.model(images, heads=True)
        return self.model.combine({name: found[name] for name in self.names})
