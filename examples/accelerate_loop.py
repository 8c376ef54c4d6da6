"""The plain loop in Hugging Face's Accelerate, for one process or many.

accelerate launch examples/accelerate_loop.py FOLDER

FOLDER has a folder a class, ten of them. Needs accelerate.
"""

import sys

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import v2

from genaug import GenerativeInterventionDataset, GenIntLoss, MixedLoader
from genaug.transforms.batch import MEAN, STD, BatchAugmentation, BatchCollate

SIZE = 32


def main(folder: str, epochs: int = 1) -> float:
    accelerator = Accelerator()
    augmentation = v2.Compose(
        [
            *(v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip()),
            *(v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)),
        ]
    )
    photographs = ImageFolder(folder, augmentation)
    # generated where they are used, with a seed for each process
    seed, device = accelerator.process_index, accelerator.device
    interventions = GenerativeInterventionDataset("cgan-digits", seed=seed, components=12, scale=10.0, device=device)

    model = resnet18(num_classes=len(photographs.classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    real = DataLoader(photographs, batch_size=32, shuffle=True, drop_last=True)
    model, optimizer, real = accelerator.prepare(model, optimizer, real)  # the photographs' loader alone
    generated = DataLoader(interventions, 8, shuffle=True, collate_fn=BatchCollate(BatchAugmentation(SIZE)))
    loader = MixedLoader(real, generated, device=device)
    criterion = GenIntLoss((1.0, 0.05))

    loss = torch.zeros(())
    for epoch in range(epochs):
        for images, targets in loader:
            loss = criterion(model(images), targets)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        accelerator.print(f"epoch {epoch}: loss {loss.item():.3f}")
    return loss.item()


if __name__ == "__main__":
    main(sys.argv[1])
