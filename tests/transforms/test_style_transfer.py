"""Mathematics by hand and by torch's own optimiser; manners of a v2 transform; what is refused, and in which words."""

import pickle
import re

import pytest
import torch
import torch.nn.functional as F
from contract import generative
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.datasets import FakeData
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import to_pil_image

from genaug import AssetError, StyleTransferIntervention
from genaug.assets import load_asset, save_asset
from genaug.assets.layouts import shapes_of
from genaug.transforms.style_transfer import (
    _Tap,
    adain,
    adaptive_instance_norm,
    gatys,
    gram,
    statistics,
    style_grams,
)
from genaug.transforms.vgg import Encoder, decoder, load_encoder

WIDTHS = (3, 4, 6, 8, 8, 10)


def network(dtype=torch.float32, widths=WIDTHS, **options):
    """A small network whose features are of the size of real ones."""
    small = Encoder(widths, **options)
    for layer in small.convolutions:
        torch.nn.init.kaiming_normal_(layer.weight)
    return small.eval().requires_grad_(False).to(dtype)


def images(count=3, side=24, dtype=torch.float32, seed=5):
    """Smooth colours with grain."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=draw)
    made = F.interpolate(coarse, (side, side), mode="bilinear") + 0.05 * torch.randn(
        count, 3, side, side, generator=draw
    )
    return made.clamp(0, 1).to(dtype)


def layers(small, x):
    """conv_1 to conv_5 before their ReLU, spelled out."""
    weights = [(layer.weight, layer.bias) for layer in small.convolutions]
    x = F.conv2d(x, small.colours.weight, small.colours.bias)
    outputs = []
    for i, (weight, bias) in enumerate(weights[:5]):
        x = F.conv2d(x, weight, bias, padding=1)
        outputs.append(x)
        x = F.relu(x)
        if i in (1, 3):
            x = F.max_pool2d(x, 2)
    return outputs


def released_loss(small, x, contents, styles, style_weight=1e6, content_weight=0.1):
    """As the released code has it: mean squared errors over all of a batch's entries."""

    def grams(features):
        flat = features.flatten(2)
        return torch.bmm(flat, flat.transpose(1, 2)) / (features.shape[1] * features.shape[2] * features.shape[3])

    made, wanted = layers(small, x), layers(small, styles)
    style = sum(F.mse_loss(grams(a), grams(b)) for a, b in zip(made, wanted, strict=True))
    return style_weight * style + content_weight * F.mse_loss(made[3], layers(small, contents)[3])


def released(small, contents, styles, steps, **weights):
    """The released loop, with torch's optimiser over the whole batch; ten evaluations a call."""
    x = contents.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([x], lr=1, max_iter=10)
    evaluations = 0

    def closure():
        nonlocal evaluations
        x.data.clamp_(0, 1)
        optimizer.zero_grad()
        loss = released_loss(small, x, contents, styles, **weights)
        loss.backward()
        evaluations += 1
        return loss

    while evaluations < steps:
        optimizer.step(closure)
    return x.detach().clamp(0, 1)


def style_loss(small, made, styles):
    grams = zip(style_grams(small, made), style_grams(small, styles), strict=True)
    return sum((a - b).square().mean() for a, b in grams).item()


def test_the_gram_matrix_is_that_of_every_two_channels():
    features = torch.randn(2, 4, 3, 5)
    by_hand = torch.einsum("bchw,bdhw->bcd", features, features) / (4 * 3 * 5)
    torch.testing.assert_close(gram(features), by_hand)


def test_the_gradient_by_hand_is_autograds():
    features = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    targets = gram(torch.randn(2, 3, 4, 4, dtype=torch.float64))
    after = torch.randn(2, 3, 4, 4, dtype=torch.float64)

    def both(x):
        relu, losses = _Tap.apply(x, targets)
        return 1e3 * losses + (relu * after).sum(dim=(1, 2, 3))

    assert torch.autograd.gradcheck(both, features, check_undefined_grad=False)
    # the last layer's ReLU goes nowhere
    last = torch.autograd.gradcheck(lambda x: 1e3 * _Tap.apply(x, targets)[1], features, check_undefined_grad=False)
    assert last
    relu, losses = _Tap.apply(features, targets)
    assert torch.equal(relu, features.relu())
    torch.testing.assert_close(losses, (gram(features) - targets).square().mean(dim=(1, 2)))


@pytest.mark.parametrize(("steps", "side"), [(10, 27), (30, 24)])
def test_each_image_takes_the_path_of_the_released_code_on_it_alone(steps, side):
    small = network(torch.float64)
    contents, styles = images(3, side, torch.float64), images(3, side, torch.float64, seed=6)
    made = gatys(small, contents, list(styles), torch.full((3,), steps))
    for i in range(3):
        known = released(small, contents[i : i + 1], styles[i : i + 1], steps)
        assert (known - contents[i]).abs().mean() > 0.01  # else there would be nothing to compare
        torch.testing.assert_close(made[i], known[0], atol=1e-6, rtol=0)


def test_coupled_images_take_the_path_of_the_released_code_on_the_batch():
    small = network(torch.float64)
    contents, styles = images(dtype=torch.float64), images(dtype=torch.float64, seed=6)
    steps = torch.full((3,), 20)
    coupled = gatys(small, contents, list(styles), steps, batch_coupled=True)
    torch.testing.assert_close(coupled, released(small, contents, styles, 20), atol=1e-6, rtol=0)
    # coupled they are: the others change the first
    assert (coupled[:1] - gatys(small, contents[:1], list(styles[:1]), steps[:1])).abs().max() > 1e-3


def test_coupled_images_stop_together():
    with pytest.raises(ValueError, match=re.escape("with batch_coupled=True, got [5, 6]")):
        gatys(network(), images(2), list(images(2)), torch.tensor([5, 6]), batch_coupled=True)


def test_an_image_does_not_depend_on_its_companions_to_the_last_bit():
    small, contents, styles = network(), images(), images(seed=6)
    steps = torch.tensor([12, 30, 20])
    together = gatys(small, contents, list(styles), steps)
    for order in ([0], [2, 1], [1, 0, 2]):
        assert torch.equal(gatys(small, contents[order], [styles[i] for i in order], steps[order]), together[order])


def test_a_batch_that_goes_through_the_network_as_one_takes_the_same_paths(monkeypatch):
    """As on a GPU."""
    small = network(torch.float64)
    contents, styles = images(dtype=torch.float64), images(dtype=torch.float64, seed=6)
    steps = torch.tensor([5, 25, 15])
    one_by_one = gatys(small, contents, list(styles), steps)
    monkeypatch.setattr("genaug.transforms.style_transfer._together", lambda images: [slice(0, len(images))])
    torch.testing.assert_close(gatys(small, contents, list(styles), steps), one_by_one, atol=1e-6, rtol=0)


def test_zero_style_weight_leaves_the_content():
    small, contents = network(), images()
    assert torch.equal(gatys(small, contents, list(images(seed=6)), torch.full((3,), 20), style_weight=0), contents)


def test_a_style_equal_to_the_content_changes_nothing_much():
    small, contents = network(), images()
    made = gatys(small, contents, list(contents), torch.full((3,), 20))
    assert (made - contents).abs().max() < 1e-3


def test_the_style_loss_falls_with_every_ten_steps():
    small, contents, styles = network(), images(1), images(1, seed=6)
    losses = [style_loss(small, contents[0], styles[0])]
    for steps in (10, 20, 30, 40, 50):
        losses.append(style_loss(small, gatys(small, contents, list(styles), torch.tensor([steps]))[0], styles[0]))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] / 100


def test_styles_may_be_of_any_sizes():
    small, contents = network(), images(2)
    styles = [images(1, side=40)[0], images(1, side=16)[0, :, :, :12]]
    made = gatys(small, contents, styles, torch.tensor([20, 20]))
    for i, style in enumerate(styles):
        assert style_loss(small, made[i], style) < style_loss(small, contents[i], style) / 2


def test_adains_features_have_the_styles_means_and_deviations():
    features, style = torch.randn(2, 5, 7, 6) * 3 + 1, torch.randn(2, 5, 9, 9) * 0.5 - 2
    means, deviations = statistics(adaptive_instance_norm(features, statistics(style)))
    torch.testing.assert_close(means, style.mean(dim=(2, 3), keepdim=True), atol=1e-3, rtol=0)
    torch.testing.assert_close(deviations, style.std(dim=(2, 3), keepdim=True), atol=1e-3, rtol=0)


SHALLOW = (3, 4, 4, 6, 6, 8, 8, 8, 8, 10)


def pair():
    """An encoder to relu4_1, and a decoder whose images are neither black nor white."""
    back = decoder(SHALLOW).requires_grad_(False)
    for layer in back:
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    back[-1].weight *= 0.1
    back[-1].bias.fill_(0.5)
    return network(widths=SHALLOW, reflect=True), back


def test_adain_is_encode_normalise_decode():
    small, back = pair()
    contents, styles = images(2, side=32), images(2, side=48, seed=6)
    made = adain(small, back, contents, list(styles))
    features = small(contents)[-1]
    assert features.shape == (2, 10, 4, 4)
    by_hand = back(adaptive_instance_norm(features, statistics(small(styles)[-1]))).clamp(0, 1)
    torch.testing.assert_close(made, by_hand)
    # alpha is how far: 0 is the content's features
    without = adain(small, back, contents, list(styles), alpha=0)
    torch.testing.assert_close(without, back(features).clamp(0, 1))
    assert not torch.allclose(made, without, atol=1e-3)


def test_adain_keeps_any_size_and_does_not_depend_on_companions(monkeypatch):
    small, back = pair()
    contents = images(3, side=27)[..., :21]
    styles = [images(1, side=side, seed=side)[0] for side in (16, 30, 16)]
    made = adain(small, back, contents, styles)
    assert made.shape == contents.shape
    assert torch.equal(adain(small, back, contents[[2, 0]], [styles[2], styles[0]]), made[[2, 0]])
    monkeypatch.setattr("genaug.transforms.style_transfer._together", lambda images: [slice(0, len(images))])
    torch.testing.assert_close(adain(small, back, contents, styles), made)


def test_the_encoder_and_decoder_are_numbered_as_their_files(weights):
    for kind, reflect in (("adain-encoder", True), ("vgg19", False)):
        encoder = load_encoder(weights[kind], [kind], 9, reflect=reflect)
        shapes = [shape for name, shape in shapes_of(kind).items() if name.endswith("weight")]
        chosen = [tuple(layer.weight.shape) for layer in encoder.convolutions]
        assert chosen == (shapes[1:] if kind == "adain-encoder" else shapes[:9])
    made = {name: tuple(value.shape) for name, value in decoder().state_dict().items()}
    assert made == shapes_of("adain-decoder")


def test_the_features_of_vgg19_are_torchvisions(weights):
    """Up to relu4_1, with torchvision's padding and normalisation."""
    from torchvision.models import vgg19

    state, _ = load_asset(weights["vgg19"])
    with torch.device("meta"):
        known = vgg19().features
    known.load_state_dict({name.removeprefix("features."): x.float() for name, x in state.items()}, assign=True)
    encoder = load_encoder(weights["vgg19"], ["vgg19"], 9, reflect=False)
    batch = images(2, side=32)
    normalised = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(batch)
    with torch.no_grad():
        for ours, last in zip(encoder(batch), (2, 7, 12, 21), strict=True):
            theirs = known[:last](normalised)
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


# the transform


@pytest.fixture
def transform(weights):
    return StyleTransferIntervention(images(4, side=16, seed=9), steps=(2, 5), network=weights["vgg19"])


@pytest.fixture
def quick(weights):
    return StyleTransferIntervention(
        images(4, side=16, seed=9),
        "adain",
        network=weights["adain-encoder"],
        decoder=weights["adain-decoder"],
    )


def uint8(count=3):
    return images(count, side=16).mul(255).round().to(torch.uint8)


@pytest.fixture(params=["gatys", "adain"])
def either(request, transform, quick):
    return transform if request.param == "gatys" else quick


def test_images_and_batches_keep_shape_type_and_kind(either):
    for image in (uint8(), uint8()[0], images(3, 16), images(3, 16)[0].double(), tv_tensors.Image(uint8())):
        made = either(image)
        assert (made.shape, made.dtype, type(made)) == (image.shape, image.dtype, type(image))
        assert not torch.equal(made, image)
    assert either(images(3, 16)).min() >= 0
    assert either(images(3, 16)).max() <= 1


def test_uint8_is_float_rounded_to_the_nearest_grey_level(either):
    batch = uint8()
    params = either.params_of(0, range(3))
    floats = either.transform(batch.float() / 255, params)
    assert torch.equal(either.transform(batch, params), floats.mul(255).round().to(torch.uint8))


def test_labels_boxes_and_masks_pass_untouched(transform):
    image, label = tv_tensors.Image(uint8()[0]), torch.tensor(3)
    made, same = transform(image, label)
    assert same is label
    assert not torch.equal(made, image)
    boxes = tv_tensors.BoundingBoxes([[0, 0, 4, 4]], format="XYXY", canvas_size=(16, 16))
    sample = {"image": image, "label": 7, "boxes": boxes, "mask": tv_tensors.Mask(torch.zeros(16, 16))}
    result = transform(sample)
    assert result["label"] == 7
    assert result["boxes"] is boxes
    assert result["mask"] is sample["mask"]
    assert not torch.equal(result["image"], image)
    made, labels = transform(uint8(), torch.tensor([1, 2, 3]))  # as default_collate gives them: plain tensors
    assert labels.tolist() == [1, 2, 3]
    assert made.shape == (3, 3, 16, 16)


def test_it_composes(quick):
    steps = [
        v2.ToImage(),
        v2.RandomHorizontalFlip(0),
        quick,
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.5] * 3, [0.5] * 3),
    ]
    made, label = v2.Compose(steps)((to_pil_image(uint8()[0]), 5))
    assert made.shape == (3, 16, 16)
    assert made.min() >= -1
    assert label == 5


def test_torchs_seed_rules_the_draws(transform):
    torch.manual_seed(1)
    first = transform(uint8())
    assert not torch.equal(transform(uint8()), first)
    torch.manual_seed(1)
    assert torch.equal(transform(uint8()), first)


def test_the_steps_are_drawn_once_a_batch_and_all_are_drawn(transform):
    drawn = [transform.make_params([uint8(5)])["steps"] for _ in range(60)]
    assert all(len(steps) == 5 and len(steps.unique()) == 1 for steps in drawn)
    assert {int(steps[0]) for steps in drawn} == {2, 3, 4, 5}
    styles = torch.cat([transform.make_params([uint8(5)])["styles"] for _ in range(20)])
    assert styles.unique().tolist() == [0, 1, 2, 3]


def test_draws_of_a_seed_and_indices_depend_on_nothing_else(weights):
    transform = StyleTransferIntervention(images(4, side=16), steps=(2, 5), p=0.5, network=weights["vgg19"])
    before = torch.get_rng_state()
    together = transform.params_of(3, range(200))
    assert torch.equal(torch.get_rng_state(), before)
    parts = [transform.params_of(3, [i]) for i in range(200)]
    for name, drawn in together.items():
        assert torch.equal(drawn, torch.cat([part[name] for part in parts]))
        assert not torch.equal(drawn, transform.params_of(4, range(200))[name])
    assert set(together["steps"].tolist()) == {2, 3, 4, 5}
    assert 60 < together["applied"].sum() < 140
    batch = uint8(6)
    whole = transform.transform(batch, transform.params_of(3, range(6)))
    for i in range(6):
        assert torch.equal(transform.transform(batch[i], transform.params_of(3, [i])), whole[i])


def test_the_number_of_threads_does_not_change_an_image(either):
    batch, before = images(3, 48), torch.get_num_threads()
    params = either.params_of(0, range(3))
    usual = either.transform(batch, params)
    try:
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(either.transform(batch, params), usual)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_bfloat16_is_close_to_float32(quick, weights):
    batch = images(3, 32)
    half = StyleTransferIntervention(
        quick.styles, "adain", network=quick.network, decoder=quick.decoder, dtype=torch.bfloat16
    )
    params = quick.params_of(0, range(3))
    made, known = half.transform(batch, params), quick.transform(batch, params)
    assert made.dtype == torch.float32
    assert 0 < (made - known).abs().mean() < 0.03


def test_p_is_how_often(weights):
    batch = uint8(8)
    never = StyleTransferIntervention(images(2, 16), p=0, network="no-such-network")  # which is never needed
    assert never(batch) is batch
    half = StyleTransferIntervention(images(2, 16, seed=9), steps=2, p=0.5, network=weights["vgg19"])
    params = half.make_params([batch])
    made = half.transform(batch, params)
    changed = (made != batch).flatten(1).any(dim=1)
    assert torch.equal(changed, params["applied"])
    assert 0 < changed.sum() < 8


def test_zero_style_weight_is_the_identity(weights):
    transform = StyleTransferIntervention(images(2, 16), steps=3, style_weight=0, network=weights["vgg19"])
    assert torch.equal(transform(uint8()), uint8())


def test_the_callers_modes_do_not_matter(transform):
    params = transform.params_of(0, range(3))
    usual = transform.transform(uint8(), params)
    for mode in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        with mode:
            made = pickle.loads(pickle.dumps(transform)).transform(uint8(), params)
        assert torch.equal(made, usual)
    tracked = images(1, 16).requires_grad_()
    assert not transform(tracked).requires_grad


def test_networks_are_neither_in_repr_nor_state_nor_pickle(either):
    either(uint8())
    assert list(either.modules()) == [either]
    assert either.state_dict() == {}
    assert "Conv2d" not in repr(either)
    assert len(repr(either)) < 400
    copy = pickle.dumps(either)
    assert len(copy) < 20_000  # four styles of 16 pixels
    params = either.params_of(0, range(3))
    assert torch.equal(pickle.loads(copy).transform(uint8(), params), either.transform(uint8(), params))


def test_the_repr_says_what_it_does(transform, quick):
    assert "styles=4 of Tensor, method=gatys, steps=(2, 5)" in repr(transform)
    assert "method=adain, alpha=1.0, p=1.0" in repr(quick)


class Photographs(Dataset):
    """Images and classes, with a transform."""

    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return self.transform(tv_tensors.Image(uint8(6)[index])), index


def test_it_works_in_workers_and_their_seeds_rule(quick):
    def batches():
        loader = DataLoader(Photographs(quick), batch_size=3, num_workers=2, generator=torch.Generator().manual_seed(0))
        return [(made, labels.tolist()) for made, labels in loader]

    first, second = batches(), batches()
    assert [labels for _, labels in first] == [[0, 1, 2], [3, 4, 5]]
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, second, strict=True))
    assert not torch.equal(first[0][0], uint8(6)[:3])


@pytest.mark.slow
def test_it_works_in_spawned_workers(quick):
    # a dataset that the new process can import, which it cannot the one above
    photographs = FakeData(6, (3, 16, 16), transform=v2.Compose([v2.ToImage(), quick]))
    loader = DataLoader(photographs, batch_size=3, num_workers=1, multiprocessing_context="spawn")
    assert [made.shape for made, _ in loader] == [(3, 3, 16, 16)] * 2


class Listed(Dataset):
    """Styles as they come: a list of whatever."""

    def __init__(self, *samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


def test_styles_come_from_any_map_style_dataset(weights, tmp_path):
    style = uint8()[0]
    params = {"applied": torch.tensor([True]), "styles": torch.tensor([1]), "steps": torch.tensor([3])}
    made = []
    for sample in (style, (style, 4), {"image": style, "label": 2}, to_pil_image(style), style.float() / 255):
        styles = Listed(uint8()[1], sample)
        transform = StyleTransferIntervention(styles, network=weights["vgg19"])
        made.append(transform.transform(uint8()[2], params))
    assert all(torch.equal(image, made[0]) for image in made)
    interventions = generative(tmp_path)
    transform = StyleTransferIntervention(interventions, network=weights["vgg19"])
    as_tensor = StyleTransferIntervention(interventions.images(range(60)), network=weights["vgg19"])
    assert torch.equal(transform.transform(uint8()[2], params), as_tensor.transform(uint8()[2], params))


@pytest.mark.parametrize("names", [("0.png", "1.png"), ("cow/0.png", "camel/0.png")])
def test_styles_come_from_a_folder_flat_or_by_class(weights, tmp_path, names):
    for name, style in zip(sorted(names), uint8(), strict=False):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        to_pil_image(style).save(tmp_path / name)
    (tmp_path / "._0.png").write_bytes(b"metadata")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    to_pil_image(uint8()[2]).save(tmp_path / ".ipynb_checkpoints" / "2.png")
    params = {"applied": torch.tensor([True]), "styles": torch.tensor([1]), "steps": torch.tensor([3])}
    for folder in (tmp_path, str(tmp_path)):
        transform = StyleTransferIntervention(folder, network=weights["vgg19"])
        assert "styles=2 of StyleFolder" in repr(transform)
        expected = StyleTransferIntervention(uint8()[:2], network=weights["vgg19"]).transform(uint8()[2], params)
        assert torch.equal(pickle.loads(pickle.dumps(transform)).transform(uint8()[2], params), expected)


def test_a_folder_of_styles_that_cannot_be_read_is_named(weights, tmp_path):
    with pytest.raises(ValueError, match=r"styles must be a folder of images, got no folder: '.*gone'"):
        StyleTransferIntervention(tmp_path / "gone")
    with pytest.raises(ValueError, match="styles must be a folder of images, got none in"):
        StyleTransferIntervention(tmp_path)
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"a\.png does not open as an image"):
        StyleTransferIntervention(tmp_path, network=weights["vgg19"])(uint8())
    to_pil_image(torch.rand(3, 2, 2)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png must have at least 4 pixels a side"):
        StyleTransferIntervention(tmp_path, network=weights["vgg19"])(uint8())


def test_a_decoder_for_another_encoder_is_refused(weights, tmp_path):
    options = {"method": "adain", "network": weights["vgg19"]}
    transform = StyleTransferIntervention(images(1, 16), **options, decoder=weights["adain-decoder"])
    with pytest.raises(AssetError, match="was trained for another encoder"):
        transform(uint8())
    state, _ = load_asset(weights["adain-decoder"])
    fingerprint = load_encoder(weights["vgg19"], ["vgg19"], 9, reflect=True).fingerprint
    own = save_asset(tmp_path / "own.safetensors", state, "adain-decoder", encoder=fingerprint)
    assert StyleTransferIntervention(images(1, 16), **options, decoder=own)(uint8()).shape == (3, 3, 16, 16)


def test_weights_of_another_kind_are_refused(weights):
    with pytest.raises(AssetError, match=r"is of kind 'adain-decoder', expected vgg19"):
        StyleTransferIntervention(images(1, 16), network=weights["adain-decoder"])(uint8())
    with pytest.raises(AssetError, match=r"is of kind 'vgg19', expected adain-decoder"):
        StyleTransferIntervention(images(1, 16), "adain", network=weights["adain-encoder"], decoder=weights["vgg19"])(
            uint8()
        )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "gatis"}, ValueError, "method must be one of 'gatys', 'adain', got 'gatis'; did you mean"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"steps": (70, 20)}, ValueError, "steps must be (low, high) with low <= high, got (70, 20)"),
        ({"steps": (1, 2, 3)}, ValueError, "steps must be a number or a pair (low, high), got (1, 2, 3)"),
        ({"steps": 2.5}, TypeError, "steps must be an int, got float"),
        ({"p": 1.5}, ValueError, "p must be in [0, 1], got 1.5"),
        ({"alpha": -0.1}, ValueError, "alpha must be in [0, 1], got -0.1"),
        ({"style_weight": -1}, ValueError, "style_weight must be at least 0 and finite, got -1"),
        ({"dtype": torch.bfloat16}, ValueError, "dtype must be float32 for method='gatys', got torch.bfloat16"),
        ({"dtype": torch.int8}, ValueError, "dtype must be a floating-point type, got torch.int8"),
        ({"dtype": "float16"}, TypeError, "dtype must be a torch.dtype, such as torch.bfloat16, got 'float16'"),
        ({"styles": []}, ValueError, "styles must have at least one image, got none"),
        ({"styles": torch.rand(0, 3, 8, 8)}, ValueError, "styles must be (N, 3, H, W) with N at least 1"),
        ({"styles": torch.rand(3, 8, 8)}, ValueError, "styles must be (N, 3, H, W) with N at least 1"),
        ({"styles": torch.rand(2, 1, 8, 8)}, ValueError, "styles must have 3 channels, red, green and blue, got 1"),
        ({"styles": iter([])}, TypeError, "styles must be a folder of images, a map-style dataset of images or a"),
        ({"styles": torch.rand(2, 3, 8, 8), "method": "adain"}, ValueError, "at least 16 pixels a side"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        StyleTransferIntervention(**{"styles": torch.rand(2, 3, 16, 16), **options})


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (torch.rand(1, 16, 16), ValueError, "got 1 of (1, 16, 16): v2.RGB() converts gray images"),
        (torch.rand(4, 16, 16), ValueError, "got 4 of (4, 16, 16): put transparent images on a background first"),
        (torch.rand(16, 16), ValueError, "must be (3, H, W) or (B, 3, H, W), got (16, 16)"),
        (torch.rand(3, 3, 16), ValueError, "must have at least 4 pixels a side"),
        (torch.rand(3, 16, 16) * 2 - 1, ValueError, "of floats must be in [0, 1], but goes from -"),
        (torch.full((3, 16, 16), torch.nan), ValueError, "of floats must be in [0, 1], but goes from nan to nan"),
        (torch.zeros(3, 16, 16, dtype=torch.int64), TypeError, "must be uint8 or float, got torch.int64"),
        (to_pil_image(torch.rand(3, 16, 16)), TypeError, "got a PIL image: put v2.ToImage() before"),
        (tv_tensors.Video(torch.rand(2, 3, 16, 16)), TypeError, "got a video"),
    ],
)
def test_bad_images_are_named(image, error, message):
    transform = StyleTransferIntervention(torch.rand(2, 3, 16, 16))
    with pytest.raises(error, match=re.escape(message)):
        transform(image)


@pytest.mark.parametrize(
    ("style", "error", "message"),
    [
        ("a name", TypeError, "styles[0] must be an image or begin with one, got str"),
        (torch.rand(2, 3, 8, 8), ValueError, "styles[0] must be (3, H, W), got (2, 3, 8, 8)"),
        (torch.rand(1, 8, 8), ValueError, "styles[0] must have 3 channels"),
        (to_pil_image(torch.rand(1, 8, 8)), ValueError, "styles[0] must have 3 channels"),
        (torch.rand(3, 2, 8), ValueError, "styles[0] must have at least 4 pixels a side"),
    ],
)
def test_bad_styles_are_named(weights, style, error, message):
    transform = StyleTransferIntervention(Listed(style), network=weights["vgg19"])
    with pytest.raises(error, match=re.escape(message)):
        transform(uint8())


def test_images_of_a_call_must_be_as_many(transform):
    with pytest.raises(ValueError, match="all inputs of a call must have as many, got 2 and 3"):
        transform({"a": tv_tensors.Image(uint8(2)), "b": tv_tensors.Image(uint8(3))})


def test_an_empty_batch_is_an_empty_batch(transform):
    assert transform(uint8()[:0]).shape == (0, 3, 16, 16)


def test_the_style_weighs_a_million_by_default():
    small, contents, styles, steps = network(), images(1), list(images(1, seed=6)), torch.tensor([5])
    made = gatys(small, contents, styles, steps)
    assert torch.equal(made, gatys(small, contents, styles, steps, style_weight=1_000_000.0, content_weight=0.1))
    assert not torch.equal(made, gatys(small, contents, styles, steps, style_weight=100_000.0))
    assert StyleTransferIntervention(images(1)).style_weight == 1_000_000.0
