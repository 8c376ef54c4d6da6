"""A plain PyTorch loop with augmentation by albumentations.

python examples/albumentations_loop.py FOLDER

FOLDER has one folder per class, ten in total. Needs albumentations. Generated images go through the same pipeline.

The lines that end in `# genaug` are all that differ from a loop without generated images.
"""

import sys
from typing import Any

import albumentations
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18

from genaug import GenerativeInterventionDataset, GenIntLoss, MixedLoader  # genaug

SIZE = 32


class Augmentation:
    """A pipeline of albumentations as a transform of PIL images."""

    def __init__(self, *steps: Any) -> None:
        self.pipeline = albumentations.Compose([*steps, albumentations.Normalize(), ToTensorV2()])

    def __call__(self, image: Any) -> torch.Tensor:
        return self.pipeline(image=np.asarray(image))["image"]


def main(folder: str, epochs: int = 1, device: str = "cuda" if torch.cuda.is_available() else "cpu") -> float:
    augmentation = Augmentation(
        albumentations.RandomResizedCrop((SIZE, SIZE)),
        albumentations.HorizontalFlip(),
        albumentations.CoarseDropout(),
    )
    photographs = ImageFolder(folder, augmentation)
    as_photographs = {"transform": augmentation, "output": "pil"}  # genaug
    interventions = GenerativeInterventionDataset("vae-digits", components=12, scale=10.0, **as_photographs)  # genaug

    real = DataLoader(photographs, batch_size=32, shuffle=True, drop_last=True)
    generated = DataLoader(interventions, batch_size=8, shuffle=True)  # genaug
    loader = MixedLoader(real, generated, device=device)  # genaug
    criterion = GenIntLoss((1.0, 0.05))  # genaug

    model = resnet18(num_classes=len(photographs.classes)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    loss = torch.zeros(())
    for epoch in range(epochs):
        for images, targets in loader:  # genaug
            loss = criterion(model(images), targets)  # genaug
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")
    return loss.item()


if __name__ == "__main__":
    main(sys.argv[1])
