from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from genaug.models.mnist_cnn import MnistCNN, NormalisedMnistCNN


def layer_by_layer(model: MnistCNN) -> nn.Sequential:
    """The same network as the released code has it, one module a layer, with the model's own parameters."""
    norm = nn.BatchNorm2d(3)
    norm.weight, norm.bias = model.norm_weight, model.norm_bias
    return nn.Sequential(
        norm,
        model.conv1, nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        model.conv2, nn.ReLU(),
        model.conv3, nn.ReLU(),
        model.conv4, nn.ReLU(),
        nn.AvgPool2d(7), nn.Flatten(), model.linear,
    )  # fmt: skip


@pytest.fixture
def model() -> MnistCNN:
    model = MnistCNN()
    with torch.no_grad():  # as training leaves them: neither one nor zero
        model.norm_weight.uniform_(0.5, 2)
        model.norm_bias.uniform_(-1, 1)
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 3, 32, 32) * 2 - 1


def test_folded_batch_norm_is_the_network_layer_by_layer(model: MnistCNN, images: Tensor) -> None:
    plain = layer_by_layer(model)
    torch.testing.assert_close(model(images), plain(images), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.norm.running_var, plain[0].running_var)
    torch.testing.assert_close(model.eval()(images), plain.eval()(images), rtol=1e-4, atol=1e-5)


def test_folded_batch_norm_has_the_same_gradients(model: MnistCNN, images: Tensor) -> None:
    gradients = []
    for network in (model, layer_by_layer(model)):
        model.zero_grad()
        network(images).square().sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    assert gradients[0]["norm_bias"].abs().min() > 1e-4
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-4, msg=name)


def test_one_logit_a_class(images: Tensor) -> None:
    assert MnistCNN(num_classes=7)(images).shape == (5, 7)


def test_images_must_be_floats_of_32_pixels(model: MnistCNN) -> None:
    with pytest.raises(TypeError, match=r"floats in \[-1, 1\], got torch.uint8"):
        model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"\(B, 3, 32, 32\), got \(2, 1, 28, 28\)"):
        model(torch.zeros(2, 1, 28, 28))


def test_with_contrast_a_faint_digit_is_as_plain_as_a_bold_one(images: Tensor) -> None:
    model = NormalisedMnistCNN().eval()
    faint = 0.3 + 0.1 * images
    torch.testing.assert_close(model(faint), model(images), rtol=0.05, atol=0.01)
    plain = NormalisedMnistCNN(contrast=False).eval()
    assert (plain(faint) - plain(images)).abs().max() > 0.01


@pytest.mark.parametrize("places", [1, 2, 4, 8])
def test_only_one_place_hides_where_a_stroke_is(places: int) -> None:
    features = torch.zeros(2, 32, 16, 16)
    features[..., 2:6, :] = torch.rand(2, 32, 4, 16)
    moved = features.roll(4, dims=2)  # far enough from the border that padding changes nothing
    model = NormalisedMnistCNN(places=places).eval()
    assert model.linear.in_features == 64 * places**2
    difference = (model.classify(features) - model.classify(moved)).abs().max()
    assert difference < 1e-5 if places == 1 else difference > 0.01


def test_places_must_divide_the_feature_map() -> None:
    with pytest.raises(ValueError, match="places must be 1, 2, 4 or 8, got 3"):
        NormalisedMnistCNN(places=3)
    with pytest.raises(TypeError, match="places must be an int, got float"):
        NormalisedMnistCNN(places=4.0)


def test_one_colour_all_over_is_no_error(images: Tensor) -> None:
    assert NormalisedMnistCNN(num_classes=7)(torch.zeros_like(images)).isfinite().all()


def test_the_normalised_classifier_wants_floats_of_32_pixels(images: Tensor) -> None:
    with pytest.raises(TypeError, match="images must be floats"):
        NormalisedMnistCNN()(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"\(B, 3, 32, 32\), got \(2, 3, 28, 28\)"):
        NormalisedMnistCNN()(torch.zeros(2, 3, 28, 28))
