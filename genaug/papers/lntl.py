"""Learning not to learn (Kim et al. 2019), a baseline of CGN's Table 2 (section 4.3).

What CGN's paper leaves open is of the method's released code, or was chosen on held-out training digits, as is said
where it stands; nothing was chosen by accuracy on test digits.
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

# Kim et al.'s released code: weight of the term of mutual information, scale of the reversed gradient, and how many
# levels of brightness the predictor of colour tells apart in each channel
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

    What LNTL minimises in place of the mutual information of features and colour: that is H(colour) - H(colour |
    features), of which features change the second alone (Kim et al. 2019).

    Args:
        logits: (B, C, ...), classes along the second dimension.
    """
    certain = logits.log_softmax(dim=1)
    return (certain.exp() * certain).sum(dim=1).mean()


class ColourPredictor(nn.Module):
    """Predict from the classifier's feature map which of eight levels each channel has, at every position.

    One network for the three channels, where the released code has one for each.
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

    Black is no colour: else a coloured digit on black would have the predictor mostly tell where nothing is drawn.

    Args:
        images: (B, 3, H, W) uint8.
        size: places along each side, to each of which the nearest pixel is taken.

    Returns:
        (B, 3, size, size) int64, -1..7.
    """
    pixels = F.interpolate(images.float(), size, mode="nearest-exact")
    return torch.where(pixels > 0, (pixels / (256 / LEVELS)).long(), -1)


def colour_loss(logits: Tensor, levels: Tensor) -> Tensor:
    """Return the cross entropy of (B, 8, 3, H, W) logits where levels are not -1, summed over channels."""
    loss = F.cross_entropy(logits, levels, ignore_index=-1, reduction="sum")
    return 3 * loss / (levels >= 0).sum().clamp(min=1)  # a batch may be black


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

    A second network predicts the image's colours from the features after the second convolution; the classifier is
    trained to be right, to leave that network undecided (`negative_entropy`), and against its progress
    (`reverse_gradient`). What it predicts is the image itself at the 16x16 places of the feature map, in eight levels a
    channel, black left out: the same for one colour, for two and for textures. Features, levels and weights are those
    of the released code, which is of coloured digits alone; CGN's paper does not say what it predicted elsewhere.
    Classifier and predictor take one step together, where the released code takes two, by the optimiser of the other
    rows, for few epochs instead of 100, and from random weights, where its script starts from a trained classifier.

    Args, returns and raises as `digit_classifier.fit_classifier`.
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
            predictor.requires_grad_(False)  # the features alone are to leave it undecided
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
