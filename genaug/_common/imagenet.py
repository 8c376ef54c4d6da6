"""Mean and standard deviation of torchvision's ImageNet classifiers, per channel, for pixels in [0, 1]."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
