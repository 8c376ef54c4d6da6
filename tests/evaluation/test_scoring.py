from __future__ import annotations

import re
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from oracles import SMALL, Oracle, constant, heads_of, write_images
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.models import ResNet50_Weights
from torchvision.transforms import v2

from genaug._common.files import ImageError
from genaug.evaluation import accuracy, preprocessing, score, scoring
from genaug.evaluation.scoring import ImageFiles, image_paths, labelled_folders, missing_parts, place

SEVEN = TensorDataset(torch.rand(7, 3, 4, 4), torch.arange(7))


class MultiHead(nn.Module):
    """As a model of several heads is asked: its answer in any loop, all heads where they are wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 5)
        self.dropout = nn.Dropout()
        self.seen: list[tuple[bool, torch.dtype]] = []

    def forward(self, images: Tensor, heads: bool = False) -> Tensor | dict[str, Tensor]:
        logits = self.linear(images.mean((2, 3)))
        self.seen.append((self.training or self.dropout.training, logits.dtype))
        return {"shape": logits, "texture": -logits, "ensemble": 2 * logits} if heads else logits


def test_every_image_comes_once_and_in_order_whatever_the_batch() -> None:
    for options in ({"batch_size": 3}, {"batch_size": 100}, {"batch_size": 2, "num_workers": 2}):
        found = list(score(lambda images: images.mean((2, 3)), SEVEN, **options))
        assert torch.equal(torch.cat([labels for _, labels in found]), torch.arange(7))
        logits = torch.cat([heads["ensemble"] for heads, _ in found])
        assert torch.equal(logits, SEVEN.tensors[0].mean((2, 3)))


def test_a_loader_is_taken_as_it_is() -> None:
    found = list(score(constant(1, 3), DataLoader(SEVEN, batch_size=4), batch_size=1))
    assert [len(labels) for _, labels in found] == [4, 3]


def test_heads_are_asked_for_and_all_are_given() -> None:
    model = MultiHead()
    heads, _ = next(iter(score(model, SEVEN)))
    assert list(heads) == ["shape", "texture", "ensemble"]
    assert torch.equal(heads["texture"], -heads["shape"])
    model.eval()
    assert accuracy(model, SEVEN) == accuracy(lambda images: model(images, heads=True)["ensemble"], SEVEN)


def test_wrapped_models_are_asked_for_their_heads_too() -> None:
    for wrapped in (nn.DataParallel(MultiHead()), torch.compile(MultiHead(), backend="eager")):
        heads, _ = next(iter(score(wrapped, SEVEN, device="cpu")))
        assert list(heads) == ["shape", "texture", "ensemble"]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_global_random_state_stays_where_it_is(num_workers: int) -> None:
    before = torch.random.get_rng_state()
    accuracy(constant(0, 7), SEVEN, num_workers=num_workers)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_module_is_in_evaluation_mode_meanwhile_and_without_gradients() -> None:
    model = MultiHead()
    model.linear.eval()
    heads, _ = next(iter(score(model, SEVEN)))
    assert not heads["shape"].requires_grad
    assert model.seen == [(False, torch.float32)]
    assert (model.training, model.linear.training, model.dropout.training) == (True, False, True)


def test_autocast_computes_in_its_type_and_gives_float32() -> None:
    model = MultiHead()
    heads, _ = next(iter(score(model, SEVEN, dtype=torch.bfloat16)))
    assert model.seen == [(False, torch.bfloat16)]
    assert heads["shape"].dtype == torch.float32


def test_targets_may_be_dicts() -> None:
    pairs = [(torch.zeros(3, 4, 4), {"shape": 1, "texture": 2})] * 3
    _, targets = next(iter(score(constant(0, 3), DataLoader(pairs, batch_size=3))))
    assert targets["texture"].tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (lambda images: images, ValueError, r"logits must be \(B, num_classes\) with B = 7, got \(7, 3, 4, 4\)"),
        (lambda images: images.mean((2, 3))[:6], ValueError, "with B = 7, got"),
        (
            constant(0, 5),
            ValueError,
            "the model must return 1,000 or 16 logits, in the usual order of the classes, got 5",
        ),
        (lambda images: [images], TypeError, "model must return logits .*, but returned list"),
        (lambda images: {"shape": images}, TypeError, "with an 'ensemble', but returned a mapping of shape"),
        (
            heads_of(ensemble=constant(0), shape=constant(0, 5)),
            ValueError,
            "1,000 or 16 logits, .* got 5 of the head 'shape'",
        ),
    ],
)
def test_what_is_no_answer_is_refused(model, error, message) -> None:
    with pytest.raises(error, match=message):
        list(score(model, SEVEN, classes=(1000, 16)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_name_their_image(tmp_path: Path, bad: float) -> None:
    write_images(tmp_path, [f"{i}.png" for i in range(7)])

    def model(images: Tensor) -> Tensor:
        model.seen += len(images)
        logits = torch.zeros(len(images), 10)
        if model.seen == 6:
            logits[1, 2] = bad
        return logits

    model.seen = 0
    files = ImageFiles(image_paths(tmp_path), [0] * 7, SMALL)
    with pytest.raises(ValueError, match=rf"those of {re.escape(str(tmp_path / '4.png'))} hold NaN or infinity"):
        list(score(model, files, batch_size=3))
    model.seen = 0
    with pytest.raises(ValueError, match="those of image 4 hold"):
        list(score(model, SEVEN, batch_size=3))
    model.seen = 0
    write_images(tmp_path / "folder", [f"c/{i}.png" for i in range(7)])
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "folder" / "c" / "4.png"))):
        list(score(model, ImageFolder(tmp_path / "folder", SMALL), batch_size=3))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_file_that_does_not_open_is_named_in_one_line(tmp_path: Path, num_workers: int) -> None:
    write_images(tmp_path, ["a.png", "b.png"])
    (tmp_path / "c.png").write_bytes((tmp_path / "b.png").read_bytes()[:40])
    files = ImageFiles(image_paths(tmp_path), [0, 0, 0], SMALL)
    with pytest.raises(ImageError) as caught:
        list(score(constant(0), files, batch_size=1, num_workers=num_workers))
    assert re.fullmatch(rf"{re.escape(str(tmp_path / 'c.png'))} does not open as an image \(.+\)", str(caught.value))


def test_options_out_of_range_are_refused() -> None:
    for options, message in (
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"num_workers": -1}, "num_workers must be at least 0"),
        ({"dtype": torch.float64}, "dtype must be"),
        ({"device": "tpu"}, "device must be cpu"),
    ):
        with pytest.raises(ValueError, match=message):
            accuracy(constant(0), SEVEN, **options)


def test_preprocessing_is_torchvisions(shared: Path) -> None:
    weights = ResNet50_Weights.IMAGENET1K_V1.transforms()  # as ImageNet classifiers are tested everywhere
    for path in image_paths(shared / "data" / "imagenet_samples")[:5]:
        with Image.open(path) as file:
            image = file.convert("RGB")
        assert torch.allclose(preprocessing()(image), weights(image), atol=1e-6)


def test_preprocessing_without_sizes_keeps_every_pixel() -> None:
    image = Image.new("RGB", (7, 5), (255, 0, 51))
    found = preprocessing(resize=None, crop=None, mean=(0, 0, 0), std=(1, 1, 1))(image)
    assert found.shape == (3, 5, 7)
    assert torch.allclose(found.amax((1, 2)), torch.tensor([1, 0, 0.2]))


def test_batches_of_another_form_are_refused() -> None:
    for batch in ({"image": torch.zeros(1, 3, 2, 2)}, torch.zeros(1, 3, 2, 2), (torch.zeros(1), 0, 0), ("a", 0)):
        with pytest.raises(TypeError, match=r"images must come as pairs of a batch \(B, 3, H, W\) and its targets"):
            list(score(constant(0), [batch]))


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    write_images(tmp_path / "elsewhere", ["b.png", "a.png"])
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere")
    assert [path.name for path in image_paths(tmp_path / "root")] == ["a.png", "b.png"]


def test_folders_label_their_images_and_others_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path, ["b/2.png", "b/1.JPEG", "a/1.png", "other/1.png", "a/.hidden.png"])
    (tmp_path / "a" / "notes.txt").write_text("no image")
    files, missing = labelled_folders(tmp_path, {"a": 7, "b": 3}, expected=3)
    assert [path.name for path in files.paths] == ["1.png", "1.JPEG", "2.png"]
    assert (files.labels, missing) == ([7, 3, 3], ())
    assert capsys.readouterr().err == f"{tmp_path}: skipped 1 hidden file or folder\n"


def test_missing_folders_are_named_and_fewer_images_counted(tmp_path: Path) -> None:
    write_images(tmp_path, ["b/1.png"])
    (tmp_path / "c").mkdir()  # empty
    labels = dict.fromkeys("abcdefgh", 0)
    with pytest.raises(ValueError, match=r"is missing 7 of 8 class folders: a, c, d, e, f, \.\.\.; partial=True"):
        labelled_folders(tmp_path, labels)
    files, missing = labelled_folders(tmp_path, labels, partial=True, expected=1200)
    assert len(files) == 1
    assert missing == ("7 of 8 class folders: a, c, d, e, f, ...", "1,199 of 1,200 images")
    with pytest.raises(FileNotFoundError, match="must have folders of images such as 'x', got none"):
        labelled_folders(tmp_path, {"x": 0}, partial=True)
    with pytest.raises(FileNotFoundError, match="no such folder: gone"):
        labelled_folders("gone", labels)


def test_accuracy_of_a_dataset_of_files(tmp_path: Path) -> None:
    files, _ = labelled_folders(
        write_images(tmp_path, ["0/a.png", "0/b.png", "1/a.png"]), {"0": 0, "1": 1}, transform=SMALL
    )
    assert accuracy(Oracle(files.paths, lambda path: int(path.parent.name), 2), files, batch_size=2) == 1
    assert accuracy(constant(0, 2), files, batch_size=2) == pytest.approx(2 / 3)


def test_no_graph_is_kept_of_what_is_scored() -> None:
    kept = []

    def model(images: Tensor) -> Tensor:
        kept.append(torch.is_grad_enabled())
        return images.mean((2, 3))

    list(score(model, SEVEN, batch_size=3))
    assert kept == [False] * 3


def test_preprocessing_resizes_the_shorter_side_to_256_and_cuts_224_from_the_middle() -> None:
    pixels = torch.randint(256, (3, 300, 400), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    image = v2.functional.to_pil_image(pixels)
    found = preprocessing()(image)
    resized = v2.functional.pil_to_tensor(image.resize((341, 256), Image.Resampling.BILINEAR))
    middle = resized[:, 16:240, 58:282].float() / 255
    mean, std = (torch.tensor(three)[:, None, None] for three in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(found, (middle - mean) / std, atol=1e-5, rtol=0)
    assert preprocessing(resize=8, crop=None)(image).shape == (3, 8, 10)
    assert preprocessing(resize=None, crop=8)(image).shape == (3, 8, 8)


def test_a_module_stays_where_it_is_unless_a_device_is_given() -> None:
    there = nn.Linear(2, 2, device="meta")
    assert place(there, None).type == "meta"
    assert place(there.forward, None).type == "meta"
    assert place(nn.Linear(2, 2), "cpu").type == "cpu"
    assert place(nn.BatchNorm1d(2, affine=False, device="meta"), None).type == "meta"  # of buffers alone
    assert place(nn.Identity(), None).type == "cpu"
    assert place(len, None).type == "cpu"


def test_a_bar_counts_images_and_there_is_none_without_a_description(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[dict, list[int]]] = []

    @contextmanager
    def bar(**options):
        made.append((options, []))
        yield SimpleNamespace(update=made[-1][1].append)

    monkeypatch.setattr(scoring, "progress", bar)
    list(score(constant(0), SEVEN, batch_size=3))
    assert made == []
    list(score(constant(0), SEVEN, batch_size=3, description="scoring"))
    list(score(constant(0), DataLoader(SEVEN, batch_size=4), description="scoring"))
    assert made == [
        ({"total": 7, "description": "scoring", "unit": "image"}, [3, 3, 1]),
        ({"total": None, "description": "scoring", "unit": "image"}, [4, 3]),
    ]


def test_batches_are_of_64_by_default_and_iterable_datasets_are_batches_already() -> None:
    sizes = []

    def model(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return images.mean((2, 3))

    list(score(model, TensorDataset(torch.rand(70, 3, 2, 2), torch.arange(70))))
    assert sizes == [64, 6]

    class Stream(IterableDataset):
        def __iter__(self):
            yield torch.rand(5, 3, 2, 2), torch.arange(5)

    list(score(model, Stream()))
    assert sizes == [64, 6, 5]
    with pytest.raises(ValueError, match="num_workers must be at most 1,000, got 1001"):
        next(score(model, SEVEN, num_workers=1001))


def test_a_single_number_of_logits_and_a_missing_head_are_told_from_the_ensemble() -> None:
    with pytest.raises(ValueError, match=r"^logits must be finite"):
        list(score(lambda images: images.mean((2, 3)) / 0, SEVEN))
    with pytest.raises(ValueError, match=r"logits of the head 'shape' must be \(B, num_classes\) .* got list"):
        list(score(lambda images: {"ensemble": images.mean((2, 3)), "shape": []}, SEVEN))
    with pytest.raises(ValueError, match=r"^logits must be .* got list"):
        list(score(lambda images: {"ensemble": []}, SEVEN))
    found, _ = next(iter(score(lambda images: {"ensemble": images.mean((2, 3)).double()}, SEVEN)))
    assert found["ensemble"].dtype == torch.float32


def test_files_have_a_label_each_and_the_usual_preprocessing(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png"])
    paths = image_paths(tmp_path)
    with pytest.raises(ValueError, match="labels must be one for each of 2 paths, got 1"):
        ImageFiles(paths, [0])
    files = ImageFiles(paths, [4, 5])
    assert (len(files), files[1][0].shape, files[1][1]) == (2, (3, 224, 224), 5)
    assert ImageFiles(paths, [4, 5], opened=lambda path: path.name, transform=str.upper)[0] == ("A.PNG", 4)
    with pytest.raises(FileNotFoundError, match="no such folder: gone"):
        image_paths("gone")


def test_missing_parts_may_be_a_number_of_them() -> None:
    assert missing_parts("images", 0, 5, "here", False) == ()
    assert missing_parts("images", 1200, 5000, "here", True) == ("1,200 of 5,000 images",)
    assert missing_parts("folders", list("abcde"), 9, "here", True) == ("5 of 9 folders: a, b, c, d, e",)
    assert missing_parts("folders", ["a"], 9, "here", True) == ("1 of 9 folders: a",)
    with pytest.raises(ValueError, match=r"here is missing 1 of 5 images; partial=True"):
        missing_parts("images", 1, 5, "here", False)


def test_a_set_may_hold_more_images_than_expected_and_all_or_none_are_named(tmp_path: Path) -> None:
    write_images(tmp_path, ["a/1.png", "a/2.png"])
    assert labelled_folders(tmp_path, {"a": 0}, expected=1)[1] == ()
    assert labelled_folders(tmp_path, {"a": 0}, expected=2)[1] == ()
    assert labelled_folders(tmp_path, {"a": 0}, expected=3)[1] == ("1 of 3 images",)
