"""A timm model with timm's augmentation and Mixup, on photographs and generative interventions.

python examples/timm_backbone.py FOLDER

FOLDER has one folder per class, ten in total. Needs timm. Mixup turns labels into probabilities.

The lines that end in `# genaug` are all that differ from a loop without generated images.
"""

import sys

import timm
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from genaug import GenerativeInterventionDataset, GenIntLoss, MixedLoader  # genaug

SIZE = 32


def main(folder: str, epochs: int = 1, device: str = "cuda" if torch.cuda.is_available() else "cpu") -> float:
    model = timm.create_model("resnet18", num_classes=10).to(device)  # pretrained=True starts from published weights
    config = {**timm.data.resolve_model_data_config(model), "input_size": (3, SIZE, SIZE)}
    augmentation = timm.data.create_transform(**config, is_training=True)
    photographs = ImageFolder(folder, augmentation)
    as_photographs = {"transform": augmentation, "output": "pil"}  # genaug
    interventions = GenerativeInterventionDataset("vae-digits", components=12, scale=10.0, **as_photographs)  # genaug

    real = DataLoader(photographs, batch_size=32, shuffle=True, drop_last=True)
    generated = DataLoader(interventions, batch_size=8, shuffle=True)  # genaug
    mixup = timm.data.Mixup(mixup_alpha=0.2, label_smoothing=0.1, num_classes=10)
    criterion = GenIntLoss((1.0, 0.05))  # genaug

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss = torch.zeros(())
    for epoch in range(epochs):
        for images, targets in MixedLoader(real, generated, device=device):  # genaug
            images, targets["labels"] = mixup(images, targets.labels)  # genaug
            loss = criterion(model(images), targets)  # genaug
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")
    return loss.item()


if __name__ == "__main__":
    main(sys.argv[1])
