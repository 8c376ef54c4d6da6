"""Training settings of the CGN on ImageNet, from the paper and from the released code."""

from __future__ import annotations

from dataclasses import dataclass

from genaug._common.arguments import check_choice, check_integer, check_number, check_seed, check_truncation

LOSSES = ("rec", "shape", "text", "bg")
AS = ("paper", "released")


@dataclass(frozen=True)
class Settings:
    """Training settings of a CGN (default: the paper's, appendix C.3). `RELEASED` has the released code's.

    Attributes:
        without: losses to leave out: any of "rec", "shape", "text" and "bg", but not all four.
        steps: number of optimizer steps. The paper does not state it; this is the default of the released command line.
        batch_size: images in memory at a time.
        accumulate: gradient accumulation: batches per step, over all processes.
        shape_rate, texture_rate, background_rate: learning rates of the three mechanisms (Adam).
        l1_weight, style_weights: weights of the two terms of L_rec. Styles have one weight per block of features.
        entropy_weight, interval_weight: weights of the two terms of L_shape, binary entropy and mask interval.
        texture_weights: weights of L_text, one per block of features.
        saliency_weight: weight of L_bg.
        squared: how styles are compared, see `StyleDistance`.
        features: network whose features define styles: "vgg16-bn", "vgg16", or "random", which needs no weights.
        patches_of: source of the patches in L_text: "composite", the CGN's images, or "target", BigGAN's images.
        patch: side of a patch, in pixels.
        patch_side: image side to resize to before patches are taken, in pixels; None to keep the size.
        truncation: scale of the noise, in (0, 1].
        dtype: "float32", or "bfloat16" for autocast.
        measured: number of images for the mean mask and the Inception score, at least 20.
        inception: also measure the Inception score, which needs torch-fidelity and the weights of its network.
        seed: random seed.

    Raises:
        ValueError: a value is out of its range.
        TypeError: a value has the wrong type.
    """

    without: tuple[str, ...] = ()
    steps: int = 300
    batch_size: int = 1
    accumulate: int = 4000
    shape_rate: float = 8e-6
    texture_rate: float = 1e-5
    background_rate: float = 1e-5
    l1_weight: float = 100.0
    style_weights: tuple[float, ...] = (5.0,) * 4
    entropy_weight: float = 300.0
    interval_weight: float = 500.0
    texture_weights: tuple[float, ...] = (5.0,) * 4
    saliency_weight: float = 2000.0
    squared: bool = True
    features: str = "vgg16-bn"
    patches_of: str = "composite"
    patch: int = 15
    patch_side: int | None = None
    truncation: float = 1.0
    dtype: str = "float32"
    measured: int = 5000
    inception: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.without, str):
            raise TypeError(f"without must be a tuple of losses, got {self.without!r}")
        for loss in self.without:
            check_choice("without", loss, LOSSES)
        if set(self.without) == set(LOSSES):
            raise ValueError(f"without must leave one of {', '.join(LOSSES)}, got all of them")
        for name in ("steps", "batch_size", "accumulate", "patch"):
            check_integer(name, getattr(self, name), 1)
        check_integer("measured", self.measured, 20)
        check_seed(self.seed)
        for name in (
            *("shape_rate", "texture_rate", "background_rate", "l1_weight", "entropy_weight", "interval_weight"),
            "saliency_weight",
        ):
            check_number(name, getattr(self, name))
        for name in ("style_weights", "texture_weights"):
            for weight in getattr(self, name):
                check_number(name, weight)
        check_truncation(self.truncation)
        check_choice("features", self.features, ("vgg16-bn", "vgg16", "random"))
        check_choice("patches_of", self.patches_of, ("composite", "target"))
        check_choice("dtype", self.dtype, ("float32", "bfloat16"))


PAPER = Settings()
# the released code applies a block's weight w as 5000 w^2: w is 4 in all blocks of L_rec, and 0, 5, 5, 0 in L_text
RELEASED = Settings(
    texture_rate=3e-5,
    style_weights=(5e3 * 4**2,) * 4,
    texture_weights=(0.0, 5e3 * 5**2, 5e3 * 5**2, 0.0),
    squared=False,
    features="vgg16",
    patches_of="target",
    patch_side=128,
)


def settings_as(name: str) -> Settings:
    """Return the settings of the paper or of the released code: "paper" or "released"."""
    check_choice("as", name, AS)
    return PAPER if name == "paper" else RELEASED
