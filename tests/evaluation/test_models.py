from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import models
from torchvision.transforms import v2

from genaug.assets import AssetError
from genaug.assets.registry import UnavailableAssetError
from genaug.evaluation import load_classifier, preprocessing
from genaug.evaluation.scoring import score, weights_digest
from genaug.models.multi_head_resnet import MultiHeadResNet

NAME = "squeezenet1_1"  # torchvision's smallest


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return models.get_model(NAME).state_dict()


@pytest.mark.parametrize(
    ("file", "wrap"),
    [
        ("weights.pth", lambda state: state),
        ("weights.pth", lambda state: {"epoch": 3, "state_dict": {f"module.{key}": x for key, x in state.items()}}),
        ("weights.pt", lambda state: {"model": state}),
        ("weights.safetensors", None),
    ],
)
def test_a_file_of_weights_however_training_wrapped_it(tmp_path: Path, state, file: str, wrap) -> None:
    if wrap is None:
        save_file(state, tmp_path / file)
    else:
        torch.save(wrap(state), tmp_path / file)
    classifier = load_classifier(NAME, str(tmp_path / file))
    assert classifier.name == f"{NAME}, {file}"
    assert all(torch.equal(x, state[key]) for key, x in classifier.model.state_dict().items())


def test_images_go_through_what_the_weights_were_tested_with(tmp_path: Path, state) -> None:
    torch.save(state, tmp_path / "weights.pth")
    classifier = load_classifier(NAME, tmp_path / "weights.pth")
    image = Image.radial_gradient("L").convert("RGB").resize((400, 300))
    assert torch.allclose(classifier.transform(image), preprocessing()(image), atol=1e-6)
    cropped = image.resize((224, 224))
    plain = preprocessing(resize=None, crop=None)
    assert torch.equal(classifier.cropped_transform(cropped), plain(cropped))


def test_a_model_of_another_input_size_gets_cropped_images_at_its_own(tmp_path: Path) -> None:
    torch.save(models.inception_v3(weights=None, init_weights=False).state_dict(), tmp_path / "weights.pth")
    classifier = load_classifier("inception_v3", tmp_path / "weights.pth")
    assert classifier.cropped_transform(Image.new("RGB", (224, 224))).shape == (3, 299, 299)
    assert classifier.model.transform_input  # as with published weights


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnt50", None, "torchvision has no classifier 'resnt50'; did you mean 'resnet50'"),
        (
            "resnet50",
            "IMAGENET1K_V9",
            "weights of resnet50 must be a file, 'none' or one of IMAGENET1K_V1, .* got 'IMAGENET1K_V9'",
        ),
    ],
)
def test_unknown_names_are_refused(name: str, weights: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_classifier(name, weights)


def test_weights_that_do_not_fit_or_are_none_are_refused(tmp_path: Path, state) -> None:
    torch.save({**state, "more": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(ValueError, match="does not fit squeezenet1_1: 1 tensors differ in name or shape, such as more"):
        load_classifier(NAME, tmp_path / "more.pth")
    torch.save({**state, "classifier.1.bias": torch.zeros(10)}, tmp_path / "ten.pth")
    with pytest.raises(ValueError, match=r"such as classifier\.1\.weight"):
        load_classifier(NAME, tmp_path / "ten.pth")
    with pytest.raises(FileNotFoundError, match="no such file: gone"):
        load_classifier(NAME, "gone.pth")
    with pytest.raises(ValueError, match="For a file of weights pass the name of its network"):
        load_classifier(str(tmp_path / "ten.pth"))
    (tmp_path / "damaged.pth").write_bytes(b"PK\3\4 and then nothing")
    with pytest.raises(AssetError, match=r"damaged\.pth"):
        load_classifier(NAME, tmp_path / "damaged.pth")


def test_weights_that_cannot_be_fetched_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", unreachable)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    with pytest.raises(
        UnavailableAssetError, match=r"could not be fetched \(no route to host\); pass a file of them as weights"
    ):
        load_classifier(NAME)


def test_timms_models_by_their_names(tmp_path: Path, state, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModuleNotFoundError, match="timm/small needs timm: pip install timm"):
        load_classifier("timm/small")
    asked = []

    def create_model(name: str, pretrained: bool) -> torch.nn.Module:
        asked.append((name, pretrained))
        return models.get_model(NAME)

    config = {"input_size": (3, 240, 240), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    timm = SimpleNamespace(
        is_model=lambda name: name == "small.a1",
        list_models=lambda: ["small", "large"],
        create_model=create_model,
        data=SimpleNamespace(
            resolve_model_data_config=lambda model: config,
            create_transform=lambda input_size, mean, std, is_training: v2.CenterCrop(input_size[1:]),
        ),
    )
    monkeypatch.setitem(sys.modules, "timm", timm)
    classifier = load_classifier("timm/small.a1")
    assert classifier.transform(Image.new("RGB", (300, 300))).size == (240, 240)
    white = classifier.cropped_transform(Image.new("RGB", (224, 224), (255, 255, 255)))
    assert white.shape == (3, 240, 240)
    assert torch.equal(white, torch.ones(3, 240, 240))
    torch.save(state, tmp_path / "weights.pth")
    loaded = load_classifier("timm/small.a1", tmp_path / "weights.pth").model.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert asked == [("small.a1", True), ("small.a1", False)]
    with pytest.raises(ValueError, match="timm has no model 'smal'; did you mean 'small'"):
        load_classifier("timm/smal")
    with pytest.raises(ValueError, match="weights must be a file or 'none' for timm's models"):
        load_classifier("timm/small.a1", "IMAGENET1K_V1")


@pytest.mark.parametrize("heads", [("shape", "texture"), ("label",)])
def test_a_folder_of_a_trained_model_is_a_classifier_with_its_heads(tmp_path: Path, heads: tuple[str, ...]) -> None:
    trained = MultiHeadResNet("resnet18", 20, heads=heads).eval()
    trained.save_pretrained(tmp_path / "model")
    classifier = load_classifier(str(tmp_path / "model"))
    assert classifier.name == str(tmp_path / "model")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = trained(images, heads=True)
        [(found, _)] = score(classifier.model, [(images, torch.zeros(2))])
    assert set(found) == ({*heads, "ensemble"} if len(heads) > 1 else {"ensemble"})
    assert all(torch.allclose(found[head], expected[head], atol=1e-6) for head in found)
    image = Image.radial_gradient("L").convert("RGB").resize((400, 300))
    assert torch.equal(classifier.transform(image), preprocessing()(image))


def test_folders_without_a_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"such as the model/ that .* got no config\.json"):
        load_classifier(str(tmp_path))
    MultiHeadResNet("resnet18", 2).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"weights must be left out for .* got 'DEFAULT'"):
        load_classifier(str(tmp_path), "DEFAULT")
    MultiHeadResNet("resnet18", 3).save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "config.json").replace(tmp_path / "config.json")
    with pytest.raises(ValueError, match=r"does not fit its config\.json: 6 tensors differ"):
        load_classifier(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(AssetError, match=r"model\.safetensors"):
        load_classifier(str(tmp_path))
    for wrong in ("{", '{"backbone": "squeezenet1_0"}', '{"depth": 18}', "[]"):
        (tmp_path / "config.json").write_text(wrong)
        with pytest.raises(ValueError, match=r"config\.json is not one of MultiHeadClassifier's"):
            load_classifier(str(tmp_path))


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.", "model._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_training_are_taken_off(tmp_path: Path, state, prefix: str) -> None:
    wrapped = {f"{prefix}{key}": tensor for key, tensor in state.items()} | {"loss.weight": torch.ones(3)}
    torch.save({"state_dict": wrapped, "epoch": 3}, tmp_path / "last.ckpt")
    found = load_classifier(NAME, tmp_path / "last.ckpt").model.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in found.items())


def test_another_prefix_is_named(tmp_path: Path, state) -> None:
    torch.save({f"student.{key}": tensor for key, tensor in state.items()}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"its names begin with 'student\.': save them without it"):
        load_classifier(NAME, tmp_path / "weights.pth")


def test_the_number_of_classes_is_the_files(tmp_path: Path) -> None:
    seven = models.get_model(NAME, num_classes=7)
    torch.save({f"module.{key}": tensor for key, tensor in seven.state_dict().items()}, tmp_path / "weights.pth")
    classifier = load_classifier(NAME, tmp_path / "weights.pth")
    assert classifier.model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    assert classifier.class_names is None
    names = list("abcdefg")
    described = {"class_names": names, "image_size": 96, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    (tmp_path / "preprocessing.json").write_text(json.dumps(described))
    classifier = load_classifier(NAME, tmp_path / "weights.pth")
    assert classifier.class_names == tuple(names)
    white = torch.full((2, 3, 40, 40), 255, dtype=torch.uint8)
    assert torch.equal(classifier.batch_transform(white), torch.ones(2, 3, 96, 96))
    assert classifier.transform(Image.new("RGB", (300, 200))).shape == (3, 96, 96)
    (tmp_path / "preprocessing.json").write_text("[]")
    with pytest.raises(ValueError, match=r"preprocessing\.json must be JSON with any of class_names"):
        load_classifier(NAME, tmp_path / "weights.pth")


def test_a_trained_folder_says_its_classes_and_size(tmp_path: Path) -> None:
    MultiHeadResNet("resnet18", 2).save_pretrained(tmp_path)
    (tmp_path / "preprocessing.json").write_text('{"class_names": ["cat", "dog"], "image_size": 64}')
    classifier = load_classifier(str(tmp_path))
    assert classifier.class_names == ("cat", "dog")
    assert classifier.transform(Image.new("RGB", (300, 200))).shape == (3, 64, 64)
    (tmp_path / "preprocessing.json").write_text('{"class_names": ["cat"]}')
    with pytest.raises(ValueError, match=r"preprocessing\.json must name 2 classes, got 1"):
        load_classifier(str(tmp_path))


class Colours(torch.nn.Module):
    """The mean colour as three logits."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("kind", ["script", "fixed", "dynamic"])
def test_programs_are_opened(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "model.pt2"
    if kind == "script":
        torch.jit.save(torch.jit.script(Colours().eval()), str(file))
    else:
        batch = {0: torch.export.Dim("batch")} if kind == "dynamic" else None
        exported = torch.export.export(
            Colours().eval(), (torch.zeros(4, 3, 32, 32),), dynamic_shapes=None if batch is None else (batch,)
        )
        torch.export.save(exported, str(file))
    classifier = load_classifier(str(file))
    images = torch.rand(6, 3, 32, 32)
    [(found, _)] = score(classifier.model, [(images, torch.zeros(6))])
    assert torch.allclose(found["ensemble"], images.mean((2, 3)), atol=1e-6)
    size = 224 if kind == "script" else 32
    assert classifier.batch_transform(torch.zeros(1, 3, 50, 50, dtype=torch.uint8)).shape[2:] == (size, size)


def test_exported_programs_are_told_apart_by_their_weights(tmp_path: Path) -> None:
    digests = []
    for bias in (0.0, 1.0, 1.0):
        layer = torch.nn.Linear(8, 2)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.constant_(layer.bias, bias)
        exported = torch.export.export(layer, (torch.zeros(4, 3, 8, 8),))
        torch.export.save(exported, str(tmp_path / "model.pt2"))
        digests.append(weights_digest(load_classifier(str(tmp_path / "model.pt2")).model))
    assert None not in digests
    assert digests[0] != digests[1] == digests[2]


def test_a_python_path_to_a_model_or_to_what_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_models.py").write_text(
        "import torch\n"
        "def function(images):\n    return images.mean((2, 3))\n"
        "def make():\n    return function\n"
        "module = torch.nn.Identity()\n"
        "number = 3\n"
    )
    images = torch.rand(2, 3, 4, 4)
    for name in ("function", "make"):
        assert torch.equal(load_classifier(f"my_models:{name}").model(images), images.mean((2, 3)))
    assert isinstance(load_classifier("my_models:module").model, torch.nn.Identity)
    with pytest.raises(TypeError, match="must be a model, a Classifier or a function that returns one, got int"):
        load_classifier("my_models:number")
    with pytest.raises(ValueError, match="my_models has no 'functon'; did you mean 'function'"):
        load_classifier("my_models:functon")
    with pytest.raises(ModuleNotFoundError, match="their_models:make cannot be imported"):
        load_classifier("their_models:make")


def square(size: int) -> dict[str, int]:
    return {"height": size, "width": size}


# the settings of a processor, and by hand: the size of an 80 x 40 image, the crop, the filter, mean and deviation
PROCESSORS = {
    "vit": (
        {"image_processor_type": "ViTImageProcessor", "size": square(32)},
        ((32, 32), 32, Image.Resampling.BILINEAR, 0.5, 0.5),
    ),
    "convnext": (
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 28}, "do_normalize": False},
        ((64, 32), 28, Image.Resampling.BICUBIC, 0.0, 1.0),
    ),
    "crop": (
        {
            "image_processor_type": "ViTImageProcessor",
            "size": {"shortest_edge": 36},
            "do_center_crop": True,
            "crop_size": square(32),
            "image_mean": [0.25] * 3,
        },
        ((72, 36), 32, Image.Resampling.BILINEAR, 0.25, 0.5),
    ),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_folder_of_hugging_face(tmp_path: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    settings, (resized, size, resample, mean, std) = PROCESSORS[name]
    names = {0: "cat", 1: "dog", 2: "owl"}
    if name == "vit":
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
        config = transformers.ViTConfig(**sizes, image_size=32, id2label=names)
        model = transformers.ViTForImageClassification(config).eval()
    else:
        config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 4], depths=[1, 1], id2label=names)
        model = transformers.ResNetForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    classifier = load_classifier(str(tmp_path))
    assert classifier.class_names == ("cat", "dog", "owl")
    image = Image.radial_gradient("L").convert("RGB").resize((80, 40))
    found = classifier.transform(image)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    assert torch.equal(found, processor(image, return_tensors="pt")["pixel_values"][0])
    left, top = ((side - size) // 2 for side in resized)
    by_hand = image.resize(resized, resample).crop((left, top, left + size, top + size))
    expected = (v2.functional.pil_to_tensor(by_hand) / 255 - mean) / std
    assert torch.allclose(found, expected, atol=2 / 255 / std)
    white = classifier.batch_transform(torch.full((2, 3, 40, 40), 255, dtype=torch.uint8))
    assert torch.allclose(white, torch.full((2, 3, size, size), (1 - mean) / std))
    assert torch.equal(classifier.cropped_transform(Image.new("RGB", (224, 224), "white")), white[0])
    with torch.no_grad():
        assert torch.allclose(classifier.model(white), model(white).logits)


def test_a_folder_of_hugging_face_without_a_processor_gets_imagenets(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 4], depths=[1, 1])
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    image = Image.radial_gradient("L").convert("RGB").resize((400, 300))
    assert torch.equal(load_classifier(str(tmp_path)).transform(image), preprocessing()(image))


@pytest.mark.parametrize("name", ["resnet18.pth", "best.pth", "squeezenet1_1-best.pth"])
def test_a_file_of_weights_alone_says_its_network(tmp_path: Path, name: str) -> None:
    network = NAME if name.startswith(NAME) else "resnet18"
    model = models.get_model(network, num_classes=5)
    torch.save({f"module.{key}": tensor for key, tensor in model.state_dict().items()}, tmp_path / name)
    found = load_classifier(str(tmp_path / name))
    assert found.model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet10t"])
def test_none_is_an_untrained_network_and_always_the_same(name: str) -> None:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    before = torch.get_rng_state()
    one, other = (load_classifier(name, "none") for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    image = torch.rand(1, 3, 64, 64)
    assert isinstance(one.model, torch.nn.Module)
    assert isinstance(other.model, torch.nn.Module)
    assert torch.equal(one.model.eval()(image), other.model.eval()(image))
    assert one.name == f"{name}, none"


def test_a_model_that_is_not_there_is_not_sought_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "model").mkdir(parents=True)
    for name in ("nope.pth", "runs/nope.safetensors", "./nope", "a/b/c", "run/modell", "run/nothing-like-it"):
        with pytest.raises(FileNotFoundError, match=f"no such file or folder: {name}"):
            load_classifier(name)
    with pytest.raises(FileNotFoundError, match="did you mean 'run/model'"):
        load_classifier("run/modell")
