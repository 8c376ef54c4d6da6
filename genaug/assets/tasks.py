"""The tasks of `genaug assets pull --for`, in a separate module so that the command line needs no torch."""

TASKS = {
    "counterfactuals": ("cgn-imagenet-256",),
    "interventions": ("biggan-deep-256",),
    "style-transfer": ("vgg19", "adain-encoder", "adain-decoder"),
    "cgn-imagenet-training": ("biggan-deep-256", "u2net", "vgg16", "vgg16-bn"),
}
