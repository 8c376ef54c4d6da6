from __future__ import annotations

import math
import wave
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from genaug import AssetError, load_generator
from genaug.assets import save_asset
from genaug.assets.layouts import shapes_of
from genaug.generators import classes_of
from genaug.generators.cgn import CGN, MINIATURE
from genaug.interventions.composition import compose
from genaug.pictures import interpolations, stylize
from genaug.pictures.interpolations import Way, spherical


def way(name: str = "cgn-digits", **options: object) -> Way:
    settings = {"over": "all", "between": "both", "classes": None, "seed": 0, "truncation": 1.0} | options
    return Way(load_generator(name), settings.pop("points", 3), **settings)  # type: ignore[arg-type]


def test_an_arc_keeps_the_length_and_ends_where_it_should() -> None:
    draw = torch.Generator().manual_seed(0)
    start, end = (torch.nn.functional.normalize(torch.randn(4, 50, generator=draw), dim=1) for _ in range(2))
    for share in (0.0, 0.3, 1.0):
        between = spherical(start, end, torch.full((4, 1), share))
        assert torch.allclose(between.norm(dim=1), torch.ones(4), atol=1e-5)
    assert torch.allclose(spherical(start, end, torch.zeros(4, 1)), start, atol=1e-6)
    assert torch.allclose(spherical(start, end, torch.ones(4, 1)), end, atol=1e-6)
    assert torch.equal(spherical(start, start, torch.full((4, 1), 0.5)), start)


def test_shares_of_classes_mix_their_rows_and_a_whole_share_is_the_class() -> None:
    table = torch.arange(6.0).reshape(3, 2)
    assert torch.equal(classes_of(table, torch.tensor([2, 0])), table[[2, 0]])
    assert torch.equal(classes_of(table, torch.tensor([[0, 0, 1.0], [0.5, 0.5, 0]])), torch.tensor([[4, 5.0], [1, 2]]))


def test_a_generator_takes_shares_as_it_takes_labels() -> None:
    for generator in (load_generator("cgn-digits"), CGN(MINIATURE).power_iterate().eval()):
        z = torch.randn(3, 3, generator.z_dim, generator=torch.Generator().manual_seed(0))
        labels = torch.tensor([1, 5, 9])
        shares = torch.nn.functional.one_hot(labels, 10).float()
        with torch.no_grad():
            there = generator.mechanisms(list(z), [labels] * 3)
            here = generator.mechanisms(list(z), [shares] * 3)
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(there, here, strict=True))
    with pytest.raises(ValueError, match=r"labels must be \(3, 10\) if they are floats, got \(3, 4\)"):
        load_generator("cgn-digits").mechanisms(list(torch.zeros(3, 3, 36)), [torch.zeros(3, 4)] * 3)


@pytest.mark.parametrize(
    ("over", "moving"),
    [("shape", {"mask"}), ("texture", {"texture"}), ("background", {"background"}),
     ("all", {"mask", "texture", "background"})],
)  # fmt: skip
def test_only_what_is_asked_for_moves(over: str, moving: set[str]) -> None:
    parts = way(over=over).at([0.0, 0.5, 1.0])
    for name, part in parts.items():
        if name != "counterfactual":
            assert (not torch.allclose(part[0], part[2], atol=1e-3)) == (name in moving)
    assert not torch.allclose(parts["counterfactual"][0], parts["counterfactual"][2], atol=1e-3)


def test_a_way_is_closed_and_its_points_do_not_depend_on_what_lies_between() -> None:
    whole = way().at([0.0, 0.25, 1.0, 2.0, 3.0])["counterfactual"]
    assert torch.allclose(whole[0], whole[4], atol=1e-5)
    assert torch.allclose(way().at([1.0])["counterfactual"][0], whole[2], atol=1e-5)


def test_between_noises_the_class_stays_and_between_classes_the_noise() -> None:
    noises, classes = way(between="noises", classes=[3, 8]), way(between="classes", classes=[3, 8])
    assert all(labels.tolist() == [3, 3, 3] for labels in noises.labels)
    assert classes.labels[0].argmax(dim=1).tolist() == [3, 8, 3]
    assert all(bool((z == z[0]).all()) for z in classes.noise)


class Embedding(torch.nn.Module):
    """A user's own generator, by the protocol of `CounterfactualDataset`: classes are whole numbers."""

    z_dim, num_classes, image_size = 2, 4, 16

    def __init__(self) -> None:
        super().__init__()
        self.colours = torch.nn.Embedding(4, 3)
        self.norm = torch.nn.BatchNorm2d(3)

    def mechanisms(self, z: list, labels: list, truncation: float) -> tuple:
        texture, background = (self.colours(y)[:, :, None, None].expand(-1, -1, 16, 16) for y in labels[1:])
        return torch.full((len(z[0]), 1, 16, 16), 0.5), self.norm(texture).tanh(), background.tanh()


def test_a_generator_of_whole_classes_goes_between_noises_and_is_refused_between_classes(tmp_path: Path) -> None:
    own = Embedding()
    before = own.norm.running_mean.clone()
    interpolations.interpolate(own, tmp_path / "noises.png", between="noises", steps=2)
    assert own.training  # it is asked in evaluation mode, and left as it was
    assert torch.equal(own.norm.running_mean, before)
    with pytest.raises(TypeError, match=r"labels \(B, num_classes\), the share of each class"):
        interpolations.interpolate(own, tmp_path / "classes.png", steps=2)
    assert not (tmp_path / "classes.png").exists()


def test_suffixes_may_be_capitals(tmp_path: Path) -> None:
    interpolations.interpolate("cgn-digits", tmp_path / "there.GIF", steps=2)
    with Image.open(tmp_path / "there.GIF") as moving:
        assert moving.n_frames == 4


def test_every_kind_of_file_is_written(tmp_path: Path) -> None:
    options = {"points": 3, "steps": 2}
    interpolations.interpolate("cgn-digits", tmp_path / "sheet.png", **options)
    interpolations.interpolate("cgn-digits", tmp_path / "there.gif", **options)
    interpolations.interpolate("cgn-digits", tmp_path / "frames", **options)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 4 * 64
    with Image.open(tmp_path / "there.gif") as moving:
        assert (moving.n_frames, moving.size) == (8, (128, 128))  # five, and back without the two ends
    frames = sorted((tmp_path / "frames").glob("*.png"))
    assert [frame.name for frame in frames] == [f"000{i}.png" for i in range(5)]
    ends = way(seed=0)  # what the generator itself makes of the noises and classes at both ends
    for frame, point in ((frames[0], 0), (frames[-1], 2)):
        labels = [shares[point : point + 1].argmax(dim=1) for shares in ends.labels]
        made = ends.generator.mechanisms([z[point : point + 1] for z in ends.noise], labels)
        with Image.open(frame) as picture:
            difference = pil_to_tensor(picture).int() - interpolations.to_uint8(compose(*made))[0].int()
        assert difference.abs().max() <= 1


def test_the_imagenet_cgn_shows_its_premask(tmp_path: Path) -> None:
    miniature = CGN(MINIATURE).power_iterate().eval()
    shown = Way(miniature, 2, over="shape", between="both", classes=None, seed=0, truncation=0.5).at([0.0, 1.0])
    assert list(shown) == ["pre-mask", "mask", "texture", "background", "counterfactual"]
    interpolations.interpolate(miniature, tmp_path / "sheet.png", over="shape", steps=2)
    assert (tmp_path / "sheet.png").exists()


def test_a_walk_without_music_is_a_loop_of_its_length(tmp_path: Path) -> None:
    written = interpolations.walk("cgn-digits", tmp_path / "walk.gif", points=2)
    with Image.open(written) as moving:
        assert moving.n_frames == 40


def test_a_walk_to_music_leaps_at_every_click(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rate, clicks = 8000, (0.4, 0.8, 1.4, 1.8)
    samples = torch.zeros(round(2.2 * rate), dtype=torch.int16)
    for click in clicks:
        samples[round(click * rate) :][:200] = 20_000
    with wave.open(str(tmp_path / "clicks.wav"), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(samples.numpy().tobytes())
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(interpolations, "save_video", lambda path, frames, music: seen.extend(frames))
    interpolations.walk("cgn-digits", tmp_path / "dance.mp4", music=tmp_path / "clicks.wav", points=4)
    frames = torch.cat(seen).float()
    assert len(frames) == 55  # as long as the music
    changes = frames.diff(dim=0).abs().mean(dim=(1, 2, 3))  # [k]: from frame k to k + 1
    for click in clicks:
        beat = round(click * 25)
        assert changes[beat : beat + 2].mean() > 3 * changes[beat - 3 : beat - 1].mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"over": "colour"}, "over must be one of"),
        ({"between": "worlds"}, "between must be one of"),
        ({"points": 1}, "points must be at least 2"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"classes": [10]}, "classes"),
        ({"truncation": 0.0}, "truncation"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interpolations.interpolate("cgn-digits", tmp_path / "sheet.png", **options)
    assert not list(tmp_path.iterdir())


def test_a_generator_without_mechanisms_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"generator must have mechanisms .* but vae-digits has none"):
        interpolations.interpolate("vae-digits", tmp_path / "sheet.png")


@pytest.fixture
def vgg(tmp_path: Path) -> Path:
    """A VGG19 of random weights."""
    draw = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(shape, generator=draw) * (2 / math.prod(shape[1:])) ** 0.5 if len(shape) > 1
        else torch.zeros(shape)
        for name, shape in shapes_of("vgg19").items()
    }  # fmt: skip
    return save_asset(tmp_path / "vgg19.safetensors", state, "vgg19")


def test_a_photograph_is_drawn_to_the_texture(tmp_path: Path, vgg: Path) -> None:
    photo = torch.full((3, 40, 32), 128, dtype=torch.uint8)
    photo[:, 10:30, 8:24] = 200
    to_pil_image(photo).save(tmp_path / "photo.png")
    options = {"generator": "cgn-double-colored-mnist", "network": vgg, "steps": 10, "size": 32}
    stylize.run(tmp_path / "photo.png", tmp_path / "styled.PNG", label=6, **options)
    with Image.open(tmp_path / "styled.PNG") as styled:
        assert styled.size == (32, 40)
        made = pil_to_tensor(styled).float()
    one = {"points": 1, "over": "texture", "between": "noises", "classes": [6]}
    texture = way("cgn-double-colored-mnist", **one).at([0.0])["texture"][0].add(1).mul(127.5)
    wanted = texture.mean(dim=(1, 2))
    assert (made.mean(dim=(1, 2)) - wanted).abs().sum() < (photo.float().mean(dim=(1, 2)) - wanted).abs().sum()


def test_what_cannot_be_stylised_is_named(tmp_path: Path, vgg: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match=r"notes\.txt does not open as an image"):
        stylize.run(tmp_path / "notes.txt", tmp_path / "out.png", label=1, generator="cgn-digits", network=vgg)
    to_pil_image(torch.zeros(3, 20, 20, dtype=torch.uint8)).save(tmp_path / "photo.png")
    with pytest.raises(ValueError, match=r"must end in its format, such as \.png, got .*out\.photo"):
        stylize.run(tmp_path / "photo.png", tmp_path / "out.photo", label=1, generator="cgn-digits", network=vgg)
    with pytest.raises(
        ValueError, match=r"must end in its format, .*out\.psd"
    ):  # which Pillow reads and does not write
        stylize.run(tmp_path / "photo.png", tmp_path / "out.psd", label=1, generator="cgn-digits", network=vgg)
    with pytest.raises(ValueError, match="classes"):
        stylize.run(tmp_path / "photo.png", tmp_path / "out.png", label=10, generator="cgn-digits", network=vgg)
    with pytest.raises(AssetError, match="cgn-digits"):
        stylize.run(tmp_path / "photo.png", tmp_path / "out.png", label=1, generator="cgn-digits", network="cgn-digits")
