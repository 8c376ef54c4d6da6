"""What the principal directions of a generator change.

python examples/pictures/principal_directions.py

Each row moves the same two digits along one direction. 0 is where they were drawn.
"""

import matplotlib.pyplot as plt
import torch

from genaug import GenerativeInterventionDataset

dataset = GenerativeInterventionDataset("vae-digits", components=4)
steps = torch.linspace(-3, 3, 7).tolist()

figure, axes = plt.subplots(4, 1, figsize=(5.4, 6), layout="constrained")
for direction, axis in enumerate(axes):
    moved = [torch.cat(list(dataset.moved([3, 8], {direction: step})), dim=1) for step in steps]
    axis.imshow(torch.cat(moved, dim=2).permute(1, 2, 0).numpy())
    axis.set(xticks=[32 * i + 16 for i in range(7)], xticklabels=[], yticks=[], ylabel=f"direction {direction}")
axes[-1].set(xticklabels=[f"{step:+g}" if step else "0" for step in steps], xlabel="standard deviations")
plt.show()
