"""Models as users pass them: bound methods, wrappers in training mode, models with a normalization of their own."""

from __future__ import annotations

import functools
import logging
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genaug import MultiHeadResNet
from genaug.evaluation import accuracy, scoring
from genaug.evaluation.measures.accuracy import batches
from genaug.evaluation.scoring import score
from genaug.models.mnist_cnn import MnistCNN

IMAGES = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 3)).train()


def logits(model: Any, images: Tensor = IMAGES, **options: Any) -> Tensor:
    return torch.cat([heads["ensemble"] for heads, _ in score(model, batches(images, LABELS, 5), **options)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_come_in_the_type_of_the_weights(dtype: torch.dtype) -> None:
    model = network().to(dtype)
    found = logits(model)
    assert found.dtype == torch.float32
    assert torch.allclose(found, logits(network()), atol=0.2)


@pytest.mark.parametrize("wrap", [lambda m: m.forward, lambda m: functools.partial(m.forward), lambda m: m.__call__])
def test_the_module_behind_a_bound_method_is_put_into_evaluation_mode(wrap: Any) -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert torch.equal(logits(wrap(model)), logits(model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


def test_threads_score_one_model_that_is_in_training() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected, found = accuracy(model, batches(IMAGES, LABELS, 5)), []

    def work() -> None:
        found.extend(accuracy(model, batches(IMAGES, LABELS, size)) for size in (1, 2, 5, 12))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 12
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_function_that_calls_a_module_in_training_mode_is_told_of() -> None:
    model = network()
    with pytest.warns(UserWarning, match="a module in training mode: .* call its eval"):
        accuracy(lambda images: model(images), batches(IMAGES, LABELS))
    model.eval()
    accuracy(lambda images: model(images), batches(IMAGES, LABELS))  # warnings are errors here


def test_uint8_is_normalized_as_the_model_says(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = MultiHeadResNet("resnet18", 3)
    model.preprocessing = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    images = torch.randint(256, (12, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
    mean, std = (torch.tensor(model.preprocessing[name])[:, None, None] for name in ("mean", "std"))
    with caplog.at_level(logging.WARNING, "genaug"):
        expected = logits(model, (images / 255 - mean) / std)
        assert torch.allclose(logits(model, images), expected, atol=1e-5)
        # one that says nothing is given what it is told to be given
        plain = nn.Sequential(nn.Flatten(), nn.Linear(3072, 3))
        found = logits(plain, images, batch_transform=lambda batch: batch / 255)
        assert torch.allclose(found, logits(plain, images / 255), atol=1e-5)
    assert not caplog.records


def test_a_measure_that_has_to_assume_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    scoring._say_assumed.cache_clear()
    images = torch.randint(256, (12, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
    plain = nn.Sequential(nn.Flatten(), nn.Linear(3072, 3))
    with caplog.at_level(logging.WARNING, "genaug"):
        logits(MnistCNN(), images)
        assert not caplog.records
        for _ in range(2):
            logits(plain, images)
    assert [record.message.split(",")[0] for record in caplog.records] == ["uint8 images are scored as [-1"]


def test_a_built_in_function_is_a_model() -> None:
    """It has no signature to read, and so no heads to ask for."""
    images, labels = torch.randn(4, 10, generator=torch.Generator().manual_seed(0)), torch.zeros(4, dtype=torch.int64)
    ((heads, _),) = score(torch.relu, [(images, labels)])
    assert torch.equal(heads["ensemble"], images.relu())


def test_a_function_may_refer_to_what_is_not_defined_yet() -> None:
    def model(images: torch.Tensor) -> torch.Tensor:
        return images if len(images) else later(images)

    images = torch.ones(4, 10)
    ((heads, _),) = score(model, [(images, torch.zeros(4, dtype=torch.int64))])
    assert torch.equal(heads["ensemble"], images)
    later = model
