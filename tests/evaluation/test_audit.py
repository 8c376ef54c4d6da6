"""Audits of models whose answers are known, from the pixels of drawn scenes."""

from __future__ import annotations

import csv
import dataclasses
import json
import pickle
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from banks import BACKGROUNDS, CLASSES, OBJECTS, read_json, scene, write_bank
from oracles import Chance, constant, heads_of
from torch import Tensor

from genaug import PhotographBank
from genaug.cli import main
from genaug.evaluation import Audit, audit, compare, load_classifier
from genaug.evaluation.background_audit.comparison_page import verdict as verdict_of_change
from genaug.evaluation.background_audit.composites import Images, draw, paste, patches, place, tile
from genaug.evaluation.background_audit.measures import ACCURACIES, TITLES, as_percent
from genaug.evaluation.background_audit.plan import plan, trained_on
from genaug.evaluation.background_audit.report import verdict
from genaug.photographs.format import BankFiles

LABELS = [0] * 12 + [1] * 8 + [2] * 5


def floats(images: Tensor) -> Tensor:
    return images.float()


def _nearest(pixels: Tensor, colours: Tensor) -> Tensor:
    return -(pixels[:, None] - colours.float()[None]).square().sum(2) / 1000


def reads_background(images: Tensor) -> Tensor:
    """Knows the classes by the colour of a corner."""
    return _nearest(images[:, :, :2, :2].mean((2, 3)), BACKGROUNDS)


def reads_object(images: Tensor) -> Tensor:
    """Knows the classes by the object's colour, wherever it is."""
    distance = (images[:, None] - OBJECTS.float()[None, :, :, None, None]).square().sum(2)
    return (distance < 2000).float().sum((2, 3))


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bank(tmp_path_factory.mktemp("bank") / "bank", LABELS)


@pytest.fixture(scope="module")
def of_background(bank: Path) -> Audit:
    return audit(reads_background, bank, transform=floats, name="reads the background")


@pytest.fixture(scope="module")
def of_object(bank: Path) -> Audit:
    return audit(reads_object, bank, transform=floats, name="reads the object")


def percent(result: Audit, name: str) -> float:
    return 100 * result.measures[name].overall.value


def test_a_model_that_reads_the_background(of_background: Audit) -> None:
    shown = of_background.design.labels[of_background.design.random]
    assert percent(of_background, "original") == percent(of_background, "same") == 100
    assert percent(of_background, "inpainted") == percent(of_background, "tiled") == 100
    assert percent(of_background, "random") == pytest.approx(
        100 * (shown == of_background.design.labels[:, None]).mean()
    )
    assert percent(of_background, "attraction") == 100
    differ = np.mean([a != b for row in shown for i, a in enumerate(row) for b in row[i + 1 :]])
    assert of_background.flips == pytest.approx(100 * differ)
    assert of_background.gap == pytest.approx(100 - percent(of_background, "random"))
    assert all(of_background.attraction[one][two].value == 1 for one in range(3) for two in range(3) if one != two)
    assert of_background.pull[0][1].low > 0.5
    assert re.match(
        r"When only the background changes, \d+% of answers change\. Objects of class “\w+” in front of “\w+” are "
        r"called “\w+” 100% of the time\.",
        of_background.verdict(),
    )


def test_backgrounds_that_mislead_are_told(tmp_path: Path) -> None:
    """A model that reads backgrounds is no better for photographs whose backgrounds are those of other classes."""
    draws = torch.Generator().manual_seed(1)
    moved = [scene(label, (label + 1) % 3, draws, 32) for label in LABELS]
    misleading = write_bank(tmp_path / "bank", LABELS, parts=moved)
    found = audit(reads_background, misleading, transform=floats, name="reads the background")
    assert found.measures["gap"].overall.high < 0
    said = "On backgrounds of its own class, an object is recognized less often than on random ones, by "
    assert f"{said}{-found.gap:.1f} points. So the model answers by backgrounds" in found.verdict()
    assert "measurably attracts" not in found.verdict()
    assert "says little" not in found.verdict()
    text = found.save(tmp_path / "report").read_text()
    assert "No background gap is measured" not in text
    assert "First audit it with photographs that have the usual backgrounds of their class." in text
    assert "No background measurably attracts answers. This does not clear the model" in text
    # without a gap, backgrounds alone tell
    results = found.to_json()
    assert results["heads"]["ensemble"]["chance"] == pytest.approx(100 * (12 * 5 + 8 * 12 + 5 * 8) / 25**2, abs=0.01)
    results["heads"]["ensemble"]["measures"]["gap"]["overall"].update(low=-30.0, high=1.0)
    assert "On backgrounds alone, 0% of answers are right, measurably fewer than by chance (31%)." in verdict(results)
    # a comparison does not call it less reliant
    audit(reads_object, misleading, transform=floats, name="reads the object").save(tmp_path / "object")
    change = compare(tmp_path / "object", tmp_path / "report").verdict()
    assert "“reads the background” relies less" not in change


def test_a_model_that_reads_the_object(of_object: Audit) -> None:
    for name in ("original", "gray", "noise", "same", "random", "size_30", "size_90", "edge", "corner"):
        assert percent(of_object, name) == 100
    for name in ("gap", "flips", "attraction", "size_gap", "place_gap", "texture"):
        assert percent(of_object, name) == 0
    assert percent(of_object, "to_texture") == 100  # its objects are their colour
    assert "0% of answers change. No background measurably attracts" in of_object.verdict()
    assert of_object.pairs == ()


def test_a_constant_model_is_not_attracted_by_anything(bank: Path) -> None:
    found = audit(constant(1, 3), bank, transform=floats)
    share = 100 * LABELS.count(1) / len(LABELS)
    assert all(percent(found, name) == pytest.approx(share) for name in ACCURACIES)
    assert found.attraction[0][1].value == 1
    assert found.pull[0][1].value == 0
    assert found.flips == 0
    assert "No background measurably attracts" in found.verdict()
    worst = found.measures["original"]
    assert (worst.worst.value, worst.worst_class) == (0, 0)


def test_objects_without_another_background_of_their_class_do_not_count_in_the_gap(tmp_path: Path) -> None:
    """A model that always answers the same is right only for one class, whatever the background."""
    bank = write_bank(tmp_path / "bank", [0] * 12 + [1, 2])
    found = audit(constant(0, 3), bank, transform=floats)
    assert percent(found, "random") == pytest.approx(100 * 12 / 14)
    gap = found.measures["gap"]
    assert (found.flips, gap.overall.value, gap.per_class[0].value) == (0, 0, 0)
    assert gap.overall.low <= 0 <= gap.overall.high
    assert [one.photographs for one in gap.per_class] == [12, 0, 0]
    assert any("so without a background gap: " in note for note in found.notes)
    reads = audit(reads_background, bank, transform=floats)
    shown = reads.design.labels[reads.design.random[:12]]
    assert reads.gap == pytest.approx(100 * (shown != 0).mean())
    found.save(tmp_path / "before")
    reads.save(tmp_path / "after")
    change = compare(tmp_path / "before", tmp_path / "after", names=("constant", "background")).overall["gap"]
    assert (change.before.value, change.change.value) == (0, pytest.approx(reads.gap / 100))


def test_chance_has_no_gap(bank: Path) -> None:
    gap = audit(Chance(3), bank, transform=floats).measures["gap"].overall
    assert gap.low < 0 < gap.high


def test_images_are_a_function_of_seed_and_photograph(bank: Path) -> None:
    files = BankFiles(bank)
    design = draw(files.labels, files.classes, 3, 0)
    images = Images(files, torch.arange(len(LABELS)), design, floats)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))[:50].tolist()
    together = images.images(order)
    assert all(torch.equal(images.images([index])[0], image) for index, image in zip(order, together, strict=True))
    copy = pickle.loads(pickle.dumps(images))
    assert torch.equal(copy.images(order), together)
    fewer = draw(files.labels, files.classes, 2, 0)
    assert not np.array_equal(draw(files.labels, files.classes, 3, 1).random, design.random)
    assert fewer.random.shape == (len(LABELS), 2)


def test_the_default_device_changes_nothing(bank: Path, of_background: Audit) -> None:
    with torch.device("meta"):
        found = audit(reads_background, bank, transform=floats, name="reads the background")
    assert found.to_json()["heads"] == of_background.to_json()["heads"]


def test_backgrounds_are_of_other_photographs(bank: Path) -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    for seed in range(20):
        design = draw(labels, CLASSES, 4, seed)
        own = np.arange(10)[:, None]
        assert (design.random != own).all()
        assert (design.same[:9] != own[:9]).all()
        assert (design.labels[design.same[:9]] == design.labels[:9, None]).all()
        assert (design.same[9] == -1).all()  # the only one of its class
        assert (design.labels[design.texture] != design.labels).all()


def test_every_class_is_drawn_as_often() -> None:
    labels = torch.tensor([0] * 900 + [1] * 50 + [2] * 50)
    shown = draw(labels, CLASSES, 5, 0)
    counts = np.bincount(labels.numpy()[shown.random].ravel(), minlength=3) / 5000
    assert counts == pytest.approx(np.full(3, 1 / 3), abs=0.03)


def test_the_pieces_of_composites() -> None:
    red = torch.zeros(3, 16, 16, dtype=torch.uint8)
    red[0] = 200
    gray = torch.full_like(red, 100)
    mask = torch.zeros(1, 16, 16, dtype=torch.uint8)
    mask[:, 4:8, 4:12] = 255
    assert torch.equal(paste(red, mask, gray), torch.where(mask == 255, red, gray))
    placed = place(red, mask, (4, 4, 12, 8), gray, 0.5, 1.0, 0.0)
    assert torch.equal(placed[:, :4, 8:], red[:, :4, 8:])  # in the corner, as large as before
    assert (placed[:, 4:] == 100).all()
    assert (placed[:, :, :8] == 100).all()
    image = torch.arange(16, dtype=torch.uint8).repeat(3, 16, 1)
    tiled = tile(image, (4, 0, 10, 15))
    assert tiled is not None
    assert tiled[0, 5].tolist() == [0, 1, 2, 3, 10, 11, 12, 13, 14, 15, *range(10, 16)]
    assert torch.equal(tiled[:, 15:], image[:, 15:])
    assert tile(image, (0, 0, 16, 16)) is None
    texture = patches(torch.where(mask == 255, red, gray), mask, torch.Generator().manual_seed(0))
    assert torch.equal(texture, red)


def test_heads_are_measured_separately(bank: Path) -> None:
    model = heads_of(shape=reads_object, background=reads_background, ensemble=reads_object)
    found = audit(model, bank, transform=floats)
    assert {head: one.flips > 0 for head, one in found.by_head().items()} == {
        "ensemble": False,
        "shape": False,
        "background": True,
    }
    assert set(found.to_json()["heads"]) == {"ensemble", "shape", "background"}


def test_the_report_holds_its_data_and_nothing_from_outside(of_background: Audit, tmp_path: Path) -> None:
    page = of_background.save(tmp_path / "report")
    assert {path.name for path in page.parent.iterdir()} == {
        "index.html",
        "audit.json",
        "measures.csv",
        "attraction.csv",
        "answers.safetensors",
    }
    text = page.read_text()
    results = read_json(page.parent / "audit.json")
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    assert json.loads(data[1]) == results
    assert results["verdict"] == of_background.verdict()
    assert not re.search(r'(?:src|href)="(?!data:|#|audit\.json|measures\.csv|attraction\.csv)', text)
    assert "http" not in re.sub(r"data:image[^\"]*", "", text)
    assert text.count("<img ") == 2 * len(of_background.pairs)
    assert all(re.search(r'alt="[^"]+"', image) for image in re.findall(r"<img [^>]*>", text))
    rows = list(csv.DictReader((page.parent / "measures.csv").read_text().splitlines()))
    assert len(rows) == len(TITLES) * (1 + len(CLASSES))
    row = next(row for row in rows if row["measure"] == "gap" and not row["class"])
    assert float(row["percent"]) == pytest.approx(of_background.gap, abs=0.01)


GOLDEN = {  # of the model that reads the background, at seed 0: percent, by measure
    "original": 100.0,
    "gray": 0.0,
    "same": 100.0,
    "inpainted": 100.0,
    "tiled": 100.0,
    "attraction": 100.0,
}


def test_the_data_of_the_report_is_as_ever(of_background: Audit) -> None:
    results = of_background.to_json()
    assert list(results["heads"]["ensemble"]["measures"]) == list(TITLES)
    found = results["heads"]["ensemble"]["measures"]
    golden = dict(GOLDEN, gray=found["gray"]["overall"]["percent"])
    assert {name: found[name]["overall"]["percent"] for name in GOLDEN} == golden
    assert set(found["gap"]) == {"title", "overall", "worst_class", "worst", "per_class"}
    assert set(found["gap"]["overall"]) == {"percent", "low", "high", "photographs"}
    assert results["photographs"] == {"boat": 12, "car": 8, "kite": 5}
    assert all(pair["answer"] == pair["background"] != pair["object"] for pair in results["pairs"])
    assert any("Too few photographs" in note and "car (8), kite (5)" in note for note in results["notes"])


def test_shares_go_from_0_to_100_and_gaps_have_an_axis_of_their_own(of_background: Audit, tmp_path: Path) -> None:
    text = of_background.save(tmp_path / "report").read_text()
    part = {
        name: text.partition(f'<section id="{name}"')[2].partition("</section>")[0] for name in ("geometry", "classes")
    }
    assert re.findall(r'<th scope="col">(\S+) to (\S+)</th>', part["geometry"])[0] == ("0", "100")
    assert part["geometry"].count("<table") == 2
    gap = as_percent(of_background.measures["gap"].per_class[0])
    shown = f"{gap['percent']:+.1f}<small>{gap['low']:+.1f} to {gap['high']:+.1f}</small>"
    assert shown in part["classes"]  # as in the text above the table


def test_names_cannot_break_the_page(bank: Path, tmp_path: Path) -> None:
    evil = '</script><script>alert("x")</script>'
    text = audit(reads_background, bank, transform=floats, name=evil).save(tmp_path).read_text()
    assert text.count("<script") == 2
    assert "alert" in text


def test_two_audits_are_compared_image_by_image(of_background: Audit, of_object: Audit, tmp_path: Path) -> None:
    of_background.save(tmp_path / "before")
    of_object.save(tmp_path / "after")
    found = compare(tmp_path / "before", tmp_path / "after")
    assert found.names == ("reads the background", "reads the object")
    change = found.overall["random"].change
    assert change.value == pytest.approx(1 - of_background.measures["random"].overall.value)
    assert 0 < change.low < change.value < change.high
    assert found.overall["original"].change.value == 0
    same = compare(tmp_path / "before", tmp_path / "before")
    assert same.overall["flips"].change.value == 0
    page = found.save(tmp_path / "comparison")
    assert "“reads the object” relies less on the background than “reads the background”." in page.read_text()
    assert main(["audit", "--compare", *(str(tmp_path / name) for name in ("before", "after", "--out", "c"))]) == 2
    code = main(["audit", "--compare", str(tmp_path / "before"), str(tmp_path / "after"), "--out", str(tmp_path / "c")])
    assert code == 0
    assert read_json(tmp_path / "c" / "comparison.json")["measures"] == found.to_json()["measures"]


def test_audits_of_other_images_are_not_compared(of_background: Audit, bank: Path, tmp_path: Path) -> None:
    of_background.save(tmp_path / "a")
    audit(reads_background, bank, transform=floats, seed=1).save(tmp_path / "b")
    with pytest.raises(ValueError, match="must show the same images, but their seed differs: 0 and 1"):
        compare(tmp_path / "a", tmp_path / "b")
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*gone"):
        compare(tmp_path / "a", tmp_path / "gone")
    results = read_json(tmp_path / "b" / "audit.json")
    (tmp_path / "b" / "audit.json").write_text(json.dumps({**results, "settings": {}}))
    with pytest.raises(ValueError, match=r"audit.json is damaged .*run the audit again"):
        compare(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "audit.json").write_text("{}")
    with pytest.raises(ValueError, match=r"audit\.json is damaged"):
        compare(tmp_path / "a", tmp_path / "b")


def test_bad_input_gets_one_clear_line(bank: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must return 3 logits, got 5\. The bank's classes are boat, car, kite"):
        audit(constant(0, 5), bank, transform=floats)
    with pytest.raises(ValueError, match=r"must be finite, but those of boat/0\.jpg \(original\) hold NaN"):
        audit(lambda images: torch.full((len(images), 3), torch.nan), bank, transform=floats)
    with pytest.raises(TypeError, match="bank must be a PhotographBank or the folder of one, got int"):
        audit(reads_object, 3)
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        audit(reads_object, write_bank(tmp_path / "one", [0, 0, 0]), transform=floats)
    with pytest.raises(ValueError, match="no usable backgrounds: at least one class must have 2 photographs"):
        audit(reads_object, write_bank(tmp_path / "two", [0, 1, 2]), transform=floats)
    with pytest.raises(ValueError, match="backgrounds must be at least 2, got 1"):
        audit(reads_object, bank, backgrounds=1)


def test_classes_are_matched_by_name(bank: Path) -> None:
    turned = ("kite", "Car", "boat", "tree")

    def model(images: Tensor) -> Tensor:
        return torch.cat([reads_object(images)[:, [2, 1, 0]], torch.zeros(len(images), 1)], 1)

    found = audit(model, bank, classes=turned, transform=floats)
    assert percent(found, "original") == 100
    assert percent(audit(model, bank, classes={"boat": [2], "car": [1], "kite": [0]}, transform=floats), "same") == 100
    with pytest.raises(ValueError, match=r"has no class 'car'\. The photographs have 'boat', 'car', 'kite'"):
        audit(model, bank, classes=("kite", "auto", "boat", "tree"), transform=floats)
    part = audit(model, bank, classes=("kite", "auto", "boat", "tree"), partial=True, transform=floats)
    assert part.missing == ("1 of 3 classes, unknown to the model: car",)
    assert part.photographs == (12, 0, 5)


def test_a_partial_result_is_marked_in_every_table(bank: Path, tmp_path: Path) -> None:
    found = audit(reads_background, bank, per_class=4, transform=floats)
    assert found.photographs == (4, 4, 4)
    assert "PARTIAL" in str(found)
    text = found.save(tmp_path).read_text()
    captions = re.findall(r"<caption>(.*?)</caption>", text, re.DOTALL)
    assert len(captions) == 6
    assert all("PARTIAL" in caption for caption in captions)
    assert "PARTIAL" in re.search(r'id="matrix-title">(.*?)</p>', text, re.DOTALL)[1]
    assert all(row["partial"] == "True" for row in csv.DictReader((tmp_path / "measures.csv").read_text().splitlines()))


def test_a_subset_of_a_bank_shows_its_own_photographs_alone(bank: Path) -> None:
    whole = PhotographBank(bank)
    numbers = [0, 1, 2, 3, 12, 13, 14, 20, 21, 22]
    found = audit(reads_object, whole.subset(numbers), transform=floats)
    assert found.photographs == (4, 3, 3)
    assert {pair.file for pair in found.pairs} <= {whole.files.entries[number].file for number in numbers}
    assert found.settings["bank"] != audit(reads_object, whole, transform=floats).settings["bank"]


def test_classes_and_photographs_that_are_left_out_are_both_named(bank: Path) -> None:
    names = ("kite", "auto", "boat")
    found = audit(
        lambda images: reads_object(images)[:, [2, 1, 0]],
        bank,
        classes=names,
        partial=True,
        per_class=4,
        transform=floats,
    )
    assert found.photographs == (4, 0, 4)
    assert found.missing == ("1 of 3 classes, unknown to the model: car", "9 of 17 photographs (per_class=4)")


def figures(
    flips: float | None, *, pull: float = 0.0, original: float = 95.0, heads: dict[str, float] | None = None
) -> dict:
    """Results with these figures, as a verdict reads them."""

    def head(value: float | None) -> dict:
        measures = {
            "flips": {"overall": {"percent": value}},
            "original": {"overall": {"percent": original, "low": original - 3}},
            "gap": {"overall": {"percent": 1.0, "low": -2.0, "high": 4.0}},
            "inpainted": {"overall": {"percent": 50.0, "low": 40.0, "high": 60.0}},
        }
        rate, more = {"percent": 22.0}, {"low": pull}
        matrices = {"attraction": [[None, rate], [rate, None]], "pull": [[None, more], [None, None]]}
        return {"measures": measures, "chance": 50.0, **matrices}

    return {
        "classes": ["horse", "house"],
        "photographs": {"horse": 60, "house": 40},
        "heads": {"ensemble": head(flips), **{name: head(value) for name, value in (heads or {}).items()}},
    }


def test_the_verdict_reads_well_in_every_case() -> None:
    assert verdict(figures(31.2, pull=5)) == (
        "When only the background changes, 31% of answers change. Objects of class “horse” in front of “house” are "
        "called “house” 22% of the time."
    )
    nothing = "No background measurably attracts answers."
    assert verdict(figures(0)) == f"When only the background changes, 0% of answers change. {nothing}"
    assert "0.4% of answers change" in verdict(figures(0.4))
    assert "99.7% of answers change" in verdict(figures(99.7))
    assert verdict(figures(None)) == "There are too few backgrounds to say whether answers depend on them."
    assert verdict(figures(3, original=61)).endswith(
        "But the model recognizes only 61% of the original photographs, so this says little."
    )
    assert verdict(figures(9, heads={"shape": 4.0, "background": 80.0})).endswith(
        "Of the heads, “background” changes the most answers (80%) and “shape” the fewest (4%)."
    )


def changes(flips: tuple[float, ...], gap: tuple[float, ...], original: tuple[float, ...], *few: str) -> dict:
    """Results of a comparison: of each measure before, after, and both ends of the change's interval."""

    def measure(before: float, after: float, low: float, high: float) -> dict:
        change = {"percent": after - before, "low": low, "high": high}
        ends = {"before": {"percent": before, "high": before + 6}, "after": {"percent": after, "high": after + 6}}
        return {"overall": {**ends, "change": change}}

    return {
        "models": ["plain", "robust"],
        "measures": {"flips": measure(*flips), "gap": measure(*gap), "original": measure(*original)},
        "largest_class": 34.0,
        "recognizes_few": {which: which in few for which in ("before", "after")},
    }


def test_the_verdict_of_a_comparison_says_what_is_measurable() -> None:
    fewer, smaller, same = (31.2, 12, -22, -16), (5.4, 1.8, -5, -2), (98, 98.3, -0.5, 1)
    assert verdict_of_change(changes(fewer, smaller, same)) == (
        "“robust” relies less on the background than “plain”. When only the background changes, “plain” changes 31% of "
        "its answers and “robust” 12%. Backgrounds of random classes, compared with the object's own class, lower the "
        "accuracy of “plain” by 5.4 points and of “robust” by 1.8. Accuracy on the original photographs does not "
        "measurably change."
    )
    assert verdict_of_change(changes((10, 10.2, -2, 2), (5, 6, -1, 3), (98, 93, -7, -3))) == (
        "The two models do not measurably differ in how much they rely on the background. When only the background "
        "changes, “plain” changes 10% of its answers and “robust” 10% (no measurable difference). Backgrounds of "
        "random classes, compared with the object's own class, lower the accuracy of “plain” by 5.0 points and of "
        "“robust” by 6.0 (no measurable difference). Accuracy on the original photographs falls by 5.0 points, to 93%."
    )
    assert verdict_of_change(changes((12, 31, 16, 22), smaller, same)).startswith("It is not clear which model")
    assert verdict_of_change(changes((12, 31, 16, 22), (1.8, 5.4, 2, 5), same)).startswith("“robust” relies more on")
    # a gap below 0 costs nothing, and neither rises nor falls for a reader
    below = verdict_of_change(changes(fewer, (-3.8, -2.4, -1, 3), same))
    assert "compared with the object's own class, lower the accuracy of neither model. Accuracy" in below
    # a gap that is measurably below 0 is reliance on backgrounds that mislead
    misled = verdict_of_change(changes((10, 10.2, -2, 2), (3, -19.4, -30, -15), same))
    assert misled.startswith("The two models do not measurably differ in how much they rely on the background.")
    assert "backgrounds of the object's own class mislead “robust”: accuracy is higher" in misled


def test_a_model_that_recognizes_few_photographs_is_never_better() -> None:
    fewer, smaller, much_less = (31.2, 0, -35, -28), (5.4, 0, -8, -3), (98, 33, -70, -60)
    assert verdict_of_change(changes(fewer, smaller, much_less, "after")) == (
        "“robust” recognizes 33% of the original photographs, not measurably more than always naming the largest class "
        "would (34%). So the figures do not say which model relies less on the background. Accuracy on the original "
        "photographs falls by 65.0 points, to 33%."
    )
    both = verdict_of_change(changes(fewer, smaller, (30, 33, -3, 9), "before", "after"))
    assert both.startswith("Neither model recognizes measurably more of the original photographs (30% and 33%) than")


def test_a_comparison_with_a_constant_model_carries_the_caveat_everywhere(
    of_object: Audit,
    bank: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    of_object.save(tmp_path / "good")
    audit(constant(0, 3), bank, transform=floats, name="constant").save(tmp_path / "constant")
    assert main(["audit", "--compare", *(str(tmp_path / name) for name in ("good", "constant")), "--out", "c"]) == 0
    said = capsys.readouterr().out
    found = compare(tmp_path / "good", tmp_path / "constant")
    assert found.recognizes_few == {"before": False, "after": True}
    caveat = "“constant” recognizes"
    assert said.startswith(caveat)
    assert found.verdict() in said
    results = read_json(Path("c/comparison.json"))
    assert results["recognizes_few"]["after"]
    assert results["verdict"].startswith(caveat)
    body = Path("c/index.html").read_text().partition('id="data"')[0]
    assert caveat in body
    # in the heading, and where its low figures are shown as effects of the background
    assert body.count("do not say which model relies less on the background") == 2
    rows = list(csv.DictReader(Path("c/comparison.csv").read_text().splitlines()))
    assert {row["which"]: row["recognizes_few"] for row in rows} == {
        "before": "False",
        "after": "True",
        "change": "True",
    }


def test_excluded_cutouts_are_noted(tmp_path: Path) -> None:
    folder = write_bank(tmp_path / "bank", LABELS, doubtful=[0, 20])
    found = audit(reads_object, folder, transform=floats)
    assert sum(found.photographs) == len(LABELS) - 2
    assert found.notes[0].startswith("2 of 25 photographs are not part of the bank")


MODEL = """
import torch
from genaug.evaluation.models import Classifier

def function(images):
    return torch.zeros(len(images), 3) + torch.arange(3)

def unnamed():
    return function

def named():
    prepare = lambda images: images.float()
    return Classifier("named", function, prepare, prepare, ("boat", "tree", "bird"), prepare)

def more():
    prepare = lambda images: images.float()
    function = lambda images: torch.zeros(len(images), 4)
    return Classifier("more", function, prepare, prepare, ("boat", "tree", "car", "kite"), prepare)
"""


def test_the_command(bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "audited.py").write_text(MODEL)
    assert main(["audit", "audited:unnamed", "--data", str(bank), "--out", "report"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == [read_json(tmp_path / "report" / "audit.json")["verdict"], str(Path("report") / "index.html")]
    # a proposal is written, and taken by the next call
    command = ["audit", "audited:named", "--data", str(bank), "--out", "mapped"]
    assert main(command) == 2
    assert "A mapping is proposed in mapped/classes.json" in capsys.readouterr().err
    file = tmp_path / "mapped" / "classes.json"
    assert read_json(file) == {"boat": ["boat"], "car": [], "kite": []}
    file.write_text('{"boat": ["boat"], "car": ["tree"], "kite": ["bird"]}')
    assert main(command) == 0
    assert read_json(tmp_path / "mapped" / "audit.json")["partial"] is False
    capsys.readouterr()
    more = ["audit", "audited:more", "--data", str(bank), "--out", "more"]
    assert main(more) == 0
    told = "The bank has no photographs of 1 of the model's 4 classes: 'tree'. Answers that name them count as wrong."
    assert told in capsys.readouterr().err
    assert told in read_json(tmp_path / "more" / "audit.json")["notes"]
    for wrong, message in (
        (["audit", "--out", "x"], "audit needs MODEL and --data BANK, or --compare BEFORE AFTER"),
        (["audit", "audited:named", "--data", "gone", "--out", "x"], "no such folder: gone"),
        ([*command, "--classes", "gone.json"], "no such file: gone.json"),
    ):
        assert main(wrong) == 2
        assert message in capsys.readouterr().err


def test_a_mapping_of_an_earlier_audit_that_does_not_fit_is_named(
    bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mapped_classifier.py").write_text("import torch\n\ndef model():\n    return torch.nn.Flatten()\n")
    (tmp_path / "classes.json").write_text('{"ship": [0]}')
    assert main(["audit", "mapped_classifier:model", "--data", str(bank), "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "classes.json of an earlier audit must fit this bank and model, but the mapping has 'ship'" in said
    assert "Correct or delete the file, or choose another --out" in said


def test_a_report_of_something_else_is_not_replaced(
    bank: Path, of_background: Audit, of_object: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    page = of_background.save(tmp_path / "report")
    before = page.read_bytes()
    assert of_background.save(tmp_path / "report").read_bytes() == before  # the same audit again
    with pytest.raises(ValueError, match=r"'reads the background' instead of 'reads the object'.*another folder"):
        of_object.save(tmp_path / "report")
    changed = dataclasses.replace(of_background, settings={**of_background.settings, "bank": "f" * 64})
    with pytest.raises(ValueError, match=r"audit of something else \(another bank\): choose another folder"):
        changed.save(page.parent)
    with pytest.raises(ValueError, match="per_class None instead of 2"):
        audit(reads_background, bank, transform=floats, name="reads the background", per_class=2).save(page.parent)
    of_object.save(tmp_path / "other")
    compare(tmp_path / "report", tmp_path / "other").save(tmp_path / "both")
    compare(tmp_path / "report", tmp_path / "other").save(tmp_path / "both")
    with pytest.raises(ValueError, match="is another page"):
        of_background.save(tmp_path / "both")
    with pytest.raises(ValueError, match="is another page"):
        compare(tmp_path / "report", tmp_path / "other").save(tmp_path / "report")
    with pytest.raises(ValueError, match="is a comparison of something else"):
        compare(tmp_path / "other", tmp_path / "report").save(tmp_path / "both")
    assert page.read_bytes() == before
    # the command finds it before any image is made
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "replacing.py").write_text(MODEL)
    monkeypatch.setattr("genaug.evaluation.background_audit.run.score", None)
    assert main(["audit", "replacing:unnamed", "--data", str(bank), "--out", "report"]) == 2
    assert "is an audit of something else (model" in capsys.readouterr().err


def test_numbers_are_checked_before_photographs_are_cut_out(tmp_path: Path, capsys) -> None:
    for option, message in {"--per-class": "--per-class must be at least 2", "--backgrounds": "at least 2"}.items():
        command = ["audit", "resnet18", "--data", str(tmp_path), "--out", str(tmp_path / "report"), option, "1"]
        assert main(command) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_photographs_of_the_training_are_told(bank: Path, tmp_path: Path, capsys) -> None:
    from genaug import MultiHeadResNet

    folder = tmp_path / "run"
    MultiHeadResNet("resnet18", 3, heads=("label",)).save_pretrained(folder / "model")
    (folder / "model" / "preprocessing.json").write_text('{"class_names": ["boat", "car", "kite"], "image_size": 32}')
    shutil.copytree(bank, tmp_path / "bank")
    said = read_json(tmp_path / "bank" / "bank.json")
    (tmp_path / "bank" / "bank.json").write_text(json.dumps({**said, "source": str(tmp_path / "photos" / "train")}))
    for photographs, told in (("photos", True), ("photos/train", True), ("photos/val", False)):
        (folder / "results.json").write_text(json.dumps({"trained_on": [str(tmp_path / photographs)]}))
        planned = plan(load_classifier(str(folder)), tmp_path / "bank")  # the folder of a run is a model
        assert planned.name == str(folder / "model")
        assert bool(trained_on(planned)) == told
    (folder / "results.json").unlink()
    assert trained_on(plan(load_classifier(str(folder)), tmp_path / "bank")) == ()


def test_a_training_that_is_not_finished_is_told(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").touch()
    with pytest.raises(ValueError, match="is a training that is not finished: run its command again"):
        load_classifier(str(tmp_path))


def test_next_steps_name_folders_that_do_not_exist(
    of_background: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "swaps").mkdir(parents=True)
    text = of_background.save("report").read_text()
    assert "--out runs/swaps-2" in text
    assert "genaug audit --compare report report-swaps --out comparison" in text


def test_next_steps_audit_as_this_report_did(of_background: Audit, tmp_path: Path) -> None:
    """Reports of other photographs or backgrounds could not be compared."""
    usual = {"backgrounds": 5, "per_class": None, "seed": 0}
    for changes, options in (
        ({}, ""),
        ({"backgrounds": 3, "per_class": 4, "seed": 7}, " --backgrounds 3 --per-class 4 --seed 7"),
    ):
        audited = dataclasses.replace(of_background, settings={**of_background.settings, **usual, **changes})
        text = audited.save(tmp_path / f"report{len(options)}").read_text()
        assert f"--data {shlex.quote(of_background.settings['folder'])}{options} --out" in text


def test_imagenets_classes_are_proposed() -> None:
    from genaug.evaluation.matching import propose
    from genaug.evaluation.models import imagenet_names

    found = propose(["dog", "elephant", "guitar", "n02123045", "Tabby", "person"], imagenet_names())
    assert len(found["dog"]) > 100
    assert set(found["elephant"]) == {"Indian elephant", "African elephant"}
    assert set(found["guitar"]) == {"acoustic guitar", "electric guitar"}
    assert found["n02123045"] == found["Tabby"] == ["tabby"]
    assert found["person"] == []


def test_a_saved_model_says_its_classes(bank: Path, tmp_path: Path) -> None:
    from genaug import MultiHeadResNet

    MultiHeadResNet("resnet18", 3, heads=("label",)).save_pretrained(tmp_path)
    (tmp_path / "preprocessing.json").write_text('{"class_names": ["kite", "car", "boat"], "image_size": 32}')
    found = audit(load_classifier(str(tmp_path)), bank, backgrounds=2, per_class=2)
    assert found.images == found.made.sum() > 0
