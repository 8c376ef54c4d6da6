"""Do named nuisances of a diffusion model break a shortcut? A small text-to-image model on the demo's biased digits.

A latent diffusion model (a UNet of 0.8 million weights, a CLIP text encoder of two layers) is trained on the digits of
`genaug demo` and their captions, such as "a three in lime on tan". In 95% of them ink and paper have their digit's own
colours. Then three classifiers are trained on as many images: the biased digits, samples of the model with nuisances as
they were observed (`balance="observed"`), and interventions, the same samples with ink and paper drawn alike for every
class. They are tested as in the demo: other writers' digits in random colours, without those in their paper's colour.

    python benchmarks/diffusion_digits.py --seeds 0,1,2

Writes benchmarks/results/diffusion-digits-cpuTHREADS-torchVERSION.csv, a row a seed and way, and a sheet of samples. A
model that was trained before is read from --cache.
"""

import argparse
import csv
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, ModelMixin, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from genaug import DoubleColoredMNIST, GenerativeInterventionDataset
from genaug._common.files import atomic_path
from genaug._common.plotting import save_sheet
from genaug._common.progress import progress
from genaug.datasets.colored_mnist import demo_digits, same_colour
from genaug.demo.digits import small_network
from genaug.evaluation.measures.accuracy import accuracy, batches
from genaug.generators.diffusion import DiffusionGenerator
from genaug.training.classifier.digits import fit_classifier

CLASSES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
# names of the ten background colours, in the order of their classes
COLOURS = ["green", "blue", "maroon", "red", "yellow", "tan", "lime", "aqua", "fuchsia", "cornflower"]
# the ink of class i has the paper's colour of class i - 6
INKS = [COLOURS[(i - 6) % 10] for i in range(10)]
PROMPT = "a {label} in {ink} on {paper}"
# of training, and how often each is used; chosen on seed 3
CAPTIONS = {PROMPT: 0.3, "a {label} in {ink}": 0.3, "a {label} on {paper}": 0.3, "": 0.1}
LENGTH = 10  # tokens of a prompt, padded
SIZE = 16  # pixels a side; the demo's classifier begins by halving its 32
PATCH = 4  # pixels a side that one latent holds
STEPS = 2_000
BATCH = 64
SAMPLING_STEPS = 6
GUIDANCE = 3.0  # away from the empty caption, toward the words; chosen on seed 3
IMAGES = 1_500  # that each classifier is trained on
EPOCHS = 16
WAYS = {"observed": "samples of the model, nuisances as observed", "uniform": "samples of the model, do(nuisance)"}


class Patches(ModelMixin, ConfigMixin):
    """What stands where Stable Diffusion has its autoencoder: 4x4 pixels are one latent of 48 channels, exactly."""

    @register_to_config
    def __init__(self, block_out_channels=(1, 1, 1), scaling_factor=1.0, latent_channels=3 * PATCH**2):
        super().__init__()
        self.place = torch.nn.Parameter(torch.zeros(1), requires_grad=False)  # says the device and the type

    def decode(self, latents: Tensor, return_dict: bool = True, generator=None):
        images = F.pixel_shuffle(latents, PATCH)
        return DecoderOutput(images) if return_dict else (images,)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word."""
    words = ["<pad>", "<begin>", "<end>", "<unknown>", "a", "in", "on", *CLASSES, *COLOURS]
    table = {word: number for number, word in enumerate(words)}
    inner = Tokenizer(models.WordLevel(table, unk_token="<unknown>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="<begin> $A <end>", special_tokens=[("<begin>", 1), ("<end>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<begin>",
        eos_token="<end>",
        unk_token="<unknown>",
        model_max_length=LENGTH,
    )


def untrained(seed: int) -> StableDiffusionPipeline:
    """The pipeline with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        words = tokenizer()
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(words),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=LENGTH,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=0,
            )
        )
        unet = UNet2DConditionModel(
            sample_size=SIZE // PATCH,
            in_channels=3 * PATCH**2,
            out_channels=3 * PATCH**2,
            block_out_channels=(48, 96),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=64,
            attention_head_dim=4,
            norm_num_groups=16,
        )
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        clip_sample=False,
        steps_offset=1,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )
    pipeline = StableDiffusionPipeline(
        vae=Patches(),
        text_encoder=text_encoder,
        tokenizer=words,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def fit(seed: int) -> StableDiffusionPipeline:
    """Trains the pipeline's UNet and text encoder on the biased digits and their captions."""
    pipeline = untrained(seed)
    digits = demo_digits(train=True)
    latents = F.pixel_unshuffle(F.avg_pool2d(digits.images().float(), 2).div(127.5).sub(1), PATCH)
    factors = digits.factors
    # Ink and paper together tell which of the few odd digits it is, so a caption that always has both teaches the model
    # to look the digit up. Captions that leave a colour out leave the shape to the digit's name.
    captions = [
        template.format(label=CLASSES[shape], ink=INKS[ink], paper=COLOURS[paper])
        for template in CAPTIONS
        for shape, ink, paper in zip(*(factors[f].tolist() for f in ("shape", "texture", "background")), strict=True)
    ]
    tokens = pipeline.tokenizer(captions, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
    tokens = tokens.unflatten(0, (len(CAPTIONS), -1))
    # half of each batch is of the one digit in ten whose ink or paper is another class's: these alone tell names of
    # colours from names of digits
    odd = ((factors["texture"] != factors["shape"]) | (factors["background"] != factors["shape"])).nonzero()[:, 0]
    draw = torch.Generator().manual_seed(seed)
    networks = torch.nn.ModuleList([pipeline.unet, pipeline.text_encoder]).train()
    optimizer = torch.optim.AdamW(networks.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, STEPS, pct_start=0.05)
    averaged = torch.optim.swa_utils.AveragedModel(
        networks, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995)
    )
    for _ in progress(range(STEPS), description=f"diffusion, seed {seed}", unit="step"):
        batch = torch.randint(len(latents), (BATCH,), generator=draw)
        batch[: BATCH // 2] = odd[torch.randint(len(odd), (BATCH // 2,), generator=draw)]
        clean = latents[batch]
        noise = torch.randn(clean.shape, generator=draw)
        at = torch.randint(1000, (BATCH,), generator=draw)
        noisy = pipeline.scheduler.add_noise(clean, noise, at)
        told = torch.multinomial(torch.tensor(list(CAPTIONS.values())), BATCH, replacement=True, generator=draw)
        words = pipeline.text_encoder(tokens[told, batch])[0]
        found = pipeline.unet(noisy, at, encoder_hidden_states=words).sample
        loss = F.mse_loss(found, clean)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        averaged.update_parameters(networks)
    networks.load_state_dict(averaged.module.state_dict())
    return pipeline


def trained(seed: int, cache: Path) -> StableDiffusionPipeline:
    """The trained pipeline of a seed, from the cache if it is there."""
    path = cache / f"diffusion-digits-{seed}.safetensors"
    if not path.exists():
        start = time.process_time()
        pipeline = fit(seed)
        state = {f"unet.{k}": v for k, v in pipeline.unet.state_dict().items()}
        state |= {f"text_encoder.{k}": v for k, v in pipeline.text_encoder.state_dict().items()}
        cache.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            save_file({k: v.contiguous() for k, v in state.items()}, temporary)
        print(f"seed {seed}: trained in {time.process_time() - start:.0f} s of processor time", flush=True)
    state, pipeline = load_file(path), untrained(seed)
    for name in ("unet", "text_encoder"):
        part = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
        getattr(pipeline, name).load_state_dict(part)
    return pipeline


def generator(seed: int, cache: Path) -> DiffusionGenerator:
    """The trained pipeline with ink and paper as its nuisances, and how often the digits had which."""
    factors = demo_digits(train=True).factors
    inks, papers = torch.zeros(10, 10), torch.zeros(10, 10)
    inks.index_put_((factors["shape"], factors["texture"]), torch.tensor(1.0), accumulate=True)
    papers.index_put_((factors["shape"], factors["background"]), torch.tensor(1.0), accumulate=True)
    return DiffusionGenerator(
        trained(seed, cache),
        CLASSES,
        PROMPT,
        nuisances={"ink": INKS, "paper": COLOURS},
        observed={"ink": inks, "paper": papers},
        steps=SAMPLING_STEPS,
        guidance=GUIDANCE,
    )


def training_images(way: str, seed: int, cache: Path) -> tuple[Tensor, Tensor]:
    """Images and labels that a classifier is trained on."""
    if way == "biased digits":
        digits = demo_digits(train=True)
        rows = torch.arange(IMAGES) % len(digits)
        return digits.images(rows), digits.factors["shape"][rows]
    made = GenerativeInterventionDataset(
        generator(seed, cache), length=IMAGES, seed=seed, balance=way, interventions_per_noise=1
    )
    parts = progress(torch.arange(IMAGES).split(200), description=f"{way}, seed {seed}", unit="batch")
    images = torch.cat([made.images(part) for part in parts])
    return F.interpolate(images, scale_factor=2), made.labels(range(IMAGES))


def run(way: str, seed: int, cache: Path) -> tuple[float, float]:
    """Accuracy on the training images and on test digits in random colours."""
    digits = DoubleColoredMNIST(None, train=False, bias=0.0, seed=seed, digits="sklearn")
    seen = ~same_colour(digits.factors["texture"], digits.factors["background"])
    images, labels = training_images(way, seed, cache)
    model = fit_classifier(images, labels, seed=seed, network=small_network, epochs=EPOCHS)
    test = batches(digits.images()[seen], digits.factors["shape"][seen])
    return accuracy(model, batches(images, labels)), accuracy(model, test)


def sheet(seed: int, cache: Path, path: Path) -> None:
    """Each class in ten drawn combinations of ink and paper, the same seed in a row."""
    source = generator(seed, cache)
    z = source.draw_noise(seed, torch.arange(10), "noise")
    z[:, 0] = z[0, 0]
    with torch.no_grad():
        rows = {name: source(z, torch.full((10,), label)) for label, name in enumerate(CLASSES)}
    captions = [f"{INKS[ink]}\non {COLOURS[paper]}" for ink, paper in z[:, 2:].tolist()]
    images = {name: ((row + 1) * 127.5).round().clamp(0, 255).to(torch.uint8) for name, row in rows.items()}
    save_sheet(path, images, columns=captions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--cache", default=Path("runs/diffusion-digits"), type=Path, help="folder of trained models")
    parser.add_argument("--out", default=Path(__file__).parent / "results", type=Path)
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    head = ["way", "seed", "train", "test"]
    stem = f"diffusion-digits-cpu{torch.get_num_threads()}-torch{torch.__version__.split('+')[0]}"
    path = args.out / f"{stem}.csv"
    rows: dict[tuple[str, int], list[str]] = {}
    if path.exists():
        with path.open(newline="") as file:
            rows = {(row[0], int(row[1])): row for row in list(csv.reader(file))[1:]}
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for way in ("biased digits", *WAYS):
            if (way, seed) in rows:
                continue
            train, test = run(way, seed, args.cache)
            rows[way, seed] = [way, str(seed), f"{100 * train:.2f}", f"{100 * test:.2f}"]
            print(rows[way, seed], flush=True)
            with atomic_path(path) as temporary, Path(temporary).open("w", newline="") as file:
                csv.writer(file).writerows([head, *(rows[key] for key in sorted(rows))])
    for way in ("biased digits", *WAYS):
        found = [float(row[3]) for (name, _), row in rows.items() if name == way]
        spread = statistics.stdev(found) if len(found) > 1 else 0.0
        print(f"{way}: {statistics.mean(found):.1f} ± {spread:.1f} (n={len(found)})")
    sheet(seeds[0], args.cache, args.cache / "sheet.png")


if __name__ == "__main__":
    main()
