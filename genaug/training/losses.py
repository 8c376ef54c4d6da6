"""The papers' losses for mixed batches of real and generated images from `MixedLoader`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug._common.arguments import check_number

REAL = 0  # the source of real images
IGNORED = -100  # label of an image that has none for a head; `cross_entropy` ignores it by default


class GenIntLoss(nn.Module):
    """Equation 1 of GenInt: cross entropy on real images plus weighted cross entropy on each source of generated ones.

    Each term is the mean over the images of one source in the batch, whatever their number, as in the paper. With
    weights (1, 0.05), 256 real and 64 intervened images count as 1 to 0.05. A term without images in the batch is 0.
    Images with the label -100 are ignored, as by `cross_entropy`.

    Args:
        weights: weights of source 0, 1, 2, ...: real images, interventions (lambda_1), transferred images (lambda_2).
        label_smoothing: as in `torch.nn.functional.cross_entropy`, in [0, 1].
        class_weight: (num_classes,) weights of the classes, as `weight` of `cross_entropy`; None for equal weights.

    Raises:
        ValueError: there is no weight, a weight is negative, or smoothing is outside [0, 1].
        TypeError: a weight or smoothing is not a number.
    """

    lambdas: Tensor
    class_weight: Tensor | None

    def __init__(
        self,
        weights: Sequence[float] = (1.0, 1.0, 1.0),
        *,
        label_smoothing: float = 0.0,
        class_weight: Tensor | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(weights, (int, float)):
            raise TypeError(f"weights must be one for each source, such as (1.0, 0.05), got {weights}")
        self.weights = tuple(check_number("weights", weight) for weight in weights)
        if not self.weights:
            raise ValueError("weights must have at least one, of the real images, got none")
        self.label_smoothing = check_number("label_smoothing", label_smoothing, high=1)
        self.register_buffer("lambdas", torch.tensor(self.weights), persistent=False)
        if class_weight is not None:
            class_weight = torch.tensor([check_number("class_weight", float(weight)) for weight in class_weight])
        self.register_buffer("class_weight", class_weight, persistent=False)

    def forward(self, logits: Tensor | Mapping[str, Tensor], targets: Tensor | Mapping[str, Any]) -> Tensor:
        """Return the loss, a scalar.

        Args:
            logits: (B, num_classes), or a dict by head, of which only "ensemble" is used.
            targets: as `MixedLoader` yields them: "labels", (B,) int64 or (B, num_classes) probabilities such as
                Mixup's, and "source", (B,). A tensor of labels means that all images are real.

        Raises:
            ValueError: a source or a class has no weight, a label is not a class of the logits, or shapes do not match.
        """
        if not isinstance(logits, Tensor):
            logits = logits["ensemble"]
        labels, source = _checked(logits, targets)
        if _looks(source) and len(source) and (last := int(source.max())) >= len(self.weights):
            raise ValueError(f"weights must have one entry for each source, 0 to {last}, got {len(self.weights)}")
        of_class = None if self.class_weight is None else self.class_weight.to(logits)
        if of_class is not None and len(of_class) != logits.shape[1]:
            raise ValueError(f"class_weight must have one for each of {logits.shape[1]} classes, got {len(of_class)}")
        losses = F.cross_entropy(
            logits, labels, of_class, ignore_index=IGNORED, reduction="none", label_smoothing=self.label_smoothing
        )
        # no branch depends on the values in the batch, because reading them would wait for the GPU
        counted = torch.ones_like(source, dtype=torch.float32)  # as `cross_entropy` counts probabilities: 1 each
        if labels.ndim == 1:
            kept = labels != IGNORED
            counted = kept.float() if of_class is None else of_class[labels.clamp(min=0)].float() * kept
        lambdas = self.lambdas.to(losses.device, torch.float32)  # casting a model, such as by .half(), casts them, too
        totals = torch.zeros_like(lambdas).scatter_add(0, source, counted)
        shares = torch.where(totals > 0, lambdas / totals, 0)[source]
        return torch.where(shares > 0, losses * shares, 0).sum()

    def extra_repr(self) -> str:
        return f"weights={self.weights}" + (f", label_smoothing={self.label_smoothing}" if self.label_smoothing else "")


class MultiHeadLoss(nn.Module):
    """CGN's loss for a multi-head classifier (section 4.3 and the released code).

    On real images it is the cross entropy of the ensemble. On counterfactuals it is the cross entropy of each head for
    its own factor, summed over heads. Each term is the mean over its images. A term without images in the batch is 0.
    Every generated image needs a label for at least one head, unless its label is -100. This is checked on a CPU only,
    because reading labels would wait for a GPU.

    Args:
        label_smoothing: as in `torch.nn.functional.cross_entropy`, in [0, 1].

    Raises:
        ValueError, TypeError: smoothing is not a number in [0, 1].
    """

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = check_number("label_smoothing", label_smoothing, high=1)

    def forward(self, outputs: Mapping[str, Tensor], targets: Tensor | Mapping[str, Any]) -> Tensor:
        """Return the loss, a scalar.

        Args:
            outputs: logits (B, num_classes) of each head and of the "ensemble", as from `model(images, heads=True)`.
            targets: as `MixedLoader` yields them: "labels", "source" and "heads", a dict of (B,) int64 by head, with
                -100 where an image has no label for it. A tensor of labels means that all images are real.

        Raises:
            ValueError: shapes do not match, the targets have a head that the model does not have, or (on a CPU) a
                generated image has no label for any head.
            TypeError: outputs are not a mapping with an "ensemble".
        """
        if not isinstance(outputs, Mapping) or "ensemble" not in outputs:
            came = f"a mapping of {', '.join(outputs)}" if isinstance(outputs, Mapping) else type(outputs).__name__
            raise TypeError(f"outputs must be logits by head with an 'ensemble', model(images, heads=True), got {came}")
        ensemble = outputs["ensemble"]
        labels, source = _checked(ensemble, targets)
        losses = F.cross_entropy(
            ensemble, labels, ignore_index=IGNORED, reduction="none", label_smoothing=self.label_smoothing
        )
        real = source == REAL
        total = _mean(losses, real & (labels != IGNORED) if labels.ndim == 1 else real)
        heads = {} if isinstance(targets, Tensor) else targets.get("heads", {})
        left_out = ~real & (labels != IGNORED) if labels.ndim == 1 else ~real  # the images that no term counts
        for head, classes in heads.items():
            if head not in outputs:
                raise ValueError(f"outputs must have each head of the targets, but lack {head!r}")
            _check_labels(outputs[head], classes)
            losses = F.cross_entropy(
                outputs[head], classes, reduction="none", ignore_index=IGNORED, label_smoothing=self.label_smoothing
            )
            total = total + _mean(losses, classes != IGNORED)
            left_out = left_out & (classes == IGNORED)
        if _looks(left_out) and left_out.any():
            number = int(source[left_out][0])
            raise ValueError(
                f"targets of generated images must have labels by head, got none for source {number}: use "
                'targets="all" for its dataset'
            )
        return total

    def extra_repr(self) -> str:
        return f"label_smoothing={self.label_smoothing}" if self.label_smoothing else ""


def irm_penalty(logits: Tensor, labels: Tensor, *, unbiased: bool = False) -> Tensor:
    """Return the penalty of invariant risk minimization for one environment (IRMv1, Arjovsky et al. 2019, section 3.1).

    The penalty is the squared derivative of the mean cross entropy with respect to a factor on all logits, at factor 1.
    In closed form, with probabilities p and the logit z_y of the label: (mean of (sum_k p_k z_k - z_y)) squared.

    Args:
        logits: (B, num_classes). For two classes also (B,), whose sigmoid is the probability of class 1, as
            `binary_cross_entropy_with_logits` takes them. Two logits (0, z) are the same as one logit z.
        labels: (B,) int64; 0 or 1 if logits are (B,).
        unbiased: return the product of the derivatives of two halves of the batch, which may be below 0. The square
            over a batch overestimates the environment's penalty, by the variance of a mean of so few images.

    Returns:
        A scalar; its gradient reaches the logits.

    Raises:
        ValueError: the shapes do not match, there are no images, or fewer than two with `unbiased`.
    """
    few = 2 if unbiased else 1
    if logits.ndim not in (1, 2) or labels.shape != logits.shape[:1] or len(labels) < few:
        raise ValueError(
            f"logits must be (B, num_classes) or (B,) and labels (B,), B at least {few}, got "
            f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    if logits.ndim == 1:
        logits = torch.stack([torch.zeros_like(logits), logits], dim=1)
    expected = (logits.softmax(dim=1) * logits).sum(dim=1)
    own = logits.gather(1, labels[:, None])[:, 0]
    slopes = expected - own
    return slopes[::2].mean() * slopes[1::2].mean() if unbiased else slopes.mean().square()


def _mean(losses: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean of the chosen values, or 0 if there are none, without waiting for a GPU."""
    return torch.where(chosen, losses, 0).sum() / chosen.sum().clamp(min=1)


def _checked(logits: Tensor, targets: Tensor | Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return labels and source."""
    if isinstance(targets, Tensor):
        targets = {"labels": targets, "source": targets.new_zeros(len(targets), dtype=torch.long)}
    labels, source = targets["labels"], targets["source"]
    if labels.ndim == 2 and labels.shape[1] == 1 and not labels.is_floating_point():
        labels = labels[:, 0]
    soft = labels.ndim == 2 and labels.is_floating_point() and labels.shape == logits.shape
    if logits.ndim != 2 or not (soft or labels.shape == logits.shape[:1]) or source.shape != logits.shape[:1]:
        raise ValueError(
            "logits must be (B, num_classes), labels (B,) or probabilities (B, num_classes) and source (B,), got "
            f"{tuple(logits.shape)}, {tuple(labels.shape)} and {tuple(source.shape)}"
        )
    _check_labels(logits, labels)
    return labels, source


def _looks(tensor: Tensor) -> bool:
    """Return whether values can be checked. Reading them would wait for a GPU, or break a compiled graph."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def _check_labels(logits: Tensor, labels: Tensor) -> None:
    if labels.ndim == 1 and len(labels) and _looks(labels):
        wrong = labels[((labels < 0) & (labels != IGNORED)) | (labels >= logits.shape[1])]
        if len(wrong):
            raise ValueError(
                f"labels must be of the {logits.shape[1]} classes of the logits, got {int(wrong[0])}: do the generated "
                "images have the classes of the real ones?"
            )
