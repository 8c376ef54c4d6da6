"""Objects of photographs on other backgrounds.

python examples/pictures/background_swaps.py

The photographs are drawn here. Replace the folder by your own, with one folder per class.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image, ImageDraw, ImageFilter

from genaug import CounterfactualDataset, PhotographBank

# %%
# Draw a photograph of each class: a shape between a sky and a ground.

scenes = {
    "disc": ("#8ec5ff", "#5d9b3a", "#d03020"),
    "box": ("#ffd9a0", "#c08040", "#2040d0"),
    "kite": ("#b9a0d8", "#3a2a5a", "#f0d020"),
}
folder = Path(tempfile.mkdtemp())
for name, (sky, ground, color) in scenes.items():
    image = Image.new("RGB", (256, 256), sky)
    ImageDraw.Draw(image).rectangle((0, 160, 256, 256), ground)
    image = image.filter(ImageFilter.GaussianBlur(3))
    draw = ImageDraw.Draw(image)
    if name == "kite":
        draw.polygon([(128, 50), (188, 120), (128, 210), (68, 120)], color)
    else:
        (draw.ellipse if name == "disc" else draw.rectangle)((78, 90, 178, 190), color)
    (folder / "photographs" / name).mkdir(parents=True)
    image.save(folder / "photographs" / name / "1.png")

# %%
# Cut the objects out, and put each onto each background.

bank = PhotographBank.build(folder / "photographs", folder / "bank", size=128, keep_doubtful=True)

figure, axes = plt.subplots(3, 3, figsize=(6, 6.2), layout="constrained")
for line, shape in zip(axes, scenes, strict=True):
    line[0].set_ylabel(shape)
    for axis, background in zip(line, scenes, strict=True):
        classes = {"shape": shape, "texture": shape, "background": background}
        composite = CounterfactualDataset(bank, seed=0, classes=classes).combine(shape=0).image[0]
        axis.imshow(composite.permute(1, 2, 0).numpy())
        axis.set(xticks=[], yticks=[], title=f"background of {background}" if shape == "disc" else "")
plt.show()
