from __future__ import annotations

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
from genaug.evaluation import load_classifier, preprocessing
from genaug.evaluation.scoring import score
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
            "weights of resnet50 must be a file or one of IMAGENET1K_V1, .* got 'IMAGENET1K_V9'",
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
    with pytest.raises(ValueError, match=r"such as classifier\.1\.bias"):
        load_classifier(NAME, tmp_path / "ten.pth")
    with pytest.raises(FileNotFoundError, match="no such file: gone"):
        load_classifier(NAME, "gone.pth")
    with pytest.raises(ValueError, match="is a file: pass the name of its network"):
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
        RuntimeError, match=r"could not be fetched \(no route to host\); pass a file of them as weights"
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
    with pytest.raises(ValueError, match="weights must be a file for timm's models"):
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
    with pytest.raises(ValueError, match=r"such as the model/ that .* but has no config\.json"):
        load_classifier(str(tmp_path))
    MultiHeadResNet("resnet18", 2).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"weights must be left out for the folder .* got 'DEFAULT'"):
        load_classifier(str(tmp_path), "DEFAULT")
    MultiHeadResNet("resnet18", 3).save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "config.json").replace(tmp_path / "config.json")
    with pytest.raises(ValueError, match=r"does not fit its config\.json: 6 tensors differ"):
        load_classifier(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(AssetError, match=r"model\.safetensors"):
        load_classifier(str(tmp_path))
    for wrong in ("{", '{"backbone": "vgg16"}', '{"depth": 18}', "[]"):
        (tmp_path / "config.json").write_text(wrong)
        with pytest.raises(ValueError, match=r"config\.json is not one of MultiHeadResNet's"):
            load_classifier(str(tmp_path))
