"""A plain PyTorch loop on photographs and generative interventions.

python examples/plain_loop.py FOLDER

FOLDER has one folder per class, ten in total. `genaug train classifier --row genint --tiny --out runs/tiny` writes such
a folder of digits to runs/tiny/data/train. For ImageNet, use the generator "biggan-deep-256" without `components` and
`scale`, and SIZE = 224.
"""

import sys

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import v2

from genaug import GenerativeInterventionDataset, GenIntLoss, MixedLoader
from genaug.transforms.batch import MEAN, STD

SIZE = 32


def main(folder: str, epochs: int = 1, device: str = "cuda" if torch.cuda.is_available() else "cpu") -> float:
    augmentation = v2.Compose(
        [
            *(v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip()),
            *(v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)),
        ]
    )
    photographs = ImageFolder(folder, augmentation)
    options = {
        "components": 12,
        "scale": 10.0,
        "transform": augmentation,
        "output": "pil",
    }  # as photographs
    interventions = GenerativeInterventionDataset("cgan-digits", **options)

    real = DataLoader(photographs, batch_size=32, shuffle=True, drop_last=True)
    generated = DataLoader(interventions, batch_size=8, shuffle=True)
    loader = MixedLoader(real, generated, device=device)
    criterion = GenIntLoss((1.0, 0.05))

    model = resnet18(num_classes=len(photographs.classes)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    loss = torch.zeros(())
    for epoch in range(epochs):
        for images, targets in loader:
            loss = criterion(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")
    return loss.item()


if __name__ == "__main__":
    main(sys.argv[1])
