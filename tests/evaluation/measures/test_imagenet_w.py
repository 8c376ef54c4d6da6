from __future__ import annotations

from pathlib import Path

import pytest
import torch
from oracles import SMALL, heads_of, write_images
from PIL import Image

from genaug.evaluation import imagenet_w
from genaug.evaluation.classes import WNIDS

CARTON = WNIDS[478]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images of carton and two of the first class; the watermark covers the left half with white."""
    write_images(tmp_path / "val", [f"{wnid}/{i}.png" for wnid in (WNIDS[0], CARTON) for i in range(2)])
    mark = Image.new("RGBA", (20, 20), (255, 255, 255, 0))
    mark.paste((255, 255, 255, 255), (0, 0, 10, 20))
    mark.save(tmp_path / "watermark.png")
    return tmp_path


def reads_watermark(images: torch.Tensor) -> torch.Tensor:
    """Says carton where the left half is white, and the first class elsewhere."""
    assert images.shape[1:] == (3, 224, 224)
    white = images[:, :, 112, 50].float().mean(1) > 0.9
    assert not (images[:, :, 112, 200].float().mean(1) > 0.9).any()
    return torch.eye(1000)[torch.where(white, 478, 0)]


def test_a_model_that_reads_the_watermark_has_both_gaps(root: Path) -> None:
    options = {"transform": SMALL, "partial": True}
    found = imagenet_w(
        heads_of(ensemble=reads_watermark, shape=lambda x: torch.eye(1000)[[0] * len(x)]), root, **options
    )
    assert found.figures() == {
        "top-1 without watermark": 50,
        "top-1 with watermark": 50,
        "IN-W gap": 0,
        "carton gap": 100,
    }
    assert found.heads["shape"].figures()["carton gap"] == 0
    assert found.images == 4
    assert found.partial


def test_the_watermark_is_needed(root: Path) -> None:
    (root / "watermark.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"watermark\.png does not open as an image"):
        imagenet_w(reads_watermark, root, partial=True)
    (root / "watermark.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no watermark: .*watermark\.png must be an image with transparency"):
        imagenet_w(reads_watermark, root, partial=True)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        imagenet_w(reads_watermark, root / "gone", partial=True)
