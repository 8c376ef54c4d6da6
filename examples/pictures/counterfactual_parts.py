"""The parts of counterfactual digits.

python examples/pictures/counterfactual_parts.py

Each image is made of a mask, a texture and a background. Each part has its own class.
"""

import matplotlib.pyplot as plt

from genaug import CounterfactualDataset

dataset = CounterfactualDataset("cgn-double-colored-mnist", seed=0)
parts = dataset.combine(shape=[6, 2, 8, 7, 3], texture=[37, 5, 9, 14, 21], background=[9, 31, 4, 18, 26])

rows = {"mask": parts.mask, "texture": parts.texture, "background": parts.background, "image": parts.image}
figure, axes = plt.subplots(len(rows), 5, figsize=(7, 5.8), layout="constrained")
for line, (name, images) in zip(axes, rows.items(), strict=True):
    line[0].set_ylabel(name)
    for axis, image in zip(line, images, strict=True):
        axis.imshow(image.permute(1, 2, 0).numpy(), cmap="gray")
        axis.set(xticks=[], yticks=[])

# %%
# Keep the shape and the background, and change the texture:

images = dataset.combine(shape=6, texture=[37, 5, 9, 14, 21], background=9).image
figure, axes = plt.subplots(1, 5, figsize=(7, 1.6), layout="constrained")
for axis, image in zip(axes, images, strict=True):
    axis.imshow(image.permute(1, 2, 0).numpy())
    axis.set(xticks=[], yticks=[])
plt.show()
