"""Diffusion pipelines built from configurations, with random weights: seconds for many images, and no download."""

from __future__ import annotations

from typing import Any

import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="needs the extra: pip install 'genaug[diffusion]'")
transformers = pytest.importorskip("transformers", reason="needs the extra: pip install 'genaug[diffusion]'")

WORDS = [
    *("a", "photo", "of", "the", ",", "cow", "camel", "dog", "on", "in", "at", "by", "seen", "from", "above"),
    *("grass", "sand", "snow", "desert", "night", "day", "sea"),
]
LIMIT = 16  # tokens of a prompt


def tokenizer() -> Any:
    """One token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["<pad>", "<begin>", "<end>", "<unknown>"]
    table = {word: number for number, word in enumerate([*special, *WORDS])}
    inner = Tokenizer(models.WordLevel(table, unk_token="<unknown>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="<begin> $A <end>", special_tokens=[("<begin>", 1), ("<end>", 2)]
    )
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), special, strict=True))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=LIMIT, **names)


def autoencoder() -> Any:
    """8x8 latents to 32x32 images."""
    return diffusers.AutoencoderKL(
        block_out_channels=(16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=8,
    )


def _text() -> Any:
    text_encoder = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(WORDS) + 4,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=LIMIT,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    return diffusers.StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder,
        tokenizer=tokenizer(),
        unet=unet,
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _classes(number: int = 1000) -> Any:
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=number,
        norm_num_groups=8,
    )
    # its last layer begins at zero, and every image would be the noise's
    torch.nn.init.normal_(transformer.proj_out_2.weight, std=0.2)
    return diffusers.DiTPipeline(
        transformer=transformer,
        vae=autoencoder(),
        scheduler=diffusers.DDIMScheduler(),
        id2label={0: "tench, Tinca tinca", 1: "goldfish"},
    )


def _consistency() -> Any:
    unet = diffusers.UNet2DModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        num_class_embeds=10,
        norm_num_groups=8,
        attention_head_dim=8,
        resnet_time_scale_shift="scale_shift",
    )
    return diffusers.ConsistencyModelPipeline(unet=unet, scheduler=diffusers.CMStochasticIterativeScheduler())


KINDS = {"text": _text, "class": _classes, "consistency": _consistency}
SCHEDULERS = {
    "text": ("DDIMScheduler", "DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler"),
    "class": ("DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"),
    "consistency": ("CMStochasticIterativeScheduler", "EulerDiscreteScheduler", "DDIMScheduler"),
}


def pipeline(kind: str, scheduler: str | None = None, **options: Any) -> Any:
    """A new pipeline of this kind; the same weights each time, which leave the global random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = KINDS[kind](**options)
    if scheduler is not None and type(made.scheduler).__name__ != scheduler:
        settings = {} if kind == "consistency" else dict(made.scheduler.config)
        made.scheduler = getattr(diffusers, scheduler).from_config(settings)
    return made
