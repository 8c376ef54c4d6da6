"""Hugging Face's Trainer on photographs and generative interventions.

python examples/hf_trainer.py FOLDER

FOLDER has one folder per class, ten in total. Needs transformers and accelerate. Batches remain dicts
of "pixel_values" and "labels".

The lines that end in `# genaug` are all that differ from a loop without generated images.
"""

import sys
from typing import Any

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

from genaug import GenerativeInterventionDataset, MixedLoader  # genaug

SIZE = 32


class MixedTrainer(Trainer):  # genaug
    def get_train_dataloader(self) -> Any:  # genaug
        return MixedLoader(super().get_train_dataloader(), self.generated, labels_only=True)  # genaug


def collate(samples: list[Any]) -> dict[str, torch.Tensor]:
    images, labels = zip(*samples, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}


def main(folder: str, out: str = "runs/hf", **arguments: Any) -> float:
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
    as_photographs = {"transform": augmentation, "output": "pil"}  # genaug
    interventions = GenerativeInterventionDataset("vae-digits", components=12, scale=10.0, **as_photographs)  # genaug

    sizes = {"embedding_size": 32, "hidden_sizes": [32, 64], "depths": [1, 1], "layer_type": "basic"}
    model = ResNetForImageClassification(ResNetConfig(**sizes, num_labels=10))
    given = {"per_device_train_batch_size": 32, "num_train_epochs": 1, "remove_unused_columns": False, **arguments}
    trainer = MixedTrainer(model, TrainingArguments(out, **given), collate, photographs)  # genaug
    trainer.generated = DataLoader(interventions, batch_size=8, shuffle=True)  # genaug
    return trainer.train().training_loss


if __name__ == "__main__":
    main(sys.argv[1])
