"""The counterfactual generative network for ImageNet, in a trainable and a fast version.

CGN, section 3.1: three BigGAN-deep networks make a pre-mask, a texture and a background, each from its own noise and
class. U2-Net cuts the mask out of the pre-mask, and a fixed composer blends mask, texture and background. Parameters
have the names of the authors' released checkpoint, which therefore loads unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genaug.assets.registry import Kind, register
from genaug.generators.biggan import BIGGAN_CONFIGS, BigGANDeep, complaint
from genaug.generators.biggan_network import Statistics
from genaug.generators.pretrained import Pretrained
from genaug.generators.u2net import U2Net
from genaug.interventions.composition import MASK_RANGE, compose

# the same architecture for 32 pixels and ten classes, with 0.3% of the parameters, for tests and examples
MINIATURE: dict[str, Any] = {
    "output_dim": 32,
    "z_dim": 16,
    "class_embed_dim": 16,
    "channel_width": 8,
    "num_classes": 10,
    "layers": [[True, 16, 8], [True, 8, 4], [True, 4, 2], [False, 2, 1]],
    "attention_layer_position": 2,
    "eps": 1e-4,
    "n_stats": 51,
    "u2net_width": 8,
}

# the classes of ImageNet that the authors judged best for each factor, their sampling mode "best_classes"
BEST_CLASSES = {
    factor: tuple(map(int, classes.split()))
    for factor, classes in {
        "shape": (
            "9 18 22 35 56 63 96 97 119 207 225 260 275 323 330 350 370 403 411 414 427 438 439 441 460 484 493 "
            "518 532 540 550 559 561 570 604 647 688 713 724 749 751 756 759 779 780 802 814 833 841 849 850 859 "
            "869 872 873 874 876 880 881 883 894 897 898 900 907 930 933 945 947 949 950 953 963 966 967 980"
        ),
        "texture": (
            "12 15 18 25 54 66 72 130 145 207 251 267 271 275 293 323 385 388 407 409 427 438 439 441 454 461 468 "
            "482 483 486 490 492 509 530 555 607 608 629 649 652 681 688 719 720 728 737 741 751 756 779 800 810 "
            "850 852 854 869 881 907 911 930 936 937 938 941 949 950 951 954 957 959 963 966 985 987 992"
        ),
        "background": (
            "7 9 20 30 35 46 50 65 72 93 96 97 119 133 147 337 350 353 354 383 429 460 693 801 888 947 949 952 "
            "953 955 958 970 972 973 974 977 979 998"
        ),
    }.items()
}

Three = Tensor | Sequence[Tensor]


class Parts(NamedTuple):
    """The outputs of the mechanisms for a batch."""

    premask: Tensor  # (B, 3, H, W) in [-1, 1]: the image of the shape's BigGAN
    mask: Tensor  # (B, 1, H, W) in [1e-4, 1 - 1e-4]: 1 shows the texture, 0 the background; at least float32
    texture: Tensor  # (B, 3, H, W) in [-1, 1]
    background: Tensor  # (B, 3, H, W) in [-1, 1]


class _Counterfactual(Pretrained, nn.Module):
    """Common base of both versions: three mechanisms, the saliency network and the composer."""

    asset_kind = "cgn-imagenet"
    noise = "truncated"
    separate_batches = True
    f_shape: Any
    f_text: Any
    f_bg: Any
    u2net: Any

    @property
    def best_classes(self) -> dict[str, tuple[int, ...]] | None:
        """Return the classes that the authors judged best for each factor, or None if these are not ImageNet's."""
        return BEST_CLASSES if self.num_classes == 1000 else None

    @property
    def z_dim(self) -> int:
        return self.f_shape.z_dim

    @property
    def num_classes(self) -> int:
        return self.f_shape.num_classes

    @property
    def image_size(self) -> int:
        return self.f_shape.image_size

    def parts(self, z: Three, labels: Three, truncation: float | Tensor = 1.0) -> Parts:
        """Run the three mechanisms, each on its own batch, and U2-Net on the pre-mask.

        Args:
            z: noise of the shape, texture and background mechanism, (B_s, z_dim), (B_t, z_dim), (B_b, z_dim), or one
                tensor that all three share. Normal noise, truncated to [-2, 2], already multiplied by the truncation.
                The paper draws one noise for each mechanism; the released code shares one.
            labels: their classes, (B_s,), (B_t,), (B_b,) int64, or one tensor for all.
            truncation: in (0, 1]; it selects the batch-norm statistics, see `BigGANDeep.forward`.

        Raises:
            ValueError: noise or labels are not one or three tensors, have another shape, or are out of range.
        """
        noise, classes = _three("z", z), _three("labels", labels)
        premask = self.f_shape(noise[0], classes[0], truncation)
        mask = self.saliency(premask).clamp(*MASK_RANGE)
        texture = self.f_text(noise[1], classes[1], truncation)
        return Parts(premask, mask, texture, self.f_bg(noise[2], classes[2], truncation))

    def mechanisms(self, z: Three, labels: Three, truncation: float | Tensor = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mask, texture and background of `parts`; arguments as in `parts`."""
        return self.parts(z, labels, truncation)[1:]

    def saliency(self, images: Tensor) -> Tensor:
        """Return the saliency (B, 1, H, W) in [0, 1] of images (B, 3, H, W) in [-1, 1].

        U2-Net gets the images unchanged, as in the released code, whose checkpoint was trained that way.
        """
        return self.u2net(images)

    def forward(self, z: Three, labels: Three, truncation: float | Tensor = 1.0) -> Tensor:
        """Return composite images (B, 3, H, W) in [-1, 1], in the mask's dtype; arguments as in `parts`."""
        mask, texture, background = self.mechanisms(z, labels, truncation)
        return compose(mask, texture.to(mask.dtype), background.to(mask.dtype))


class CGN(_Counterfactual):
    """The trainable version, with the state-dict keys of the authors' checkpoint.

    New weights are drawn from the global generator, as in any torch module. They give NaN until `power_iterate` has
    run.

    Args:
        config: 256 for the released network, or a configuration of BigGAN-deep as a dict, such as `MINIATURE`. Its
            entry `u2net_width` sets the width of U2-Net (default: 64).
        statistics: how BigGAN's batch-norm statistics are read from their tables; see `BigGANDeep`.
        target: whether to add `biggan_GT`, the BigGAN whose images training reconstructs (L_rec).

    Raises:
        ValueError: the configuration or `statistics` is unknown.
    """

    def __init__(
        self, config: int | Mapping[str, Any] = 256, *, statistics: Statistics = "interpolated", target: bool = False
    ) -> None:
        super().__init__()
        if isinstance(config, int):
            if config not in BIGGAN_CONFIGS:
                raise ValueError(f"config must be one of {', '.join(map(str, BIGGAN_CONFIGS))}, got {config}")
            config = BIGGAN_CONFIGS[config]
        self.config = dict(config)
        mechanism = {key: value for key, value in config.items() if key != "u2net_width"}
        if target:
            self.biggan_GT = BigGANDeep(mechanism, statistics=statistics)
        self.f_shape = BigGANDeep(mechanism, statistics=statistics)
        self.f_text = BigGANDeep(mechanism, statistics=statistics)
        self.f_bg = BigGANDeep(mechanism, statistics=statistics)
        self.u2net = U2Net(self.config.get("u2net_width", 64))

    def configuration(self) -> dict[str, Any]:
        """Return the configuration of the three BigGANs, and the width of U2-Net if it is not 64."""
        return self.config

    def power_iterate(self, count: int = 5) -> CGN:
        """Call `BigGANDeep.power_iterate` of every BigGAN."""
        for module in self.children():
            if isinstance(module, BigGANDeep):
                module.power_iterate(count)
        return self

    def fast(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        compile: bool = False,  # noqa: A002, torch's own word for it
    ) -> FastCGN:
        """Return a version for generation only, built for one device; arguments as in `FastCGN`."""
        return FastCGN(self, device, dtype, compile=compile)


class FastCGN(_Counterfactual):
    """`CGN` in evaluation mode, built from `FastBigGAN` and `FastU2Net`: the same images up to rounding (1e-5).

    On a CPU images are made one by one, so that none depends on its batch.

    Args:
        cgn: the trainable form.
        device: device to build it for (default: that of `cgn`).
        dtype: floating-point type of the convolutions (default: that of `cgn`).
        compile: whether `torch.compile` fuses the operations between convolutions. The first call then takes minutes.

    Raises:
        ValueError: a weight of a mechanism is NaN or infinite.
    """

    batch_invariant = True

    def __init__(
        self,
        cgn: CGN,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        compile: bool = False,  # noqa: A002
    ) -> None:
        super().__init__()
        for name in ("f_shape", "f_text", "f_bg", "u2net"):
            setattr(self, name, getattr(cgn, name).fast(device, dtype, compile=compile))


def _three(argument: str, given: Three) -> tuple[Tensor, Tensor, Tensor]:
    """Return three values, one for each mechanism."""
    if isinstance(given, Tensor):
        return given, given, given
    if len(given) != 3:
        raise ValueError(f"{argument} must be a tensor, or three (shape, texture, background), got {len(given)}")
    shape, texture, background = given
    return shape, texture, background


KIND = register(
    Kind(
        name="cgn-imagenet",
        build=CGN,
        generates=True,
        configs=BIGGAN_CONFIGS,
        complaint=complaint,
        surplus=("biggan_GT.",),  # the frozen BigGAN that supervised the training
        example="""
            from genaug import CounterfactualDataset

            counterfactuals = CounterfactualDataset("{file}", length=50_000)
            image, label = counterfactuals[0]
            """,
    )
)
