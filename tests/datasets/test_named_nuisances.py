"""Interventions on generators that are told their nuisances in words: diffusion pipelines, and a stand-in."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
import torch
from scipy import stats
from tiny_pipelines import KINDS, SCHEDULERS, pipeline
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, Subset

from genaug import Directions, GenerativeInterventionDataset, fit_directions
from genaug.generators.diffusion import DiffusionGenerator
from genaug.generators.images import to_uint8
from genaug.interventions.nuisances import Nuisances, worded_noise
from genaug.interventions.random_streams import seeds

# diffusers hands torch's tensors to numpy, which would like a newer signature
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

NUISANCES = ["on grass", "in the desert", "at night"]
NUM = 14


class Worded(nn.Module):
    """Makes flat images: their class is the red level, their last nuisance the green one, their seed the blue one."""

    num_classes, image_size = 4, 8

    def __init__(self, nuisances: Any = None, observed: Any = None) -> None:
        super().__init__()
        values = {"place": ["a", "b", "c", "d", "e"], "light": ["x", "y", "z"]} if nuisances is None else nuisances
        self.nuisances = Nuisances(values, observed, self.num_classes)
        self.z_dim = 2 + len(self.nuisances)

    def draw_noise(self, seed: int, indices: Tensor, stream: str) -> Tensor:
        return worded_noise(self.nuisances, seed, indices, stream)

    def forward(self, z: Tensor, labels: Tensor, truncation: float = 1.0) -> Tensor:
        levels = torch.stack([labels * 60, z[:, -1] * 20, z[:, 0] % 256], 1).float()
        return (levels / 127.5 - 1)[:, :, None, None].expand(-1, 3, 8, 8)


def dataset(kind: str = "text", scheduler: str | None = None, **options: Any) -> GenerativeInterventionDataset:
    made = pipeline(kind, scheduler)
    if kind == "text":
        generator = DiffusionGenerator(made, ["cow", "camel"], nuisances=NUISANCES, steps=2)
    else:
        generator = DiffusionGenerator(made, steps=2)
        options = {"components": 0, "classes": range(5), **options}
    return GenerativeInterventionDataset(generator, **{"length": 60, "batch_size": 16, **options})


EVERY = [(kind, scheduler) for kind in KINDS for scheduler in SCHEDULERS[kind]]


@pytest.mark.parametrize(("kind", "scheduler"), EVERY)
def test_a_sample_is_the_same_for_any_batch_order_rank_worker_and_restart(kind: str, scheduler: str) -> None:
    ds = dataset(kind, scheduler)
    whole = ds.images(range(NUM))
    assert len(whole.flatten(1).unique(dim=0)) == NUM
    if scheduler == SCHEDULERS[kind][0]:
        loader = DataLoader(Subset(ds, range(NUM)), batch_size=5, num_workers=2)
        assert torch.equal(torch.cat([images for images, _ in loader]), whole)
    order = torch.randperm(NUM, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat([ds.images(part) for part in order.split(4)]), whole[order])
    for rank in range(2):
        share = list(DistributedSampler(range(NUM - 1), num_replicas=2, rank=rank, seed=3))
        assert torch.equal(ds.images(share), whole[share])
    again = pickle.loads(pickle.dumps(dataset(kind, scheduler, batch_size=3)))
    assert torch.equal(again.images([11, 3, 12, 5]), whole[[11, 3, 12, 5]])


def test_do_nuisance_is_drawn_alike_for_every_class() -> None:
    ds = GenerativeInterventionDataset(Worded(), length=100_000, interventions_per_noise=1)
    factors = ds.factors(range(100_000))
    assert list(factors) == ["label", "place", "light"]
    for name in ("place", "light"):
        table = torch.zeros(4, len(ds.nuisances.factors[name]))
        table.index_put_((factors["label"], factors[name]), torch.ones(100_000), accumulate=True)
        assert stats.chi2_contingency(table.numpy()).pvalue > 0.001
        shares = table.sum(0) / 100_000
        even = 1 / len(shares)
        assert (shares - even).abs().max() < 4 * (even * (1 - even) / 100_000) ** 0.5
    both = torch.zeros(5, 3).index_put_((factors["place"], factors["light"]), torch.ones(100_000), accumulate=True)
    assert stats.chi2_contingency(both.numpy()).pvalue > 0.001


def test_samples_of_one_noise_share_class_and_seed_and_differ_in_their_nuisances() -> None:
    ds = GenerativeInterventionDataset(Worded(), length=1000, interventions_per_noise=5, targets="all")
    said = ds.descriptions(range(1000))
    factors = ds.factors(range(1000))
    images = ds.images(range(1000))
    for start in range(0, 1000, 5):
        group = slice(start, start + 5)
        assert len({one["label"] for one in said[group]}) == 1
        assert len(images[group, 2, 0, 0].unique()) == 1
        assert len(images[group].flatten(1).unique(dim=0)) > 1
        assert sorted(factors["place"][group].tolist()) == [0, 1, 2, 3, 4]
        assert len(set(factors["light"][group].tolist())) == 3
    assert torch.equal(images[:, 1, 0, 0].long(), factors["light"] * 20)
    assert ds[7][1] == {name: int(column[7]) for name, column in factors.items()}
    _, targets = next(iter(DataLoader(ds, batch_size=8)))
    assert targets["place"].tolist() == factors["place"][:8].tolist()


def test_the_observed_balance_is_the_biased_control() -> None:
    table = torch.tensor([[98, 1, 1, 0, 0], [0, 100, 0, 0, 0], [20] * 5, [1, 2, 3, 4, 0]])
    generator = Worded({"place": ["a", "b", "c", "d", "e"]}, table)
    ds = GenerativeInterventionDataset(generator, length=40_000, balance="observed", interventions_per_noise=1)
    factors = ds.factors(range(40_000))
    for label, counts in enumerate(table):
        drawn = factors["place"][factors["label"] == label].bincount(minlength=5)
        assert torch.allclose(drawn / drawn.sum(), counts / counts.sum(), atol=0.02)
        assert not drawn[counts == 0].any()
    with pytest.raises(ValueError, match='balance="observed" needs the generator\'s observed='):
        GenerativeInterventionDataset(Worded(), balance="observed")


def test_seeds_are_all_different() -> None:
    drawn = seeds(0, torch.arange(300_000), "a")
    assert len(drawn.unique()) == 300_000
    assert drawn.min() >= 0
    assert drawn.max() < 2**32
    assert abs(drawn.double().mean() / 2**32 - 0.5) < 0.005
    other = seeds(1, torch.arange(300_000), "a")
    assert len(torch.cat([drawn, other]).unique()) > 599_000
    assert not torch.equal(drawn[1:], other[:-1])


def test_describe_makes_the_sample_with_plain_diffusers_code() -> None:
    ds = dataset()
    image, label = ds[13]
    said = json.loads(json.dumps(ds.describe(13)))
    plain = pipeline("text", said["scheduler"])
    plain.set_progress_bar_config(disable=True)
    plain.unet.eval(), plain.vae.eval(), plain.text_encoder.eval()
    made = plain(
        **said["call"], generator=torch.Generator().manual_seed(said["generator_seed"]), output_type="pt"
    ).images
    assert (to_uint8(made * 2 - 1)[0].int() - image.int()).abs().max() <= 1
    assert said["class_name"] == ["cow", "camel"][label]
    assert said["nuisances"]["nuisance"] in said["call"]["prompt"]
    assert said["component"] is None


class Greenish(nn.Module):
    """Recognizes a class only where the green level is 20: where the second factor has its second value."""

    def forward(self, images: Tensor) -> Tensor:
        red, green = ((images[:, :2, 0, 0] + 1) * 127.5).round().long().unbind(1)
        right = torch.where(green == 20, red // 60, (red // 60 + 1) % 4)
        return torch.eye(4)[right]


def test_what_is_not_recognized_is_drawn_again() -> None:
    options: dict[str, Any] = {"length": 400, "recognized_by": Greenish(), "draws": 40}
    plain = GenerativeInterventionDataset(Worded(), length=400)
    ds = GenerativeInterventionDataset(Worded(), **options)
    whole, labels = ds.images(range(400)), ds.labels(range(400))
    assert (whole[:, 1] == 20).all()
    assert torch.equal(labels, plain.labels(range(400)))
    said = ds.descriptions(range(400))
    draws = torch.tensor([one["draws"] for one in said])
    kept = (plain.images(range(400))[:, 1, 0, 0] == 20).nonzero()[:, 0]
    assert ((draws == 1).nonzero()[:, 0] == kept).all()
    assert torch.equal(whole[kept], plain.images(kept))
    assert 2 < draws.double().mean() < 4  # one of three values is recognized
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat([ds.images(part) for part in order.split(7)]), whole[order])
    assert torch.equal(ds.factors(range(400))["light"], torch.ones(400, dtype=torch.int64))
    assert len(whole[:, 2, 0, 0].unique()) > 100
    few = GenerativeInterventionDataset(Worded(), **{**options, "draws": 2})
    assert max(one["draws"] for one in few.descriptions(range(400))) == 2
    assert (few.images(range(400))[:, 1] != 20).any()  # the last draw stays


def test_a_pipelines_samples_are_described_after_they_were_made() -> None:
    ds = dataset(recognized_by=lambda images: images.mean((1, 2, 3))[:, None] * torch.tensor([1.0, -1.0]), draws=3)
    images = ds.images(range(6))
    said = ds.descriptions(range(6))
    assert {1, 3} <= {one["draws"] for one in said} <= {1, 2, 3}
    assert torch.equal(ds.images([4]), images[[4]])
    assert ds.generator(torch.empty(0, 3, dtype=torch.int64), torch.empty(0, dtype=torch.int64)).shape == (0, 3, 32, 32)


def test_a_classifier_of_other_classes_is_refused() -> None:
    ds = GenerativeInterventionDataset(Worded(), recognized_by=lambda images: torch.zeros(len(images), 3))
    with pytest.raises(ValueError, match=r"recognized_by must return logits of shape \(1, 4\), got \(1, 3\)"):
        ds[0]


@pytest.mark.parametrize(("kind", "layer"), [("text", "mid_block@0"), ("consistency", "unet.mid_block")])
def test_directions_of_a_layer_move_every_sample(kind: str, layer: str) -> None:
    generator = dataset(kind).generator
    found = fit_directions(generator, layer, components=4, samples=128)
    assert found.vectors is None
    assert torch.allclose(found.components.flatten(1) @ found.components.flatten(1).t(), torch.eye(4), atol=1e-4)
    assert (found.explained_variance_ratio.diff() <= 0).all()
    options: dict[str, Any] = {
        "mode": "activation",
        "layer": layer,
        "directions": found,
        "components": 4,
        "classes": [0, 1],
    }
    ds = dataset(kind, **options, scale=6.0)
    still = dataset(kind, **options, scale=0.0)
    images = ds.images(range(10))
    assert ((images.int() - still.images(range(10)).int()).flatten(1).abs().amax(1) > 0).all()
    order = [7, 2, 2, 9]
    assert torch.equal(ds.images(order), images[order])
    assert ds.describe(3)["layer"] == layer
    assert ds.describe(3)["component"] in range(4)


def test_an_offset_is_where_the_component_ends_up() -> None:
    generator = dataset().generator
    found = fit_directions(generator, "mid_block@0", components=3, samples=64)
    ds = dataset(mode="activation", layer="mid_block@0", directions=found, components=3, scale=(2.0, 2.0))
    component, label = ds.describe(0)["component"], ds.describe(0)["label"]
    moved: list[Tensor] = []
    following = ds.generator.pipeline.unet.up_blocks[0]
    following.register_forward_pre_hook(
        lambda module, args, kwargs: moved.append(kwargs["hidden_states"]), with_kwargs=True
    )
    ds.images([0])
    half = moved[0].chunk(2)[1][0]  # with the prompt
    at = (half * found.components[component]).sum()
    assert torch.isclose(at, found.centre[label, component] + 2 * found.stdev[component], atol=1e-3)


def test_directions_of_a_layer_are_saved_and_checked(tmp_path: Any) -> None:
    generator = dataset().generator
    found = fit_directions(generator, "mid_block@0", components=2, samples=64)
    path = found.save(tmp_path / "directions.safetensors")
    ds = dataset(mode="activation", layer="mid_block@0", directions=path, components=2)
    assert torch.equal(
        ds.images([0]), dataset(mode="activation", layer="mid_block@0", directions=found, components=2).images([0])
    )
    with pytest.raises(ValueError, match='use mode="activation"'):
        dataset(directions=found, components=2)
    with pytest.raises(ValueError, match='use mode="activation"'):
        dataset(directions=Directions(torch.eye(3)), components=2)
    with pytest.raises(ValueError, match=r"samples must be given, say 2_000"):
        fit_directions(generator, "mid_block@0")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"targets": "both"}, "targets must be one of 'label', 'all'"),
        ({"balance": "even"}, "balance must be one of 'uniform', 'observed'"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"truncation": 0.5}, "truncation must be 1 for a diffusion pipeline"),
    ],
)
def test_bad_input_is_named(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        dataset(**options)[0]


def test_a_class_pipeline_needs_something_to_intervene_on() -> None:
    with pytest.raises(ValueError, match=r"DiffusionGenerator must have nuisances=, or mode=\"activation\""):
        GenerativeInterventionDataset(DiffusionGenerator(pipeline("consistency"), steps=2))


def test_the_pipeline_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    dataset().images(range(3))
    assert capfd.readouterr() == ("", "")
