"""The digit classifier of CGN's Table 2."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug._common.arguments import check_integer


class _DigitsClassifier(nn.Module):
    """Common base of both classifiers: checks images, makes a feature map and classifies it."""

    takes_signed = True  # tells measures to convert uint8 images to [-1, 1]
    features: Callable[[Tensor], Tensor]
    classify: Callable[[Tensor], Tensor]

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes) for images (B, 3, 32, 32), floats in [-1, 1].

        Raises:
            TypeError: the images are integers.
            ValueError: the images have another shape.
        """
        if not images.is_floating_point():
            raise TypeError(f"images must be floats in [-1, 1], got {images.dtype}")
        if images.ndim != 4 or images.shape[1:] != (3, 32, 32):
            raise ValueError(f"images must have the shape (B, 3, 32, 32), got {tuple(images.shape)}")
        return self.classify(self.features(images))


class MnistCNN(_DigitsClassifier):
    """The small CNN of CGN's Table 2 (section 4.1), as the authors released it.

    Batch norm of the colors, four convolutions of 32, 32, 64 and 64 channels with ReLU, a max pool after the first,
    an average pool, and a linear layer. The last feature map is 8x8 and the window of the average pool 7x7, so the
    map's last row and column never reach the linear layer.

    Args:
        num_classes: number of classes.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, affine=False)
        self.norm_weight = nn.Parameter(torch.ones(3))
        self.norm_bias = nn.Parameter(torch.zeros(3))
        self.conv1 = nn.Conv2d(3, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv2d(64, 64, 3, padding=1)
        self.linear = nn.Linear(64, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Return the feature map after the second convolution, (B, 32, 16, 16), of images (B, 3, 32, 32)."""
        # ReLU and max pool commute, and after the pool ReLU has only a quarter of the values to compute
        x = F.relu(F.max_pool2d(self._first_convolution(images), 3, stride=2, padding=1))
        return F.relu(self.conv2(x))

    def classify(self, features: Tensor) -> Tensor:
        """Return logits (B, num_classes) of a feature map (B, 32, 16, 16)."""
        x = F.relu(self.conv4(F.relu(self.conv3(features))))
        return self.linear(F.avg_pool2d(x, 7).flatten(1))

    def _first_convolution(self, images: Tensor) -> Tensor:
        # The batch norm's scale and offset are folded into the kernel, the offset as the weight of a channel of ones,
        # which is also zero outside the image. Their gradients then follow from the kernel's. So the images need no
        # gradient, which would be the costliest part of a training step: a quarter of it on a CPU.
        x = F.pad(self.norm(images), (0, 0, 0, 0, 0, 1), value=1.0)
        kernel = self.conv1.weight
        offset = (kernel * self.norm_bias[:, None, None]).sum(dim=1, keepdim=True)
        kernel = torch.cat([kernel * self.norm_weight[:, None, None], offset], dim=1)
        return F.conv2d(x, kernel, self.conv1.bias, padding=2)


class NormalisedMnistCNN(_DigitsClassifier):
    """`MnistCNN` with batch norm after each convolution, and with more than one average of the last feature map.

    It is not the papers' classifier, but learns much faster.

    Args:
        num_classes: number of classes.
        contrast: whether every channel of every image is normalized to mean 0 and deviation 1. A digit that differs
            from its background by a few gray levels is then as visible as any other. This helps with colors and hurts
            with textures. If False, channels are normalized over the batch.
        places: the last feature map is averaged over places x places equal parts: 1, 2, 4 or 8. With 1, the linear
            layer cannot tell where in the image a stroke is.

    Raises:
        TypeError: `places` is no integer.
        ValueError: `places` is another number.
    """

    def __init__(self, num_classes: int = 10, *, contrast: bool = True, places: int = 4) -> None:
        super().__init__()
        if (places := check_integer("places", places)) not in (1, 2, 4, 8):
            raise ValueError(f"places must be 1, 2, 4 or 8, got {places}")
        self.contrast = contrast
        self.norm = nn.BatchNorm2d(3, affine=False)
        self.conv1 = nn.Conv2d(3, 32, 5, padding=2, bias=False)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False)
        self.conv4 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(32), nn.BatchNorm2d(32)
        self.norm3, self.norm4 = nn.BatchNorm2d(64), nn.BatchNorm2d(64)
        self.average = nn.AvgPool2d(8 // places)
        self.linear = nn.Linear(64 * places**2, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Return the feature map after the second convolution, (B, 32, 16, 16), of images (B, 3, 32, 32)."""
        if self.contrast:
            # half a gray level is added to the deviation, so that differences due to rounding are not amplified
            deviation, mean = torch.std_mean(images, dim=(2, 3), keepdim=True, correction=0)
            x = (images - mean) / (deviation + 0.5 / 127.5)
        else:
            x = self.norm(images)
        x = F.relu(self.norm1(F.max_pool2d(self.conv1(x), 3, stride=2, padding=1)))
        return F.relu(self.norm2(self.conv2(x)))

    def classify(self, features: Tensor) -> Tensor:
        """Return logits (B, num_classes) of a feature map (B, 32, 16, 16)."""
        x = F.relu(self.norm3(self.conv3(features)))
        x = F.relu(self.norm4(self.conv4(x)))
        return self.linear(self.average(x).flatten(1))
