"""What `genaug assets pull --for` downloads. A module of its own: the command line shows the names without torch."""

TASKS = {
    "counterfactuals": ("cgn-imagenet-256",),
    "interventions": ("biggan-deep-256",),
    "style-transfer": ("vgg19", "adain-encoder", "adain-decoder"),
    "cgn-imagenet-training": ("biggan-deep-256", "u2net", "vgg16", "vgg16-bn"),
}
