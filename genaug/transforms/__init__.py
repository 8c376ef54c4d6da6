"""torchvision v2 transforms."""
