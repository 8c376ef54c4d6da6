"""CGN's multi-head classifier in Lightning, on photographs and counterfactuals.

python examples/lightning_module.py FOLDER

FOLDER has one folder per class, ten in total. Needs lightning. Lightning moves batches to its
devices, and MixedLoader divides the images among them.

The lines that end in `# genaug` are all that differ from a loop without generated images.
"""

import sys
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from genaug import CounterfactualDataset, MixedLoader, MultiHeadLoss, MultiHeadResNet  # genaug

SIZE = 32


class Classifier(lightning.LightningModule):
    """Three heads, each of which learns its own factor from the counterfactuals."""

    def __init__(self) -> None:
        super().__init__()
        self.model = MultiHeadResNet("resnet18", num_classes=10)  # genaug
        self.criterion = MultiHeadLoss()  # genaug

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        images, targets = batch
        loss = self.criterion(self.model(images, heads=True), targets)  # genaug
        self.log("loss", loss, prog_bar=True, batch_size=len(images))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)


def main(folder: str, **trainer_options: Any) -> float:
    augmentation = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    photographs = ImageFolder(folder, augmentation)
    options = {"targets": "all", "transform": augmentation, "output": "pil"}  # genaug
    counterfactuals = CounterfactualDataset("cgn-digits", length=100_000, **options)  # genaug

    real = DataLoader(photographs, batch_size=32, shuffle=True, drop_last=True)
    generated = DataLoader(counterfactuals, batch_size=32, shuffle=True)  # genaug
    trainer = lightning.Trainer(**{"max_epochs": 1, **trainer_options})
    trainer.fit(Classifier(), MixedLoader(real, generated))  # genaug
    return float(trainer.callback_metrics["loss"])


if __name__ == "__main__":
    main(sys.argv[1])
