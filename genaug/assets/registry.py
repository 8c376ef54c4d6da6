"""The one table of assets: what each is, where it comes from, and how to know that a file is the right one.

Reading this module opens no file and no connection. A new asset is one row.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


class AssetError(RuntimeError):
    """An asset that cannot be had or is not what it should be; the message says which, where it was sought, and why."""


class UnavailableAssetError(AssetError):
    """The same where the caller is not at fault: the network fails, or a file of ours is missing or damaged."""


# where the project publishes its own weights: the owner of the repositories that `publish` is given without one
NAMESPACE = os.environ.get("GENAUG_NAMESPACE", "genaug")


@dataclass(frozen=True)
class Asset:
    """One row of the table: an asset that ships with the package, lies on the network, or has no known home yet.

    The store fetches a file only where it can tell that it is the right one: it wants a checksum, and either a
    repository with a revision or a URL. Any other row tells its user how to supply the file.

    Attributes:
        name: what users call it.
        file: the file's name where it is kept.
        kind: which network the weights are for, or "directions"; one of `genaug.assets.layouts.KINDS`.
        sha256: of the file, in hexadecimal; fewer than 64 digits where its publisher names no more; None if not known.
        size: of the file, in bytes; None if not known.
        licence: SPDX identifier of the weights' licence, or "unknown".
        what: one line for a reader who chooses.
        paper: where the method is described.
        source: how the weights came about: a command of this project, or whose release.
        figures: what they measured here, with the number of runs, or "not run".
        repository: the Hub repository; None for weights that ship with the package or are not on the Hub.
        revision: the pinned commit of that repository; None if not known.
        url: the file where it is not on the Hub: fetched if there is a checksum, otherwise named to the user.
        embedded: whether it ships with the package.
    """

    name: str
    file: str
    kind: str
    sha256: str | None
    size: int | None
    licence: str
    what: str
    paper: str
    source: str
    figures: str
    repository: str | None = None
    revision: str | None = None
    url: str | None = None
    embedded: bool = False

    @property
    def home(self) -> str | None:
        """Where the file is, as a URL for people; None if that is not known."""
        if self.repository is None:
            return self.url
        page = f"https://huggingface.co/{self.repository}"
        return page if self.revision is None else f"{page}/resolve/{self.revision}/{self.file}"

    @property
    def pinned(self) -> bool:
        """Whether the network can be asked for the file, since it can be told from any other."""
        return self.sha256 is not None and (self.url if self.repository is None else self.revision) is not None


_CGN = "Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021, section 4.1"
_GENINT = "Mao et al., Generative Interventions for Causal Learning, CVPR 2021, section 4.1"
_BIGGAN = "Brock et al., Large Scale GAN Training for High Fidelity Natural Image Synthesis, ICLR 2019"
_BUCKET = "https://s3.amazonaws.com/models.huggingface.co/biggan"
_VGG = "Simonyan and Zisserman, Very Deep Convolutional Networks, ICLR 2015"

_ROWS = (
    Asset(
        name="cgn-colored-mnist",
        file="cgn-colored-mnist.safetensors",
        kind="cgn-mnist",
        sha256="7b6cd416b467b82a7d9da19cb9c3b23970928d3b3c8374f0abebf5f0a2b66fcd",
        size=1_351_728,
        licence="MIT",
        what="counterfactual digits: coloured digits on black",
        paper=_CGN,
        source="genaug train cgn-mnist --variant colored",
        figures="CGN, Table 2, 100,000 counterfactuals alone: test accuracy 94.1% +/- 0.5 (n=3, bfloat16, cpu)",
        embedded=True,
    ),
    Asset(
        name="cgn-double-colored-mnist",
        file="cgn-double-colored-mnist.safetensors",
        kind="cgn-mnist",
        sha256="1b9d2ad367dde550006526270040f4e74e7a97f023af7f77487b39428fd5939d",
        size=1_351_928,
        licence="MIT",
        what="counterfactual digits: coloured digits on coloured backgrounds",
        paper=_CGN,
        source="genaug train cgn-mnist --variant double-colored",
        figures="CGN, Table 2, 100,000 counterfactuals alone: test accuracy 88.9% +/- 0.9 (n=3, bfloat16, cpu)",
        embedded=True,
    ),
    Asset(
        name="cgn-wildlife-mnist",
        file="cgn-wildlife-mnist.safetensors",
        kind="cgn-mnist",
        sha256="b60b25335ce2cbbae5752a0c5dda5fb2cf660cba780caad819bf851c55fdda11",
        size=1_351_624,
        licence="MIT",
        what="counterfactual digits: striped digits on veined backgrounds",
        paper=_CGN,
        source="genaug train cgn-mnist --variant wildlife",
        figures="CGN, Table 2, 100,000 counterfactuals alone: test accuracy 84.7% +/- 0.8 (n=3, bfloat16, cpu)",
        embedded=True,
    ),
    Asset(
        name="cgn-digits",
        file="cgn-digits.safetensors",
        kind="cgn-mnist",
        sha256="3cb95b86aab37c22b279ba22fbdf497bb689bb7852d90c7b2d0e5bdb60ef7d87",
        size=1_351_648,
        licence="MIT",
        what="counterfactual digits of the demo, learnt from its own biased scikit-learn digits",
        paper=_CGN,
        source="genaug train cgn-mnist --variant digits",
        figures="not run",
        embedded=True,
    ),
    Asset(
        name="cgan-digits",
        file="cgan-digits.safetensors",
        kind="conditional-digits",
        sha256="8c84072b75ff653b6937adf560b0e037377c7dcb999024ea8080f098e191fc9c",
        size=623_592,
        licence="MIT",
        what="conditional digits of the demo (a VAE's decoder), learnt from its own biased scikit-learn digits",
        paper=_GENINT,
        source="genaug train cgan-digits",
        figures="demo, 10,000 interventions, 12 components, scale 10: test accuracy 82.0 +/- 2.4% (n=3, CPU, 1 thread)",
        embedded=True,
    ),
    Asset(
        name="biggan-deep-128",
        file="pytorch_model.bin",
        kind="biggan-deep",
        sha256=None,
        size=None,
        licence="unknown",
        what="ImageNet at 128 pixels, 1,000 classes",
        paper=_BIGGAN,
        source="DeepMind's release, converted by pytorch-pretrained-biggan",
        figures="not run",
        repository="osanseviero/BigGAN-deep-128",
    ),
    Asset(
        name="biggan-deep-256",
        file="biggan-deep-256-pytorch_model.bin",
        kind="biggan-deep",
        sha256=None,
        size=None,
        licence="unknown",
        what="ImageNet at 256 pixels, 1,000 classes",
        paper=_BIGGAN,
        source="DeepMind's release, converted by pytorch-pretrained-biggan",
        figures="not run",
        url=f"{_BUCKET}/biggan-deep-256-pytorch_model.bin",
    ),
    Asset(
        name="biggan-deep-512",
        file="biggan-deep-512-pytorch_model.bin",
        kind="biggan-deep",
        sha256=None,
        size=None,
        licence="unknown",
        what="ImageNet at 512 pixels, 1,000 classes",
        paper=_BIGGAN,
        source="DeepMind's release, converted by pytorch-pretrained-biggan",
        figures="not run",
        url=f"{_BUCKET}/biggan-deep-512-pytorch_model.bin",
    ),
    Asset(
        name="cgn-imagenet-256",
        file="cgn.pth",
        kind="cgn-imagenet",
        sha256=None,
        size=None,
        licence="MIT",
        what="counterfactual ImageNet at 256 pixels: shape, texture and background of three classes",
        paper="Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021, section 3",
        source="the CGN authors' release (github.com/autonomousvision/counterfactual_generative_networks links to it)",
        figures="not run",
    ),
    Asset(
        name="u2net",
        file="pytorch_model.bin",
        kind="u2net",
        sha256=None,
        size=None,
        licence="Apache-2.0",
        what="saliency: which pixels are the object",
        paper="Qin et al., U2-Net, Pattern Recognition 2020",
        source="the U2-Net authors' release",
        figures="not run",
        repository="netradrishti/u2net-saliency",
    ),
    # torchvision names its files by the first eight digits of their checksum, and publishes no more: enough to notice
    # damage, not forgery. All 64 of the first are on record in many public projects.
    Asset(
        name="vgg16",
        file="vgg16-397923af.pth",
        kind="vgg16",
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        size=553_433_881,
        licence="BSD-3-Clause",
        what="features for style and perceptual losses, of ImageNet",
        paper=_VGG,
        source="torchvision, VGG16_Weights.IMAGENET1K_V1; timm/vgg16.tv_in1k on the Hub has the same weights",
        figures="not run",
        url="https://download.pytorch.org/models/vgg16-397923af.pth",
    ),
    Asset(
        name="vgg16-bn",
        file="vgg16_bn-6c64b313.pth",
        kind="vgg16-bn",
        sha256="6c64b313",
        size=None,
        licence="BSD-3-Clause",
        what="features for the perceptual losses of CGN's paper: VGG16 with batch norm, of ImageNet",
        paper=_VGG,
        source="torchvision, VGG16_BN_Weights.IMAGENET1K_V1; timm/vgg16_bn.tv_in1k on the Hub has the same weights",
        figures="not run",
        url="https://download.pytorch.org/models/vgg16_bn-6c64b313.pth",
    ),
    Asset(
        name="vgg19",
        file="vgg19-dcbb9e9d.pth",
        kind="vgg19",
        sha256="dcbb9e9d",
        size=None,
        licence="BSD-3-Clause",
        what="features for style transfer, of ImageNet",
        paper=_VGG,
        source="torchvision, VGG19_Weights.IMAGENET1K_V1; timm/vgg19.tv_in1k on the Hub has the same weights",
        figures="not run",
        url="https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
    ),
    Asset(
        name="adain-decoder",
        file="decoder.pth",
        kind="adain-decoder",
        sha256=None,
        size=None,
        licence="MIT",
        what="style transfer in one pass: features back to an image",
        paper="Huang and Belongie, Arbitrary Style Transfer in Real-time, ICCV 2017",
        source="naoto0804/pytorch-AdaIN, release v0.0.0",
        figures="not run",
        url="https://github.com/naoto0804/pytorch-AdaIN/releases/download/v0.0.0/decoder.pth",
    ),
    Asset(
        name="adain-encoder",
        file="vgg_normalised.pth",
        kind="adain-encoder",
        sha256=None,
        size=None,
        licence="MIT",
        what="features for style transfer in one pass: the VGG19 that adain-decoder was trained for",
        paper="Huang and Belongie, Arbitrary Style Transfer in Real-time, ICCV 2017",
        source="naoto0804/pytorch-AdaIN, release v0.0.0",
        figures="not run",
        url="https://github.com/naoto0804/pytorch-AdaIN/releases/download/v0.0.0/vgg_normalised.pth",
    ),
    *(
        Asset(
            name=f"biggan-deep-{size}-directions",
            file=f"biggan-deep-{size}-directions.safetensors",
            kind="directions",
            sha256=None,
            size=None,
            licence="unknown",
            what=f"80 exact directions of biggan-deep-{size}'s gen_z: those of directions=None",
            paper=_GENINT,
            source=(
                f"genaug.fit_directions(genaug.load_generator('biggan-deep-{size}'))"
                f".save('biggan-deep-{size}-directions.safetensors')"
            ),
            figures="not run",
        )
        for size in (128, 256, 512)
    ),
    # the authors publish none of these files: their code writes one at its first run, under this name
    Asset(
        name="genint-directions",
        file="biggan-256-husky_generator.gen_z_ipca_c80_n1000000.npz",
        kind="directions",
        sha256=None,
        size=None,
        licence="unknown",
        what="80 sampled directions of biggan-deep-256's gen_z, for scale='released'",
        paper=_GENINT,
        source=(
            "a run of the GenInt authors' code (github.com/cvlab-columbia/GenInt, IntervenedGAN: model BigGAN-256, "
            "class husky, layer generator.gen_z, n 1000000), which comes without it"
        ),
        figures="not run",
    ),
)

ASSETS = {row.name: row for row in _ROWS}
