"""Learning not to learn (Kim et al. 2019), a baseline of CGN's Table 2 (section 4.3).

Settings that CGN's paper does not state come from the method's released code, or were chosen on held-out training
digits; comments and docstrings say which. None was chosen by accuracy on test digits.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug._common.arguments import check_device
from genaug._common.precision import autocast
from genaug.generators.images import from_uint8
from genaug.models.mnist_cnn import MnistCNN
from genaug.papers.irm import EPOCHS
from genaug.training.classifier.digits import check_images, check_training, descend, initialised, shuffled

# From Kim et al.'s released code: weight of the mutual information, scale of the reversed gradient, and number of
# brightness levels per channel that the color predictor distinguishes.
LNTL_ENTROPY, LNTL_REVERSAL, LEVELS = 0.01, 0.1, 8


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return -ctx.scale * gradients[0], None


def reverse_gradient(x: Tensor, scale: float = 1.0) -> Tensor:
    """Return the tensor unchanged, and multiply its gradient by minus `scale` (Ganin and Lempitsky 2015)."""
    return _Reversal.apply(x, scale)


def negative_entropy(logits: Tensor) -> Tensor:
    """Return the mean of sum(p log p) over the classes, in nats: 0 if certain, -log(C) if uniform.

    LNTL minimizes this instead of the mutual information of features and color, H(color) - H(color | features), because
    features change only the second term (Kim et al. 2019).

    Args:
        logits: (B, C, ...), classes along the second dimension.
    """
    certain = logits.log_softmax(dim=1)
    return (certain.exp() * certain).sum(dim=1).mean()


class ColourPredictor(nn.Module):
    """Predict from the classifier's feature map which of eight levels each channel has, at every position.

    One network predicts the three channels. The released code has one network for each.
    """

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, 3 * LEVELS, 3, padding=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, 8, 3, H, W) for features (B, C, H, W)."""
        return self.layers(features).unflatten(1, (LEVELS, 3))


def colour_levels(images: Tensor, size: int) -> Tensor:
    """Return which of eight levels each channel has at size x size positions, -1 for black.

    Black does not count as a color. Otherwise, for colored digits on black, the predictor would mostly learn where the
    digit is not.

    Args:
        images: (B, 3, H, W) uint8.
        size: number of positions along each side. Each takes the nearest pixel.

    Returns:
        (B, 3, size, size) int64, -1..7.
    """
    pixels = F.interpolate(images.float(), size, mode="nearest-exact")
    return torch.where(pixels > 0, (pixels / (256 / LEVELS)).long(), -1)


def colour_loss(logits: Tensor, levels: Tensor) -> Tensor:
    """Return the cross entropy of (B, 8, 3, H, W) logits where levels are not -1, summed over channels."""
    loss = F.cross_entropy(logits, levels, ignore_index=-1, reduction="sum")
    return 3 * loss / (levels >= 0).sum().clamp(min=1)  # a black batch has no levels, and must not divide by 0


def fit_lntl(
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    epochs: int = EPOCHS,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    description: str = "LNTL",
) -> nn.Module:
    """Train the digits' classifier by learning not to learn (Kim et al. 2019; CGN, section 4.3).

    A second network, the predictor, predicts the image's colors from the features after the second convolution. The
    classifier is trained to be right, to leave the predictor undecided (`negative_entropy`), and against its progress
    (`reverse_gradient`). The targets of the predictor are the image's pixels at the 16x16 positions of the feature map,
    in eight levels per channel, without black. This is the same for one color, two colors and textures. Features,
    levels and weights are those of the released code, which has only colored digits; CGN's paper does not state the
    targets for other data.

    Differences from the released code: classifier and predictor take one step together, not two. The optimizer is that
    of the other rows, with few epochs instead of 100. Training starts from random weights, while the released script
    starts from a trained classifier.

    Args, returns and raises: as in `training.classifier.digits.fit_classifier`.
    """
    check_images(images, labels)
    check_training(epochs, batch_size, dtype)
    device = check_device("device", device)
    networks: Any = initialised(lambda: nn.ModuleList([MnistCNN(), ColourPredictor()]), seed, device)
    model, predictor = networks
    images, labels = images.to(device, memory_format=torch.channels_last), labels.to(device)

    def loss(batch: Tensor) -> Tensor:
        pixels = images[batch]
        with autocast(device, dtype):
            features = model.features(from_uint8(pixels))
            logits = model.classify(features).float()
            predictor.requires_grad_(False)  # this term must change only the features, not the predictor
            undecided = predictor(features).float()
            predictor.requires_grad_(True)
            guessed = predictor(reverse_gradient(features, LNTL_REVERSAL)).float()
        return (
            F.cross_entropy(logits, labels[batch])
            + LNTL_ENTROPY * negative_entropy(undecided)
            + colour_loss(guessed, colour_levels(pixels, features.shape[-1]))
        )

    order = shuffled(len(labels), batch_size, epochs, seed=seed, device=device)
    steps = epochs * -(-len(labels) // batch_size)
    descend(networks, order, loss, steps=steps, drops=epochs, description=description)
    return model.eval()
