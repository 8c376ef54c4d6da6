"""Pipelines built from configurations make each sample from its own noise alone, and are left as they were."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from synthetic_photographs import draw_bank
from tiny_pipelines import FAMILY_SCHEDULERS, KINDS, LIMIT, SCHEDULERS, diffusers, pipeline
from torch import Tensor

from genaug import PhotographBank, load_generator
from genaug.assets import AssetError
from genaug.generators import pipelines
from genaug.generators.diffusion import DiffusionGenerator
from genaug.generators.images import to_uint8
from genaug.interventions.nuisances import NUISANCES

# diffusers hands torch's tensors to numpy, which would like a newer signature
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

NUISANCE = ["on grass", "in the desert", "at night"]
EVERY = [*((kind, scheduler) for kind in KINDS for scheduler in SCHEDULERS[kind]), *FAMILY_SCHEDULERS]


def text(**options: Any) -> DiffusionGenerator:
    return DiffusionGenerator(
        options.pop("pipeline", None) or pipeline("text"), **{"classes": ["cow", "camel"], "steps": 3, **options}
    )


def generator(kind: str, scheduler: str | None = None, **options: Any) -> DiffusionGenerator:
    if kind not in ("class", "consistency"):
        return text(pipeline=pipeline(kind, scheduler), nuisances=NUISANCE, **options)
    return DiffusionGenerator(pipeline(kind, scheduler), steps=3, **options)


def noise(g: DiffusionGenerator, count: int = 8) -> tuple[Tensor, Tensor]:
    columns = [torch.arange(count) * 1000 + 7, torch.arange(count) * 2**27 + 5]
    columns += [torch.arange(count) % len(values) for values in g.nuisances.factors.values()]
    return torch.stack(columns, 1), torch.arange(count) % min(g.num_classes, 5)


@pytest.mark.parametrize(("kind", "scheduler"), EVERY)
def test_an_image_depends_on_its_own_noise_alone(kind: str, scheduler: str) -> None:
    g = generator(kind, scheduler, guidance=None if kind == "consistency" else 3.0)
    z, labels = noise(g)
    images = g(z, labels)
    assert images.shape == (8, 3, g.image_size, g.image_size)
    assert len(to_uint8(images).flatten(1).unique(dim=0)) == 8
    order = [3, 3, 0, 7, 5, 1, 3, 2]
    assert torch.equal(to_uint8(g(z[order], labels[order])), to_uint8(images)[order])
    # another batch size sums in another order
    alone = torch.cat([g(z[i : i + 1], labels[i : i + 1]) for i in range(8)])
    assert (to_uint8(alone).int() - to_uint8(images).int()).abs().max() <= 1


@pytest.mark.parametrize(("kind", "scheduler"), EVERY)
def test_describe_makes_the_image_with_plain_diffusers_code(kind: str, scheduler: str) -> None:
    g = generator(kind, scheduler)
    z, labels = noise(g)
    images = to_uint8(g(z, labels))
    said = json.loads(json.dumps(g.describe(z, labels)))[3]
    plain = pipeline(kind, said["scheduler"])
    for part in plain.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    plain.set_progress_bar_config(disable=True)
    made = plain(**said["call"], generator=torch.Generator().manual_seed(said["generator_seed"])).images[0]
    by_hand = torch.frombuffer(bytearray(made.tobytes()), dtype=torch.uint8).view(g.image_size, g.image_size, 3)
    assert (by_hand.permute(2, 0, 1).int() - images[3].int()).abs().max() <= 1


def test_class_and_nuisances_change_the_image_and_are_in_the_prompt() -> None:
    g = text(nuisances={"place": ["on grass", "on snow"], "view": ["from above", "by night", "at day"]})
    z = torch.tensor([[5, 0, 0, 0], [5, 0, 1, 0], [5, 0, 0, 2], [5, 0, 0, 0]])
    labels = torch.tensor([0, 0, 0, 1])
    assert len(to_uint8(g(z, labels)).flatten(1).unique(dim=0)) == 4
    assert g.prompt(1, [1, 2]) == "a photo of a camel, on snow, at day"
    assert g.describe(z, labels)[2]["nuisances"] == {"place": "on grass", "view": "at day"}


def test_prompts_of_ones_own_and_the_negative_one() -> None:
    g = text(prompt={"cow": "the cow", "camel": "a camel in sand"}, negative_prompt="night", guidance=3.0)
    assert [g.prompt(label, []) for label in (0, 1)] == ["the cow", "a camel in sand"]
    assert g.describe(*noise(g, 1))[0]["call"]["negative_prompt"] == "night"
    other = text(prompt={"cow": "the cow", "camel": "a camel in sand"}, guidance=3.0)
    assert not torch.equal(g(*noise(g)), other(*noise(other)))


def test_the_default_nuisances_are_phrases_for_the_default_prompt() -> None:
    assert set(NUISANCES) == {"place", "weather", "light", "view"}
    long = pipeline("text")
    long.tokenizer.model_max_length = 77
    g = text(pipeline=long, nuisances="default")
    assert (
        g.prompt(0, [0, 0, 0, 0]) == "a photo of a cow, on grass, on a clear day, in bright light, seen from the front"
    )
    assert g.nuisances.combinations > 1000


def test_prompts_are_encoded_once() -> None:
    g = text(nuisances=NUISANCE, guidance=3.0)
    counts: list[int] = []
    g.pipeline.text_encoder.register_forward_hook(lambda module, inputs, output: counts.append(len(output[0])))
    z, labels = noise(g)
    first = g(z, labels)
    for _ in range(2):
        assert torch.equal(g(z, labels), first)
    prompts = {said["call"]["prompt"] for said in g.describe(z, labels)}
    assert len(prompts) < 8
    assert counts == [8, 8]  # at once, and as often the empty prompt that the guidance compares with


def test_few_embeddings_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    g = text(nuisances=NUISANCE)
    first = g(*noise(g))
    monkeypatch.setattr(pipelines, "CACHE_BYTES", 5000)
    g._embeddings.clear()
    assert torch.equal(g(*noise(g)), first)
    assert g._embeddings.bytes <= 5000
    assert len(g._embeddings.kept) < 6


def test_few_steps_are_not_guided_by_default() -> None:
    assert [text(steps=steps).guidance for steps in (1, 4, 5)] == [0.0, 0.0, None]
    assert text(steps=1, guidance=2.0).guidance == 2.0
    assert generator("flux").guidance is None  # its guidance is an input of the network
    assert generator("class").guidance is None
    assert generator("flux").image_size == 32


class _Checker(torch.nn.Module):
    """Finds something in the first image."""

    dtype, device = torch.float32, torch.device("cpu")

    def forward(self, clip_input: Tensor, images: Tensor) -> tuple[Tensor, list[bool]]:
        return images * (torch.arange(len(images)) > 0)[:, None, None, None], [i == 0 for i in range(len(images))]


class _Features(dict[str, Tensor]):
    """Stands for a feature extractor and what it returns."""

    pixel_values = torch.zeros(1)

    def __call__(self, *args: Any, **kwargs: Any) -> _Features:
        return self

    def to(self, *args: Any) -> _Features:
        return self


def test_blackened_images_are_told() -> None:
    made = pipeline("text")
    made.safety_checker, made.feature_extractor = _Checker(), _Features()
    g = text(pipeline=made)
    with pytest.warns(UserWarning, match="safety checker made images black"):
        images = g(*noise(g))
    assert (images[0] == -1).all()
    assert (images[1] > -1).any()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_behind(kind: str) -> None:
    made = pipeline(kind)
    before, keys = dict(vars(made)), dict(vars(made.scheduler))
    g = text(pipeline=made, nuisances=NUISANCE) if kind == "text" else DiffusionGenerator(made, steps=2)
    state = torch.get_rng_state()
    z, labels = noise(g)
    g(z, labels)
    g.steered("mid_block" if kind != "class" else "transformer_blocks.0", lambda h, _: h + 1, z, labels, 1.0)
    g.activation(z, labels, 1.0, "mid_block" if kind != "class" else "transformer_blocks.0")
    with pytest.raises(RuntimeError, match="of the hook"):
        g.steered("mid_block" if kind != "class" else "transformer_blocks.0", _fails, z, labels, 1.0)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in g.modules())
    assert "step" not in vars(made.scheduler)
    added = set(vars(made)) - set(before)
    assert not {name for name in added if name in ("encode_prompt", "_progress_bar_config")}
    assert set(keys) <= set(vars(made.scheduler))


def _fails(*_: Any) -> Tensor:
    raise RuntimeError("of the hook")


# layers of each kind, whole and within the network that is called in each step
LAYERS = [
    ("text", "unet.mid_block"),
    ("text", "mid_block@0,2"),
    ("text", "down_blocks.1@1-2"),  # returns a tuple
    ("text", "unet"),  # an output object or a tuple
    ("text", "vae.decoder.mid_block"),
    ("sdxl", "unet.mid_block@0"),
    ("sd3", "transformer_blocks.0"),  # returns the prompt's tokens first
    ("flux", "transformer.transformer_blocks.0@0"),
    ("flux", "single_transformer_blocks.0"),
    ("class", "transformer_blocks.1@0"),
    ("consistency", "unet.mid_block@1"),
]


@pytest.mark.parametrize(("kind", "layer"), LAYERS)
def test_a_layer_is_changed_where_it_is_told(kind: str, layer: str) -> None:
    g = generator(kind)
    z, labels = noise(g)
    seen: list[Tensor] = []

    def push(output: Tensor, rows: slice) -> Tensor:
        seen.append(output)
        amount = torch.zeros(8, *[1] * (output.ndim - 1))
        amount[2] = 1.0
        return output + amount[rows] * torch.linspace(-1, 1, output.shape[-1])  # a layer norm does not see a constant

    pushed, plain = g.steered(layer, push, z, labels, 1.0), g(z, labels)
    assert len(seen) == 1  # measured once, then held
    assert torch.equal(seen[0], g.activation(z, labels, 1.0, layer))
    changed = (pushed - plain).flatten(1).abs().amax(1) > 1e-4
    assert changed.tolist() == [i == 2 for i in range(8)]
    assert torch.equal(g.steered(layer, lambda output, _: output, z, labels, 1.0), plain)


def test_the_image_is_steered_and_not_the_prompt() -> None:
    for kind in ("sd3", "flux"):
        g = generator(kind)
        tokens = (g.image_size // 4) ** 2
        assert g.activation(*noise(g), 1.0, "transformer_blocks.0").shape[1] == tokens


def test_compiled_networks_are_steered_too() -> None:
    plain, made = text(nuisances=NUISANCE), pipeline("text")
    made.unet = torch.compile(made.unet, backend="eager")
    g = text(pipeline=made, nuisances=NUISANCE)
    z, labels = noise(g)
    wanted = plain.steered("unet.mid_block", lambda output, _: output + 1, z, labels, 1.0)
    assert torch.equal(g.steered("unet.mid_block", lambda output, _: output + 1, z, labels, 1.0), wanted)
    assert torch.equal(g(z, labels), plain(z, labels))


def test_steps_are_counted_as_the_scheduler_counts_them() -> None:
    g = text(nuisances=NUISANCE)
    z, labels = noise(g)
    whole, first, last = (
        g.steered(f"mid_block{at}", lambda output, _: output + 1, z, labels, 1.0) for at in ("", "@0", "@2")
    )
    by_hand: list[int] = []

    def push(module: Any, inputs: Any, output: Tensor) -> Tensor:
        by_hand.append(1)
        return output + (len(by_hand) == 3)

    handle = g.pipeline.unet.mid_block.register_forward_hook(push)
    assert torch.allclose(last, g(z, labels), atol=1e-5)
    handle.remove()
    assert not torch.equal(first, last)
    assert torch.allclose(whole, g.steered("mid_block@0-2", lambda output, _: output + 1, z, labels, 1.0), atol=1e-5)


def test_the_guided_half_is_the_one_that_is_measured() -> None:
    for kind, layer in (("text", "mid_block"), ("class", "transformer_blocks.0")):
        guided, plain = generator(kind, guidance=4.0), generator(kind, guidance=1.0)
        z, labels = noise(guided)
        assert torch.allclose(
            guided.activation(z, labels, 1.0, f"{layer}@0"), plain.activation(z, labels, 1.0, f"{layer}@0"), atol=1e-4
        )


def test_large_images_are_made_one_by_one_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genaug.generators.diffusion.SMALL", 16)
    g = text(nuisances=NUISANCE)
    z, labels = noise(g, 5)
    alone = torch.cat([g(z[i : i + 1], labels[i : i + 1]) for i in range(5)])
    assert g.batch_invariant
    assert torch.equal(g(z, labels), alone)
    steered = g.steered("mid_block", lambda output, rows: output + rows.start, z, labels, 1.0)
    assert torch.equal(steered[0], alone[0])
    assert not torch.equal(steered[1], alone[1])


def test_training_mode_does_not_drop_labels() -> None:
    g = generator("class")
    z, labels = noise(g)
    first = g(z, labels)
    g.train()
    assert torch.equal(g(z, labels), first)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pipeline")
    pipeline("text").save_pretrained(path, safe_serialization=True)
    return path


def test_a_folder_its_file_of_settings_and_a_pickle_are_the_same_generator(folder: Path, tmp_path: Path) -> None:
    g = DiffusionGenerator(
        folder, ["cow", "camel"], nuisances={"place": NUISANCE}, steps=3, observed=torch.tensor([[1, 2, 0], [0, 0, 5]])
    )
    images = g(*noise(g))
    read = DiffusionGenerator.load(g.save(tmp_path / "cows"))
    assert torch.equal(read(*noise(g)), images)
    assert isinstance(load_generator(tmp_path / "cows"), DiffusionGenerator)
    assert read.nuisances.observed is not None
    assert torch.equal(read.nuisances.observed["place"][0], torch.tensor([1 / 3, 2 / 3, 0], dtype=torch.float64))
    light = pickle.dumps(g)
    assert len(light) < 10_000
    assert torch.equal(pickle.loads(light)(*noise(g)), images)
    whole = text(nuisances={"place": NUISANCE})
    assert torch.equal(pickle.loads(pickle.dumps(whole))(*noise(g)), images)
    with pytest.raises(ValueError, match="pipeline must be a name or a folder for save"):
        whole.save(tmp_path / "object")
    with pytest.raises(ValueError, match=r"guide must be a bank's folder for save\(\), got an object without one"):
        text(guide=Bank(), steps=4, strength=0.5).save(tmp_path / "bank")
    assert not (tmp_path / "bank").exists()


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    for content, match in (
        ("no json", "must be a JSON object"),
        ("[3]", "must be a JSON object"),
        ('{"pipeline": "x", "stepz": 3}', "does not take.*stepz"),
    ):
        (tmp_path / "diffusion.json").write_text(content)
        with pytest.raises(ValueError, match=match):
            DiffusionGenerator.load(tmp_path)


def test_no_pickles_are_opened(tmp_path: Path) -> None:
    pipeline("text").save_pretrained(tmp_path, safe_serialization=True)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(AssetError, match="cannot be opened"):
        DiffusionGenerator(tmp_path, ["cow"])


class _Talks(diffusers.DiffusionPipeline):
    """Makes sound of a prompt."""

    def __call__(self, prompt: str, audio_length_in_s: float = 1.0) -> Any: ...


class _Moves(diffusers.DiffusionPipeline):
    def __call__(self, prompt: str, num_frames: int = 8) -> Any: ...


class _Unconditional(diffusers.DiffusionPipeline):
    def __call__(self, batch_size: int = 1) -> Any: ...


def _image_to_image() -> Any:
    return diffusers.StableDiffusionImg2ImgPipeline(**pipeline("text").components, requires_safety_checker=False)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: DiffusionGenerator(_Talks(), ["cow"]), TypeError, "pipeline must make images, _Talks does not"),
        (lambda: DiffusionGenerator(_Moves(), ["cow"]), TypeError, "_Moves does not: its call takes num_frames"),
        (lambda: DiffusionGenerator(_Unconditional()), TypeError, "neither prompt nor class_labels"),
        (lambda: DiffusionGenerator(_image_to_image(), ["cow"]), TypeError, "needs an image"),
        (lambda: DiffusionGenerator(3, ["cow"]), TypeError, "pipeline must be a name, a folder or a diffusers"),
        (
            lambda: DiffusionGenerator(pipeline("class", "DDPMScheduler")),
            ValueError,
            "DDPMScheduler in DiTPipeline ignores them.*Use DDIMScheduler",
        ),
        (lambda: text(prompt="a photo"), ValueError, r"prompt must contain \{label\}"),
        (lambda: text(prompt="{label}", nuisances=NUISANCE), ValueError, r"prompt must contain \{nuisance\}"),
        (lambda: text(prompt="{label} {place}"), ValueError, r"got \{place\}"),
        (lambda: text(prompt=["{label}"]), ValueError, "prompt must be one template or 2"),
        (lambda: text(prompt={"cow": "a cow"}), ValueError, "'camel' has none"),
        (lambda: text(classes=None), ValueError, "classes must be a list of names"),
        (lambda: text(classes="cow"), ValueError, "classes must be a list of names"),
        (lambda: text(classes=["cow", "cow"]), ValueError, "classes must differ, got 'cow' twice"),
        (lambda: text(prompt="a {label"), ValueError, "prompt must be text with {label} in braces, got 'a {label'"),
        (lambda: text(dtype="bfloat16"), TypeError, "dtype must be a torch.dtype"),
        (lambda: text(guide=3), TypeError, "guide must be a PhotographBank or its folder, got int"),
        (
            lambda: text(nuisances={"place": ["a", "b"], "light": ["c", "d"]}, observed=torch.ones(2, 2)),
            ValueError,
            "observed must be a dict with a table for each of place, light, got one table",
        ),
        (lambda: text(nuisances=[]), ValueError, "must not be empty"),
        (lambda: text(nuisances=["at day", "at day"]), ValueError, "'at day' twice"),
        (lambda: text(nuisances="on grass"), ValueError, "nuisances must be one of 'default'"),
        (lambda: text(nuisances={"label": NUISANCE}), ValueError, "other than 'label'"),
        (lambda: text(nuisances=NUISANCE, observed=torch.ones(3, 3)), ValueError, r"\(2, 3\), classes by values"),
        (lambda: text(nuisances=NUISANCE, observed=torch.zeros(2, 3)), ValueError, "with some in every row"),
        (lambda: text(size=30), ValueError, "size must be a multiple of 4"),
        (lambda: generator("flux", size=34), ValueError, "size must be a multiple of 4 pixels for FluxPipeline"),
        (lambda: text(negative_prompt="night"), ValueError, "negative_prompt needs a guidance above 1, got 0"),
        (lambda: generator("flux", negative_prompt="night"), ValueError, "takes none by default"),
        (lambda: generator("class", size=64), ValueError, "size must be 32 for DiTPipeline"),
        (lambda: generator("class", classes=["tench"]), ValueError, "classes must name all 1000 classes.*got 1"),
        (lambda: generator("class", nuisances=NUISANCE), ValueError, "nuisances are words"),
        (lambda: DiffusionGenerator(pipeline("class", number=10)), ValueError, "guidance must be 1 here, got 4"),
        (lambda: generator("consistency", guidance=2.0), ValueError, "guidance must be None"),
        (
            lambda: text(nuisances=["on grass on sand on snow by night at day seen from above by the sea"]),
            ValueError,
            f"at most {LIMIT} tokens, got .*: 'at day seen from above by the sea' would be cut off",
        ),
    ],
)
def test_bad_input_is_one_clear_line(make: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match) as found:
        make()
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        ("unet.mid_blok", "unknown layer 'unet.mid_blok'.*did you mean 'unet.mid_block'"),
        ("mid_block@x", "must end in steps such as @0"),
        ("mid_block@3", r"must name steps in 0\.\.2, got 3"),
        ("vae.decoder@0", "outside the denoising steps"),
        ("text_encoder", "prompts are encoded once"),
        ("vae.encoder", "is never called"),
    ],
)
def test_layers_that_cannot_be_steered_are_refused(layer: str, match: str) -> None:
    g = text(nuisances=NUISANCE)
    with pytest.raises(ValueError, match=match):
        g.steered(layer, lambda output, _: output, *noise(g), 1.0)


def test_the_calls_own_limit_of_a_prompt_counts() -> None:
    made = pipeline("sd3")
    made.tokenizer_3.model_max_length = 512
    assert text(pipeline=made, prompt="{label} " + "sand " * 200).num_classes == 2
    with pytest.raises(ValueError, match=r"prompt must have at most 256 tokens, got 30\d"):
        text(pipeline=made, prompt="{label} " + "sand " * 300)


def test_lists_that_are_no_prompts_are_shared_by_all() -> None:
    calls: list[list[str]] = []

    class Encoder:
        def encode_prompt(self, prompt: list[str], instruction: list[str], negative_prompt: str = "") -> Any:
            calls.append(instruction)
            return torch.tensor([[len(text)] for text in prompt]), None

    made = Encoder()
    with pipelines.Prompts(2).used_by(made):
        found, nothing = made.encode_prompt(["a", "bcd"], instruction=["two", "lines"])
    assert found.tolist() == [[1], [3]]
    assert nothing is None
    assert calls == [["two", "lines"]]


def test_noise_of_another_form_is_refused() -> None:
    g = text(nuisances=NUISANCE)
    z, labels = noise(g)
    with pytest.raises(ValueError, match=r"z must be \(B, 3\) integers"):
        g(z.float(), labels)
    with pytest.raises(ValueError, match="truncation must be 1"):
        g(z, labels, 0.5)
    with pytest.raises(ValueError, match=r"labels must be \(8,\) integers in 0\.\.1"):
        g(z, labels + 7)


def test_noise_drawn_behind_the_generators_back_is_noticed() -> None:
    made = pipeline("text")
    take_step = type(made.scheduler).step

    class Noisy(type(made.scheduler)):  # type: ignore[misc]
        def step(self, model_output: Tensor, *args: Any, **kwargs: Any) -> Any:
            return take_step(self, model_output + torch.randn_like(model_output), *args, **kwargs)

    made.scheduler = Noisy.from_config(made.scheduler.config)
    g = text(pipeline=made, nuisances=NUISANCE)
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="Noisy in StableDiffusionPipeline ignores them"):
        g(*noise(g))
    assert torch.equal(torch.get_rng_state(), state)


def test_without_the_extra_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'genaug\[diffusion\]'"):
        DiffusionGenerator("stabilityai/sd-turbo", ["cow"])


def test_code_of_a_repository_runs_only_if_asked(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    seen: dict[str, Any] = {}

    def fetch(name: str, **options: Any) -> Any:
        seen.update(options, name=name)
        raise ValueError("The repository has custom code: pass `trust_remote_code=True`")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", fetch)
    with pytest.raises(AssetError, match="read that code, then pass trust_remote_code=True"):
        DiffusionGenerator("owner/repo@main", ["cow"])
    assert seen["name"] == "owner/repo"
    assert seen["revision"] == "main"
    assert seen["use_safetensors"] is True
    assert seen["trust_remote_code"] is False


def test_too_little_gpu_memory_is_told_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    made = pipeline("text")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 2000))
    needed = sum(p.nbytes for part in pipelines.modules_of(made).values() for p in part.parameters())
    with pytest.raises(torch.OutOfMemoryError, match=r"need [\d,]+ bytes on cuda.*1,000 free.*bfloat16") as found:
        pipelines.check_memory(made, torch.device("cuda"), None)
    assert abs(int(str(found.value).split("need ")[1].split(" ")[0].replace(",", "")) - needed) < 1000
    with pytest.raises(torch.OutOfMemoryError):
        text(pipeline=made).to("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**40, 2**40))
    pipelines.check_memory(made, torch.device("cuda"), None)


class Bank:
    """Six photographs of two classes, as BankFiles has them: a bright square on a dark ground."""

    classes = ("camel", "cow")
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    entries = tuple(SimpleNamespace(file=f"{i}.jpg") for i in range(6))

    def parts(self, numbers: Tensor) -> tuple[Tensor, ...]:
        mask = torch.zeros(len(numbers), 1, 64, 64, dtype=torch.uint8)
        mask[:, :, 16:48, 16:48] = 255
        colours = (numbers * 40 + 20).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 64, 64)
        ground = torch.full_like(colours, 10)
        return torch.where(mask > 0, colours, ground), colours, mask, ground


def test_guided_images_begin_as_a_photograph_of_their_class() -> None:
    plain, g = text(nuisances=NUISANCE, steps=4), text(nuisances=NUISANCE, guide=Bank(), steps=4, strength=0.5)
    z, labels = noise(g)
    images = g(z, labels)
    assert not torch.equal(images, plain(z, labels))
    order = [3, 3, 0, 7, 5, 1, 3, 2]
    assert torch.equal(to_uint8(g(z[order], labels[order])), to_uint8(images)[order])
    said = g.describe(z, labels)
    assert all(f["photograph"]["file"] == f"{f['photograph']['entry']}.jpg" for f in said)
    assert [Bank.classes[Bank.labels[f["photograph"]["entry"]]] for f in said] == ["cow", "camel"] * 4
    assert len({f["photograph"]["entry"] for f in said}) > 3
    assert said[0]["pipeline_class"] == "StableDiffusionImg2ImgPipeline"
    assert said[0]["call"]["strength"] == 0.5


def test_inpainted_images_keep_the_object() -> None:
    g = text(nuisances=NUISANCE, inpaint=Bank(), steps=4, strength=1.0)
    z, labels = noise(g)
    images, said = to_uint8(g(z, labels)), g.describe(z, labels)
    for image, one in zip(images, said, strict=True):
        inner = image[:, 10:22, 10:22]
        assert (inner.int() - (one["photograph"]["entry"] * 40 + 20)).abs().max() <= 1
    assert images[:, :, :6].float().std() > 1  # the ground is painted


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"guide": Bank(), "inpaint": Bank()}, "must not both"),
        ({"guide": Bank(), "classes": ["cow", "dog"]}, "'dog' has none"),
        ({"guide": Bank(), "strength": 0.1}, r"steps \* strength must be at least 1"),
        ({"guide": Bank(), "strength": 1.5}, r"strength must be in \[0, 1\]"),
    ],
)
def test_banks_that_do_not_fit_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        text(**options)


def test_a_pipeline_without_the_other_form_is_refused() -> None:
    with pytest.raises(ValueError, match="need a text pipeline"):
        DiffusionGenerator(pipeline("class"), guide=Bank())


def test_the_lines_of_the_page_work(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "diffusion.md").read_text()
    lines = page.split("```python\n")[1].split("```")[0]
    assert len([line for line in lines.splitlines() if line]) <= 4
    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", lambda name, **_: pipeline("text"))
    names: dict[str, Any] = {}
    exec(lines, names)
    image, label = names["dataset"][0]
    assert image.shape == (3, 32, 32)
    assert label in (0, 1)


@pytest.mark.parametrize("how", ["guide", "inpaint"])
def test_a_bank_on_disk_is_named_by_its_folder_and_kept_by_save(how: str, folder: Path, tmp_path: Path) -> None:
    bank = draw_bank(tmp_path / "bank", classes=2, per_class=3)
    g = DiffusionGenerator(
        folder, list(bank.classes), "a photo of a {label}", steps=2, strength=1.0, **{how: bank.path}
    )
    z, labels = noise(g)
    images, said = g(z, labels), g.describe(z, labels)
    assert all(bank.entries[one["photograph"]["entry"]].file == one["photograph"]["file"] for one in said)
    assert torch.equal(load_generator(g.save(tmp_path / "saved"))(z, labels), images)
    assert torch.equal(DiffusionGenerator(**{**g._given, how: PhotographBank(bank.path)})(z, labels), images)
