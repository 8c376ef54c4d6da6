from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from genaug.evaluation.classes import CUE_CONFLICT, IMAGENET, IMAGENET9, OBJECTNET, WNIDS
from genaug.evaluation.measures.corruption_error import ALEXNET_MISTAKES


def test_wnids_are_the_thousand_in_order(shared: Path) -> None:
    table = json.loads((shared / "data" / "tables" / "imagenet_classes.json").read_text())
    assert list(WNIDS) == [row["wnid"] for row in table]
    assert {row["wnid"]: number for number, row in enumerate(table)} == IMAGENET


@pytest.mark.parametrize(
    ("ours", "name"),
    [
        (CUE_CONFLICT, "geirhos16_to_imagenet"),
        (IMAGENET9, "imagenet9_classes"),
        (OBJECTNET, "objectnet_to_imagenet"),
    ],
)
def test_mappings_equal_the_tables(shared: Path, ours: dict[str, tuple[int, ...]], name: str) -> None:
    table = json.loads((shared / "data" / "tables" / f"{name}.json").read_text())
    assert list(ours) == list(table)
    assert {key: sorted(numbers) for key, numbers in table.items()} == {key: list(ours[key]) for key in ours}


def test_no_class_is_in_two_groups() -> None:
    for table in (CUE_CONFLICT, IMAGENET9, OBJECTNET):
        numbers = [number for group in table.values() for number in group]
        assert len(numbers) == len(set(numbers))
        assert set(numbers) <= set(range(1000))


@pytest.mark.parametrize(
    ("table", "length", "digest"),
    [
        (WNIDS, 1000, "624954f06d059ddd477ab500dc059cf2628ac01e441d8a648d1dc6fbfe504c5a"),
        (CUE_CONFLICT, 16, "38f860b2c576faa332251d0dc8147bb3f753fc8806f3a2048f2dc480cce0c63c"),
        (IMAGENET9, 9, "ff3b75fe6e355cca5be3a3f0652f131966f6c3ae0213ced5aae954d962e0839c"),
        (OBJECTNET, 113, "98eb2b944145228be153fffc6e191d259e183a132874b699755947dfdf1293d9"),
        (ALEXNET_MISTAKES, 15, "222316ad2798ee3c04ef9e9984ba83886924119668923314e5f9622ff03bead2"),
    ],
)
def test_tables_are_unchanged(table: Any, length: int, digest: str) -> None:
    """The digests were taken when the tests above held; they keep the tables where the published files are absent."""
    assert len(table) == length
    assert hashlib.sha256(json.dumps(table).encode()).hexdigest() == digest
