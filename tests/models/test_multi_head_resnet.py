"""The ResNet with several heads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models

from genaug import MultiHeadClassifier, MultiHeadLoss, MultiHeadResNet
from genaug.assets.registry import UnavailableAssetError
from genaug.evaluation import accuracy, grad_cam, invariance


@pytest.fixture(scope="module")
def model() -> MultiHeadResNet:
    torch.manual_seed(0)
    return MultiHeadResNet("resnet18", num_classes=7).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, 40, 40, generator=torch.Generator().manual_seed(0))


def test_the_answer_is_the_mean_of_the_heads_in_training_and_evaluation(model: MultiHeadResNet, images: Tensor) -> None:
    heads = model(images, heads=True)
    assert list(heads) == ["shape", "texture", "background", "ensemble"]
    assert all(logits.shape == (3, 7) for logits in heads.values())
    mean = (heads["shape"] + heads["texture"] + heads["background"]) / 3
    assert torch.allclose(heads["ensemble"], mean, atol=1e-6)
    assert torch.equal(model(images), heads["ensemble"])
    training = MultiHeadResNet("resnet18", num_classes=7).train()
    assert training(images).shape == (3, 7)


def test_log_probabilities_may_be_averaged_instead(images: Tensor) -> None:
    model = MultiHeadResNet("resnet18", num_classes=7, aggregate="log_probs").eval()
    heads = model(images, heads=True)
    parts = [F.log_softmax(heads[name], dim=1) for name in model.heads]
    assert torch.allclose(heads["ensemble"], sum(parts) / 3, atol=1e-6)


def test_features_and_heads_are_torchvisions_layers(images: Tensor) -> None:
    model = MultiHeadResNet("resnet18", num_classes=7, heads=["only"]).eval()
    plain = models.resnet18(num_classes=7).eval()
    state = {f"backbone.{name}": value for name, value in plain.state_dict().items() if not name.startswith("fc.")}
    state |= {f"heads.only.{name}": value for name, value in plain.fc.state_dict().items()}
    model.load_state_dict(state)
    assert torch.equal(model(images), plain(images))


@pytest.mark.parametrize("backbone", ["resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_every_kind_of_resnet_is_a_backbone(backbone: str) -> None:
    with torch.device("meta"):
        model = MultiHeadResNet(backbone, num_classes=11)
    assert model.heads["texture"].weight.shape == (11, 2048)


def test_published_weights_start_each_head_as_the_published_layer(
    monkeypatch: pytest.MonkeyPatch, images: Tensor
) -> None:
    published = models.resnet18()

    def fetched(name: str, weights: Any) -> nn.Module:
        assert (name, weights) == ("resnet18", "DEFAULT")
        return models.resnet18()

    monkeypatch.setattr("genaug.models.multi_head_resnet.models.get_model", fetched)
    torch.manual_seed(0)
    model = MultiHeadResNet("resnet18", weights="DEFAULT").eval()
    torch.manual_seed(0)
    published = models.resnet18().eval()
    assert torch.allclose(model(images), published(images), atol=1e-5)
    heads = list(model.heads.values())
    assert heads[0].weight is not heads[1].weight
    other = MultiHeadResNet("resnet18", num_classes=5, weights="DEFAULT")
    assert not torch.equal(other.heads["shape"].weight, other.heads["texture"].weight)


def test_some_heads_answer_alone(model: MultiHeadResNet, images: Tensor) -> None:
    heads = model(images, heads=True)
    both = model.only("shape", "texture")
    assert torch.allclose(both(images), (heads["shape"] + heads["texture"]) / 2, atol=1e-6)
    assert torch.equal(model.only("texture")(images), heads["texture"])


def test_frozen_batch_norm_keeps_its_statistics(images: Tensor) -> None:
    for frozen in (True, False):
        model = MultiHeadResNet("resnet18", num_classes=7, frozen_batch_norm=frozen).train()
        before = model.backbone.bn1.running_mean.clone()
        model(images)
        assert torch.equal(before, model.backbone.bn1.running_mean) == frozen
        assert model.training
        assert model.backbone.bn1.weight.requires_grad
        synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(model).train()
        assert synchronised.backbone.bn1.training != frozen


def test_it_is_saved_with_its_settings_as_safetensors(tmp_path: Path, images: Tensor) -> None:
    model = MultiHeadResNet("resnet18", 5, heads=("hue", "form"), aggregate="log_probs", frozen_batch_norm=True).eval()
    model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings == {
        "backbone": "resnet18",
        "num_classes": 5,
        "heads": ["hue", "form"],
        "aggregate": "log_probs",
        "frozen_batch_norm": True,
    }
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())
    again = MultiHeadResNet.from_pretrained(tmp_path)
    assert not again.training
    assert torch.equal(again(images), model(images))
    assert again.frozen_batch_norm


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The published weights that were asked for. None are fetched."""
    real = models.get_model
    found: list[Any] = []

    def fetched(name: str, weights: Any = None) -> nn.Module:
        found.append(weights)
        return real(name)

    monkeypatch.setattr("genaug.models.multi_head_resnet.models.get_model", fetched)
    return found


def test_loading_does_not_fetch_published_weights(tmp_path: Path, asked: list[Any]) -> None:
    MultiHeadResNet("resnet18", 5, weights="DEFAULT").save_pretrained(tmp_path)
    MultiHeadResNet.from_pretrained(tmp_path)
    assert asked == ["DEFAULT", None]


def test_an_enum_of_torchvisions_weights_is_its_name(asked: list[Any]) -> None:
    for kind in (MultiHeadResNet, MultiHeadClassifier):
        for weights in (models.ResNet18_Weights.IMAGENET1K_V1, models.ResNet18_Weights.DEFAULT):
            assert "weights" not in kind("resnet18", 5, weights=weights)._hub_mixin_config
    assert asked == ["IMAGENET1K_V1"] * 4
    other = models.ResNet50_Weights.IMAGENET1K_V2
    for backbone in ("resnet18", "timm/resnet18.a1_in1k"):
        with pytest.raises(ValueError, match=rf"weights must be of the backbone {backbone}, got ResNet50_W\w+.IMAGE"):
            MultiHeadClassifier(backbone, 5, weights=other)
    with pytest.raises(TypeError, match="weights must be None, a name or an enum of torchvision, got True"):
        MultiHeadResNet("resnet18", 5, weights=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["mmx", "./mmx", "runs/a/mmx", "../x/mmx"])
def test_a_name_that_no_repository_can_have_is_a_missing_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object, **__: object) -> None:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", asked)
    here = tmp_path / "x"
    here.mkdir()
    monkeypatch.chdir(here)
    right = Path(name).with_name("mm")
    right.mkdir(parents=True)
    for given in (name, Path(name)):
        with pytest.raises(FileNotFoundError, match=f"no such folder: {given}; did you mean '{right}'"):
            MultiHeadResNet.from_pretrained(given)
    (here / "model.safetensors").touch()
    with pytest.raises(FileNotFoundError, match=r"no such folder: model.safetensors$"):
        MultiHeadResNet.from_pretrained("model.safetensors")
    with pytest.raises(AssertionError, match="the Hub was asked"):
        MultiHeadResNet.from_pretrained("owner/mm-x.2")


def test_measures_score_every_head_and_grad_cam_finds_its_layer(model: MultiHeadResNet, images: Tensor) -> None:
    labels = torch.tensor([0, 1, 2])
    report = invariance(model, [(images, {"shape": labels, "texture": labels.flip(0)})])
    assert set(report.by_head()) == {"ensemble", "shape", "texture", "background"}
    assert accuracy(model, [(images, model(images).argmax(1))]) == 1
    pytest.importorskip("pytorch_grad_cam")
    maps, answers = grad_cam(model, images)
    assert len(maps) == len(answers) == 3
    assert maps.isfinite().all()


def test_a_step_of_training_moves_every_head(images: Tensor) -> None:
    model = MultiHeadResNet("resnet18", num_classes=7).train()
    targets = {
        "labels": torch.tensor([0, 1, 2]),
        "source": torch.tensor([0, 1, 1]),
        "heads": {name: torch.tensor([-100, 3, 4]) for name in model.heads},
    }
    MultiHeadLoss()(model(images, heads=True), targets).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.heads.parameters())


@pytest.mark.slow
def test_it_compiles_and_wraps_in_ddp(images: Tensor, tmp_path: Path) -> None:
    model = MultiHeadResNet("resnet18", num_classes=7).eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(images), model(images), atol=1e-5)
    assert set(compiled(images, heads=True)) == {"shape", "texture", "background", "ensemble"}
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(model.train())
        parallel(images).sum().backward()  # every parameter has a gradient, or DDP complains at the next step
        parallel(images, heads=True)["ensemble"].sum().backward()
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backbone": "resnt50"}, ValueError, "did you mean 'resnet50'"),
        ({"backbone": "vgg16"}, ValueError, "backbone must be a ResNet of torchvision's, got 'vgg16'"),
        ({"heads": ()}, ValueError, r"heads must be names that differ, at least one, got \(\)"),
        ({"heads": ("a", "a")}, ValueError, "heads must be names that differ"),
        ({"heads": ("ensemble",)}, ValueError, "heads must not be called 'ensemble'"),
        ({"aggregate": "votes"}, ValueError, "aggregate must be one of 'logits', 'log_probs', got 'votes'"),
        (
            {"weights": "V9"},
            ValueError,
            "weights of resnet18 must be None or one of IMAGENET1K_V1, DEFAULT, got 'V9'",
        ),
        ({"num_classes": 1}, ValueError, "num_classes must be at least 2"),
        ({"num_classes": 2.5}, TypeError, "num_classes must be an int"),
    ],
)
def test_bad_input_is_named(options: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        MultiHeadResNet(**{"backbone": "resnet18", **options})


def test_an_unknown_head_is_named(model: MultiHeadResNet) -> None:
    with pytest.raises(ValueError, match="names must be one of 'shape', 'texture', 'background', got 'hue'"):
        model.only("hue")
    with pytest.raises(ValueError, match="names must have at least one of shape, texture, background"):
        model.only()


@pytest.mark.parametrize("backbone", ["resnet18", "timm/resnet18.a1_in1k"])
def test_weights_that_cannot_be_fetched_are_one_line_that_says_what_to_do(
    backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from urllib.error import URLError

    def offline(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    if backbone.startswith("timm"):
        timm = pytest.importorskip("timm", reason="needs timm")
        monkeypatch.setattr(timm, "create_model", offline)
    else:
        monkeypatch.setattr("genaug.models.multi_head_resnet.models.get_model", offline)
    with pytest.raises(
        UnavailableAssetError, match=f"weights 'DEFAULT' of {backbone} could not be fetched .*weights=None"
    ) as e:
        MultiHeadClassifier(backbone, 3, weights="DEFAULT")
    assert "\n" not in str(e.value)
