"""The time that a dataset adds to a diffusion pipeline, and whether its nuisances are independent of the class.

Text-to-image pipelines of a configuration (random weights, no download) make batches of 8 in turn: the bare pipeline,
called with prompts and one generator per image, and the dataset around it. Times are of the processor, medians of the
rounds, in which each is the first in turn. The dataset's time outside the pipeline's call is measured, too: it is far
less noisy than the difference. The second part draws 100,000 samples' classes and nuisances and tests their
independence by chi-square.

    OMP_NUM_THREADS=1 python benchmarks/diffusion_overhead.py

Writes benchmarks/results/diffusion-overhead-cpuTHREADS-torchVERSION.csv.
"""

import argparse
import csv
import statistics
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusion_digits import tokenizer
from scipy import stats
from transformers import CLIPTextConfig, CLIPTextModel

from genaug import GenerativeInterventionDataset
from genaug._common.files import atomic_path
from genaug.generators.diffusion import DiffusionGenerator
from genaug.interventions.nuisances import NUISANCES

BATCH, STEPS, GUIDANCE, LIMIT = 8, 2, 7.5, 77
# channels of the UNet: the time of the dataset is the same, that of the pipeline is not
WIDTHS = (32, 96)


def pipeline(width: int) -> StableDiffusionPipeline:
    """64-pixel images of text."""
    words = tokenizer()
    words.model_max_length = LIMIT
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=LIMIT,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
        return StableDiffusionPipeline(
            text_encoder=CLIPTextModel(text).eval(),
            unet=UNet2DConditionModel(
                sample_size=16,
                block_out_channels=(width, 2 * width),
                layers_per_block=1,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                cross_attention_dim=64,
                attention_head_dim=4,
                norm_num_groups=16,
            ).eval(),
            vae=AutoencoderKL(
                block_out_channels=(32, 32, 32),
                down_block_types=("DownEncoderBlock2D",) * 3,
                up_block_types=("UpDecoderBlock2D",) * 3,
                latent_channels=4,
                norm_num_groups=16,
            ).eval(),
            tokenizer=words,
            scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def overhead(width: int, rounds: int) -> dict[str, list[float]]:
    """Processor seconds of each batch: of the bare pipeline, of the dataset, and of it outside the pipeline."""
    bare = pipeline(width)
    bare.set_progress_bar_config(disable=True)
    generator = DiffusionGenerator(bare, ["cow", "camel"], nuisances="default", steps=STEPS, guidance=GUIDANCE)
    dataset = GenerativeInterventionDataset(generator, length=BATCH * (rounds + 1))
    times: dict[str, list[float]] = {"bare": [], "dataset": [], "outside": []}
    inside: list[float] = []
    kind = type(bare)

    class Timed(kind):  # type: ignore[valid-type, misc]
        def __call__(self, *args: object, **kwargs: object) -> object:
            start = time.process_time()
            made = super().__call__(*args, **kwargs)
            inside.append(time.process_time() - start)
            return made

    bare.__class__ = Timed

    def alone(rows: range) -> None:
        said = dataset.descriptions(rows)
        start = time.process_time()
        with torch.no_grad():
            bare(
                prompt=[one["call"]["prompt"] for one in said],
                num_inference_steps=STEPS,
                guidance_scale=GUIDANCE,
                height=64,
                width=64,
                generator=[torch.Generator().manual_seed(one["generator_seed"]) for one in said],
                output_type="pt",
            )
        times["bare"].append(time.process_time() - start)

    def wrapped(rows: range) -> None:
        start = time.process_time()
        dataset.images(rows)
        times["dataset"].append(time.process_time() - start)
        times["outside"].append(times["dataset"][-1] - inside[-1])

    for number in range(rounds + 1):
        rows = range(number * BATCH, (number + 1) * BATCH)
        for make in (alone, wrapped) if number % 2 else (wrapped, alone):
            make(rows)
    return {name: found[1:] for name, found in times.items()}  # the first round warms up


def independence(samples: int) -> list[tuple[str, float, float]]:
    """Factor, p-value of its independence of the class, largest deviation of a share in standard errors."""
    small = pipeline(32)
    dataset = GenerativeInterventionDataset(
        DiffusionGenerator(small, [f"class {i}" for i in range(10)], nuisances="default", steps=STEPS),
        length=samples,
        interventions_per_noise=1,
    )
    factors = dataset.factors(range(samples))
    found = []
    for name, values in NUISANCES.items():
        table = torch.zeros(10, len(values))
        table.index_put_((factors["label"], factors[name]), torch.tensor(1.0), accumulate=True)
        share = 1 / len(values)
        error = (share * (1 - share) / samples) ** 0.5
        deviation = float((table.sum(0) / samples - share).abs().max() / error)
        found.append((name, stats.chi2_contingency(table.numpy()).pvalue, deviation))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", default=21, type=int)
    parser.add_argument("--samples", default=100_000, type=int)
    parser.add_argument("--out", default=Path(__file__).parent / "results", type=Path)
    args = parser.parse_args()
    rows = [["measure", "setting", "value", "unit"]]
    for width in WIDTHS:
        times = overhead(width, args.rounds)
        bare, ours, outside = (statistics.median(times[name]) for name in ("bare", "dataset", "outside"))
        rows += [
            ["bare pipeline", f"width {width}", f"{bare:.4f}", "s a batch of 8"],
            ["dataset", f"width {width}", f"{ours:.4f}", "s a batch of 8"],
            ["overhead", f"width {width}", f"{100 * (ours / bare - 1):.1f}", "%"],
            ["outside the pipeline's call", f"width {width}", f"{1000 * outside:.2f}", "ms a batch of 8"],
            ["outside the pipeline's call", f"width {width}", f"{100 * outside / (ours - outside):.1f}", "%"],
            ["rate of the dataset", f"width {width}", f"{BATCH / ours:.1f}", "images/s"],
        ]
    for name, p, deviation in independence(args.samples):
        rows.append(["independence of the class, chi-square", name, f"{p:.3f}", "p"])
        rows.append(["largest deviation of a share", name, f"{deviation:.2f}", "standard errors"])
    path = args.out / f"diffusion-overhead-cpu{torch.get_num_threads()}-torch{torch.__version__.split('+')[0]}.csv"
    with atomic_path(path) as temporary, Path(temporary).open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    print("\n".join(", ".join(row) for row in rows))


if __name__ == "__main__":
    main()
