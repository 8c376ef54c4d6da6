from __future__ import annotations

import json
from pathlib import Path

import pytest

from genaug.evaluation.classes import CUE_CONFLICT, IMAGENET, IMAGENET9, OBJECTNET, WNIDS


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
