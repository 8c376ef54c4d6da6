"""torchvision v2 transforms: what happens to images on their way into a loop."""
