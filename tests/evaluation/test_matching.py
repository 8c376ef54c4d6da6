from __future__ import annotations

import pytest

from genaug.evaluation.matching import ClassError, check_order, match, propose
from genaug.evaluation.measures.background_gap import GROUPS
from genaug.evaluation.models import imagenet_names


def logits_of(classes: list[str], names: tuple[str, ...], mapping=None) -> list[int]:
    lookup, unknown = match(classes, names, mapping)
    assert lookup is not None
    assert not unknown
    return [lookup.tolist().index(number) for number in range(len(classes))]


def test_an_exact_name_comes_before_other_spellings() -> None:
    names = imagenet_names()
    assert logits_of(["Cardigan", "cardigan", "TABBY", "n02123159"], names) == [264, 474, 281, 282]
    assert logits_of(["dog", "top"], names, {"dog": ["Cardigan"], "top": ["cardigan"]}) == [264, 474]
    assert propose(["Cardigan"], names) == {"Cardigan": ["Cardigan"]}


def test_a_name_that_fits_several_classes_is_refused_with_a_proposal() -> None:
    message = r"must have one class 'CARDIGAN', got 'Cardigan' \(number 264\), 'cardigan' \(number 474\)"
    with pytest.raises(ClassError, match=message) as caught:
        match(["CARDIGAN", "tabby"], imagenet_names(), partial=True)
    assert caught.value.proposal == {"CARDIGAN": ["Cardigan", "cardigan"], "tabby": ["tabby"]}


def test_classes_with_the_same_name_are_told_apart_by_number() -> None:
    names = ("crane", "dog", "crane")
    with pytest.raises(ClassError, match="must have one class 'crane'") as caught:
        match(["crane", "dog"], names)
    assert caught.value.proposal == {"crane": [0, 2], "dog": ["dog"]}
    assert logits_of(["crane", "dog"], names, {"crane": [2], "dog": ["dog"]}) == [2, 1]
    with pytest.raises(ClassError, match="must name one class of the model, got 'crane' for the numbers 0, 2"):
        match(["crane", "dog"], names, {"crane": ["crane"], "dog": ["dog"]})


def test_the_names_of_the_model_come_before_wordnet_ids() -> None:
    names = ("n01443537", "n01440764", *map(str, range(998)))
    assert logits_of(["n01440764", "n01484850"], names) == [1, 2]


@pytest.mark.parametrize("names", [imagenet_names(), GROUPS])
def test_classes_in_another_order_than_the_benchmarks_are_refused(names: tuple[str, ...]) -> None:
    check_order(names)
    check_order([f"{number:02d}_{name}" for number, name in enumerate(names)])  # unknown names are not compared
    check_order(names[1:])  # another number of classes, which scoring refuses
    number, name = min(enumerate(names), key=lambda pair: pair[1])
    with pytest.raises(ValueError, match=rf"in the usual order, with {name!r} as number {number}, got number 0\. Eval"):
        check_order(sorted(names))
