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


def _clip(projected: bool = False) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=len(WORDS) + 4,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LIMIT,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        projection_dim=16,
    )
    return (transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(config)


def _unet(**changes: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=8,
        **changes,
    )


def _text() -> Any:
    text_encoder, unet = _clip(), _unet(cross_attention_dim=16)
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


def _t5() -> Any:
    return transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=len(WORDS) + 4, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    )


def _small_autoencoder() -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        shift_factor=0.0,
    )


def _sdxl() -> Any:
    unet = _unet(
        cross_attention_dim=32,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16 + 6 * 8,
    )
    return diffusers.StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=_clip(),
        text_encoder_2=_clip(projected=True),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(),
        add_watermarker=False,
    )


def _sd3() -> Any:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=16,
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=_small_autoencoder(),
        text_encoder=_clip(projected=True),
        tokenizer=tokenizer(),
        text_encoder_2=_clip(projected=True),
        tokenizer_2=tokenizer(),
        text_encoder_3=_t5(),
        tokenizer_3=tokenizer(),
    )


def _flux(distilled: bool = True) -> Any:
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=distilled,
        axes_dims_rope=(4, 4, 8),
    )
    made = diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=_small_autoencoder(),
        text_encoder=_clip(),
        tokenizer=tokenizer(),
        text_encoder_2=_t5(),
        tokenizer_2=tokenizer(),
        transformer=transformer,
    )
    made.default_sample_size = 16  # 128 in the library; images of 32 pixels
    return made


def _sana() -> Any:
    """Its smallest size is 512 pixels."""
    transformer = diffusers.SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=16,
    )
    vae = diffusers.AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_out_channels=(4,) * 6,
        decoder_block_out_channels=(4,) * 6,
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6,
        encoder_qkv_multiscales=((),) * 6,
        decoder_qkv_multiscales=((),) * 6,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
    )
    text_encoder = transformers.Gemma2Model(
        transformers.Gemma2Config(
            vocab_size=len(WORDS) + 4,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
        )
    )
    words = tokenizer()
    words.model_max_length = 300
    return diffusers.SanaPipeline(
        tokenizer=words,
        text_encoder=text_encoder,
        vae=vae,
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )


KINDS = {"text": _text, "class": _classes, "consistency": _consistency}
SCHEDULERS = {
    "text": ("DDIMScheduler", "DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler"),
    "class": ("DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"),
    "consistency": ("CMStochasticIterativeScheduler", "EulerDiscreteScheduler", "DDIMScheduler"),
}


# more kinds of text pipelines, with the schedulers that they are used with
FAMILIES = {"sdxl": _sdxl, "sd3": _sd3, "flux": _flux, "sana": _sana}
FLOW = "FlowMatchEulerDiscreteScheduler"
FAMILY_SCHEDULERS = [
    ("sdxl", "EulerDiscreteScheduler"),
    ("sdxl", "EulerAncestralDiscreteScheduler"),
    ("sdxl", "LCMScheduler"),
    ("sd3", FLOW),
    ("flux", FLOW),
    pytest.param("sana", FLOW, marks=pytest.mark.slow),
    pytest.param("sana", "DPMSolverMultistepScheduler", marks=pytest.mark.slow),
]


def pipeline(kind: str, scheduler: str | None = None, **options: Any) -> Any:
    """A new pipeline of this kind; the same weights each time, which leave the global random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = {**KINDS, **FAMILIES}[kind](**options)
    if scheduler is not None and type(made.scheduler).__name__ != scheduler:
        settings = {} if kind == "consistency" else dict(made.scheduler.config)
        made.scheduler = getattr(diffusers, scheduler).from_config(settings)
    return made
