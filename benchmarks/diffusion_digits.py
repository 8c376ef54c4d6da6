"""Do named nuisances of a diffusion model break a shortcut? A small text-to-image model on the demo's biased digits.

A latent diffusion model (a UNet of 0.8 million weights) is trained on the digits of `genaug demo` and their captions,
such as "three, in lime, on tan". In 95% of them the ink has its digit's own colour, and in 95% the paper. Then four
classifiers are trained on as many images: the biased digits, samples of the model with nuisances as they were observed
(`balance="observed"`), the same with interventions along directions in activations, and do(nuisance), with ink and
paper drawn alike for every class. They are tested as in the demo: other writers' digits in random colours, without
those in their paper's colour.

The recipe was tried on seed 3 alone, by how many samples show the digit, ink and paper of their caption. Test digits
chose nothing.

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

from genaug import DoubleColoredMNIST, GenerativeInterventionDataset, fit_directions
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
INKS = [f"in {COLOURS[(i - 6) % 10]}" for i in range(10)]
PAPERS = [f"on {colour}" for colour in COLOURS]
PROMPT = "{label}, {ink}, {paper}"
# Of training, with their shares. Ink and paper together tell which digit it is, so captions leave one of them out.
CAPTIONS = {PROMPT: 0.3, "{label}, {ink}": 0.3, "{label}, {paper}": 0.3, "": 0.1}
ODD = 0.5  # of the images of a caption, those with a named colour of another class
LENGTH = 6  # tokens of a prompt, padded
SIZE = 16  # pixels a side; the demo's classifier begins by halving its 32
PATCH = 2  # pixels a side that one latent holds
STEPS = 1_500
BATCH = 48
LEARNING_RATE = 2e-3
SAMPLING_STEPS = 6
GUIDANCE = 3.0  # away from the empty caption, toward the words
IMAGES = 1_500  # that each classifier is trained on
EPOCHS = 16
LAYER, COMPONENTS, FITTED = "unet.mid_block@0", 20, 1_000  # of interventions on activations
WAYS = {
    "observed": "samples of the model, nuisances as observed",
    "activations": "the same, interventions on activations",
    "uniform": "samples of the model, do(nuisance)",
}


class Patches(ModelMixin, ConfigMixin):
    """Stands for Stable Diffusion's autoencoder: 2x2 pixels are one latent of 12 channels, exactly."""

    @register_to_config
    def __init__(self, block_out_channels=(1, 1), scaling_factor=1.0, latent_channels=3 * PATCH**2):
        super().__init__()
        self.place = torch.nn.Parameter(torch.zeros(1), requires_grad=False)  # says the device and the type

    def decode(self, latents: Tensor, return_dict: bool = True, generator=None):
        images = F.pixel_shuffle(latents, PATCH)
        return DecoderOutput(images) if return_dict else (images,)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a phrase."""
    words = ["<pad>", "<begin>", "<end>", "<unknown>", *CLASSES, *INKS, *PAPERS]
    table = {word: number for number, word in enumerate(words)}
    inner = Tokenizer(models.WordLevel(table, unk_token="<unknown>"))
    inner.pre_tokenizer = pre_tokenizers.Split(", ", "removed")
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
                num_hidden_layers=0,  # a bag of phrases: what one means does not depend on the others
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
            block_out_channels=(32, 64),
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


def moved(images: Tensor, draw: torch.Generator) -> Tensor:
    """Images turned, scaled and shifted a little, so that the few digits in odd colours are not learned by heart."""
    turn, scale, *shift = (torch.rand(4, len(images), generator=draw) * 2 - 1).unbind()
    scale, turn = 1 + 0.1 * scale, 0.2 * turn
    rows = (
        [scale * turn.cos(), -scale * turn.sin(), 0.12 * shift[0]],
        [
            scale * turn.sin(),
            scale * turn.cos(),
            0.12 * shift[1],
        ],
    )
    places = F.affine_grid(torch.stack([torch.stack(row, 1) for row in rows], 1), list(images.shape), False)
    return F.grid_sample(images, places, padding_mode="border", align_corners=False)


def fit(seed: int) -> StableDiffusionPipeline:
    """Trains the pipeline's UNet and text encoder on the biased digits and their captions."""
    pipeline = untrained(seed)
    digits = demo_digits(train=True)
    images, factors = digits.images().float().div(127.5).sub(1), digits.factors
    captions = [
        template.format(label=CLASSES[shape], ink=INKS[ink], paper=PAPERS[paper])
        for template in CAPTIONS
        for shape, ink, paper in zip(*(factors[f].tolist() for f in ("shape", "texture", "background")), strict=True)
    ]
    tokens = pipeline.tokenizer(captions, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
    tokens = tokens.unflatten(0, (len(CAPTIONS), -1))
    # the few digits that have a named colour of another class tell names of colours from names of digits
    odd_ink, odd_paper = (factors[factor] != factors["shape"] for factor in ("texture", "background"))
    odd = torch.stack([odd_ink | odd_paper, odd_ink, odd_paper, torch.zeros_like(odd_ink)])
    shares = torch.where(odd, ODD / odd.sum(1, keepdim=True).clamp(1), (1 - ODD) / (~odd).sum(1, keepdim=True))
    draw = torch.Generator().manual_seed(seed)
    networks = torch.nn.ModuleList([pipeline.unet, pipeline.text_encoder]).train()
    optimizer = torch.optim.AdamW(networks.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS, pct_start=0.05)
    averaged = torch.optim.swa_utils.AveragedModel(
        networks, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)
    )
    for _ in progress(range(STEPS), description=f"diffusion, seed {seed}", unit="step"):
        told = torch.multinomial(torch.tensor(list(CAPTIONS.values())), BATCH, replacement=True, generator=draw)
        batch = torch.multinomial(shares[told], 1, generator=draw)[:, 0]
        clean = F.pixel_unshuffle(F.avg_pool2d(moved(images[batch], draw), 32 // SIZE), PATCH)
        noise = torch.randn(clean.shape, generator=draw)
        at = torch.randint(1000, (BATCH,), generator=draw)
        noisy = pipeline.scheduler.add_noise(clean, noise, at)
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
        nuisances={"ink": INKS, "paper": PAPERS},
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
    source, options = generator(seed, cache), {"balance": way}
    if way == "activations":
        found = fit_directions(source, LAYER, COMPONENTS, samples=FITTED)
        options = {"balance": "observed", "mode": "activation", "layer": LAYER, "directions": found}
        options |= {"components": COMPONENTS, "scale": 3.0}
    made = GenerativeInterventionDataset(source, length=IMAGES, seed=seed, interventions_per_noise=1, **options)
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
    captions = [f"{INKS[ink]}\n{PAPERS[paper]}" for ink, paper in z[:, 2:].tolist()]
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
