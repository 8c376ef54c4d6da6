"""A plain PyTorch loop on photographs and generative interventions.

python examples/plain_loop.py FOLDER

FOLDER has one folder per class, ten in total. `genaug train classifier --preset genint --tiny --out runs/tiny` writes
such a folder of digits to runs/tiny/data/train. For ImageNet, use the generator "biggan-deep-256" without `components`
and `scale`, and SIZE = 224.

The lines that end in `# genaug` are all that differ from a loop without generated images.
"""

import sys

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import v2

from genaug import GenerativeInterventionDataset, GenIntLoss, MixedLoader  # genaug

SIZE = 32


def main(folder: str, epochs: int = 1, device: str = "cuda" if torch.cuda.is_available() else "cpu") -> float:
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
