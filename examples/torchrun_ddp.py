"""The plain loop in several processes, which share the photographs and the generated images.

torchrun --nproc-per-node 2 examples/torchrun_ddp.py FOLDER

FOLDER has one folder per class, ten in total.

The lines that end in `# genaug` are all that differ from a loop without generated images.
"""

import os
import sys

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import v2

from genaug import GenerativeInterventionDataset, GenIntLoss, MixedLoader  # genaug

SIZE = 32


def main(folder: str, epochs: int = 1) -> float:
    cuda = torch.cuda.is_available()
    distributed.init_process_group("nccl" if cuda else "gloo")
    rank, world = distributed.get_rank(), distributed.get_world_size()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    torch.manual_seed(rank)  # crops and flips are each process's own

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

    # the batches of both papers are of all processes together, among which MixedLoader shares the images
    real = DataLoader(photographs, batch_size=32 // world, shuffle=True, drop_last=True)
    generated = DataLoader(interventions, batch_size=8 // world, shuffle=True)  # genaug
    loader = MixedLoader(real, generated, device=device)  # genaug
    criterion = GenIntLoss((1.0, 0.05))  # genaug

    model = DistributedDataParallel(resnet18(num_classes=len(photographs.classes)).to(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    loss = torch.zeros(())
    for epoch in range(epochs):
        for images, targets in loader:  # genaug
            loss = criterion(model(images), targets)  # genaug
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if rank == 0:
            print(f"epoch {epoch}: loss {loss.item():.3f}")
    distributed.destroy_process_group()
    return loss.item()


if __name__ == "__main__":
    main(sys.argv[1])
