from __future__ import annotations

from pathlib import Path

import matplotlib
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import default_loader
from torchvision.transforms.v2.functional import pil_to_tensor

from genaug._common import plotting
from genaug._common.plotting import Panel, image_grid, save_curves, save_sheet


def numbered(count: int, channels: int = 3) -> Tensor:
    """Images (count, channels, 2, 3) of one grey level each: 10, 20, ..."""
    levels = torch.arange(10, 10 * count + 1, 10, dtype=torch.uint8)
    return levels[:, None, None, None].expand(-1, channels, 2, 3)


def test_grid_goes_from_left_to_right_and_down_on_white() -> None:
    grid = image_grid(numbered(3), columns=2, gap=1)
    assert grid.shape == (3, 2 * 2 + 1, 2 * 3 + 1)
    assert torch.equal(grid[0], grid[2])
    assert grid[0, [0, 0, 3], [0, 4, 0]].tolist() == [10, 20, 30]
    assert (grid[:, 2] == 255).all()  # the gap between the rows
    assert (grid[:, :, 3] == 255).all()
    assert (grid[:, 3:, 4:] == 255).all()  # nobody's place


def test_grid_enlarges_by_whole_pixels() -> None:
    image = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 2, 2)
    grid = image_grid(image, columns=1, scale=3)
    assert grid.shape == (3, 6, 6)
    assert torch.equal(grid[:, ::3, ::3], image[0])
    assert torch.equal(grid[:, 2::3, 2::3], image[0])


def test_masks_of_one_channel_are_grey() -> None:
    assert torch.equal(image_grid(numbered(2, channels=1), columns=2), image_grid(numbered(2), columns=2))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": torch.zeros(1, 3, 2, 2)}, TypeError, "images must be uint8, got torch.float32"),
        ({"images": torch.zeros(3, 2, 2, dtype=torch.uint8)}, ValueError, r"got \(3, 2, 2\)"),
        ({"images": torch.zeros(0, 3, 2, 2, dtype=torch.uint8)}, ValueError, r"N > 0, got \(0, 3, 2, 2\)"),
        ({"columns": 0}, ValueError, "got 0, 1 and 2"),
    ],
)
def test_bad_grids_are_named(change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        image_grid(**({"images": numbered(1), "columns": 1} | change))


def test_sheet_shows_every_pixel_of_every_row(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (4, 3, 32, 32), generator=generator, dtype=torch.uint8)
    backend = matplotlib.get_backend()
    save_sheet(tmp_path / "new" / "sheet.png", {"a mask": images[:, :1], "composite": images}, title="two rows")
    picture = pil_to_tensor(default_loader(tmp_path / "new" / "sheet.png"))
    grids = [image_grid(row, columns=4, gap=6, scale=2) for row in (images[:, :1], images)]
    height, width = grids[0].shape[1:]
    # text stands on the left and above: the grids end 18 pixels before the right and the lower edge
    low, right = picture.shape[1] - 18, picture.shape[2] - 18
    assert torch.equal(picture[:, low - height : low, right - width : right], grids[1])
    assert torch.equal(picture[:, low - 2 * height - 12 : low - height - 12, right - width : right], grids[0])
    # the texts are there
    assert (picture[:, : low - 2 * height - 12] < 128).any()
    assert (picture[:, low - height : low, : right - width] < 128).any()
    # no global state was touched
    assert matplotlib.get_backend() == backend


def test_names_stand_clear_of_the_edge_and_columns_above_their_images(tmp_path: Path) -> None:
    images = torch.full((3, 3, 32, 32), 9, dtype=torch.uint8)
    for name in ("component 0", "W" * 20, "i"):
        save_sheet(tmp_path / "sheet.png", {name: images}, title="a title wider than " * 3, columns=["-1", "0", "1"])
        picture = pil_to_tensor(default_loader(tmp_path / "sheet.png"))
        assert (picture[:, :, :12] == 255).all()
        assert (picture[:, :, -12:] == 255).all()
    heads = (picture[:, 52:70] < 200).any(0).any(0).nonzero()[:, 0]
    grid = (picture == 9).all(0).any(0).nonzero()[:, 0]
    for i in range(3):
        begin = int(grid[0]) + 70 * i
        assert ((heads >= begin) & (heads < begin + 64)).any()


def test_sheet_wants_rows_of_one_size(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"at least one row .* got \[\]"):
        save_sheet(tmp_path / "sheet.png", {})
    with pytest.raises(ValueError, match=r"one size, got \[\(2, 3\), \(4, 4\)\]"):
        save_sheet(tmp_path / "sheet.png", {"a": numbered(1), "b": torch.zeros(1, 3, 4, 4, dtype=torch.uint8)})
    assert list(tmp_path.iterdir()) == []


def test_a_picture_without_a_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must end in its format, such as \.png, got '.*sheet'"):
        save_sheet(tmp_path / "sheet", {"row": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)})
    assert list(tmp_path.iterdir()) == []


def test_a_legend_fits_on_its_picture_and_each_panel_has_its_place(tmp_path: Path) -> None:
    points = [(0.0, 1.0, 0.1), (1.0, 2.0, float("nan"))]
    widths = []
    for names, panels in ((("a", "b"), 1), (("a", "b"), 2), (("a long name " * 3, "another long name " * 2), 1)):
        panel = Panel("x", "y", dict.fromkeys(names, points), reference=(1.5, "chance"))
        save_curves(tmp_path / "curves.png", [panel] * panels, title="curves", subtitle="of nothing")
        picture = pil_to_tensor(default_loader(tmp_path / "curves.png"))
        assert (picture[:, :, :8] == 255).all()
        assert (picture[:, :, -8:] == 255).all()
        widths.append(picture.shape[2])
    assert widths[1] > widths[0] < widths[2]
    with pytest.raises(ValueError, match="panels must not be empty"):
        save_curves(tmp_path / "curves.png", [], title="")


def test_long_captions_are_broken_between_words_and_get_the_space_they_need(tmp_path):
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    save_sheet(tmp_path / "short.png", {"a": images}, columns=["one", "two"])
    save_sheet(tmp_path / "long.png", {"a": images}, columns=["in front of a brick wall", "two"])
    with Image.open(tmp_path / "short.png") as short, Image.open(tmp_path / "long.png") as long:
        assert long.width == short.width
        assert long.height > short.height + 20


def test_a_character_that_the_font_does_not_have_is_drawn_in_another_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    pictures = {}
    for name in ("Ⓐ", "□"):  # matplotlib has a font with the first
        save_sheet(tmp_path / "sheet.png", {f"a {name}": images}, title=name, columns=[name] * 2)
        pictures[name] = (tmp_path / "sheet.png").read_bytes()
    assert pictures["Ⓐ"] != pictures["□"]
    assert capsys.readouterr().err == ""


def test_a_character_without_a_font_is_a_box_and_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plotting._tell_missing.cache_clear()
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    pictures = []
    for name in ("\U0010fffd\U0010fffc", "□□"):  # nobody's characters
        save_sheet(tmp_path / "sheet.png", {f"{name} é 1": images}, title=name, columns=[name] * 2)
        pictures.append((tmp_path / "sheet.png").read_bytes())
    assert pictures[0] == pictures[1]
    assert capsys.readouterr().err.splitlines() == [
        "pictures show □ for characters that no installed font has: install one that has them, such as a Noto font"
    ]
