"""Loaders as frameworks and users have them: their forms, their classes, their processes and their resuming."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset, TensorDataset, WeightedRandomSampler

from genaug import CounterfactualDataset, GenIntLoss, MixedLoader
from genaug.training.shared import restarting_loaders
from tests.training.test_mixing import loader, shown

IMAGES = torch.zeros(2, 3, 4, 4)


def one(batch: Any) -> list[Any]:
    return [batch]


def fake(label: int = 7) -> list[Any]:
    return [(torch.ones(1, 3, 4, 4), torch.tensor([label]))]


@pytest.mark.parametrize("name", ["pixel_values", "image", "img"])
@pytest.mark.parametrize("label", ["label", "labels"])
def test_a_dict_is_joined_by_its_usual_names_and_comes_back_as_a_dict(name: str, label: str) -> None:
    real = one({name: IMAGES, label: torch.tensor([1, 2]), "path": ["a", "b"]})
    (batch,) = MixedLoader(real, fake(), labels_only=True)
    assert list(batch) == [name, label, "path"]
    assert batch[name].shape == (3, 3, 4, 4)
    assert batch[label].tolist() == [1, 2, 7]
    assert batch["path"] == ["a", "b"]
    (batch,) = MixedLoader(real, fake())
    assert batch[label].source.tolist() == [0, 0, 1]


def test_keys_name_images_and_labels_of_dicts_and_of_longer_tuples() -> None:
    (batch,) = MixedLoader(one({"x": IMAGES, "y": torch.tensor([1, 2])}), keys=("x", "y"), labels_only=True)
    assert batch["y"].tolist() == [1, 2]
    with pytest.raises(TypeError, match="got a dict of x, y: name both by keys="):
        next(iter(MixedLoader(one({"x": IMAGES, "y": torch.tensor([1, 2])}))))
    (batch,) = MixedLoader(one((["a", "b"], IMAGES, torch.tensor([1, 2]))), keys=(1, 2), labels_only=True)
    assert batch[0] == ["a", "b"]
    assert batch[2].tolist() == [1, 2]


def test_a_triple_keeps_its_third_part() -> None:
    (batch,) = MixedLoader(one((IMAGES, torch.tensor([1, 2]), torch.tensor([40, 41]))), fake(), labels_only=True)
    assert [len(part) for part in batch] == [3, 3, 2]
    assert batch[2].tolist() == [40, 41]


@pytest.mark.parametrize("labels", [[1, 2], (1, 2), torch.tensor([[1], [2]])])
def test_lists_and_columns_are_labels(labels: Any) -> None:
    ((_, joined),) = MixedLoader(one((IMAGES, labels)), fake(), labels_only=True)
    assert joined.tolist() == [1, 2, 7]


def test_pil_images_are_stacked_as_uint8() -> None:
    pictures = [Image.new("RGB", (4, 4), (9, 8, 7)), Image.new("L", (4, 4), 5)]
    generated = [(torch.ones(1, 3, 4, 4, dtype=torch.uint8), torch.tensor([7]))]
    ((images, _),) = MixedLoader(one((pictures, [1, 2])), generated)
    assert images[:, :, 0, 0].tolist() == [[9, 8, 7], [5, 5, 5], [1, 1, 1]]
    with pytest.raises(TypeError, match="images of one size"):
        next(iter(MixedLoader(one(([pictures[0], Image.new("RGB", (5, 4))], [1, 2])))))


def test_targets_move_as_a_tensor_does() -> None:
    dataset = CounterfactualDataset("cgn-digits", length=8, targets="all", transform=lambda image: image / 1)
    real = one((torch.zeros(2, 3, 32, 32), torch.tensor([1, 2])))
    ((_, targets),) = MixedLoader(real, DataLoader(dataset, batch_size=3))
    moved = targets.to("meta", non_blocking=True)
    assert type(moved) is type(targets)
    assert {tensor.device.type for tensor in (moved.labels, moved.source, *moved.heads.values())} == {"meta"}
    assert targets.labels is targets["labels"]
    assert set(targets.heads) == {"shape", "texture", "background"}


def test_generated_images_go_where_the_real_ones_are() -> None:
    real = one((IMAGES.to("meta"), torch.tensor([1, 2])))  # as of a loader that Accelerate has prepared
    ((images, targets),) = MixedLoader(real, fake(), fake())
    assert images.shape == (4, 3, 4, 4)
    assert (images.device.type, targets.labels.device.type) == ("meta", "cpu")  # labels where the real labels are
    heads = {"shape": torch.tensor([3, 4])}
    ((images, targets),) = MixedLoader(one((IMAGES, torch.tensor([1, 2]).to("meta"))), [(IMAGES, heads)])
    assert {targets.labels.device.type, targets.source.device.type, targets.heads["shape"].device.type} == {"meta"}


def test_the_real_images_memory_format_is_kept() -> None:
    last = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    ((images, _),) = MixedLoader(one((last, torch.tensor([1, 2]))), [(torch.ones(1, 3, 4, 5), torch.tensor([7]))])
    assert images.is_contiguous(memory_format=torch.channels_last)
    ((images, _),) = MixedLoader(one((last.contiguous(), torch.tensor([1, 2]))), [(last, torch.tensor([7, 7]))])
    assert images.is_contiguous()


class Named(Dataset[Any]):
    """Ten images of classes with names."""

    def __init__(self, names: list[str]) -> None:
        self.classes = names

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        return torch.zeros(3, 32, 32), index % len(self.classes)


DIGITS = [str(i) for i in range(10)]
BIRDS = ["crow", "gull", "owl", "robin", "wren"]


def generated(names: list[str] | None = None, **options: Any) -> DataLoader:
    dataset = CounterfactualDataset("cgn-digits", length=8, transform=lambda image: image / 1, **options)
    if names is not None:
        dataset.generator.classes = tuple(names)
    return DataLoader(dataset, batch_size=2)


def real(names: list[str]) -> DataLoader:
    return DataLoader(Subset(Named(names), range(4)), batch_size=2)


@pytest.mark.parametrize(
    ("names", "made", "message"),
    [
        (BIRDS, generated, r"photographs' 5 classes \(crow, gull, owl, robin, wren\), got 10"),
        (BIRDS, lambda: generated(classes=[2, 5]), "photographs' 5 classes"),
        (
            ["0", "1", "10", "11", "2", "3", "4", "5", "6", "7"],
            generated,
            r"sorted as text \(0, 1, 10, 11, 2, 3, ...\), and generated classes by value \(0, 1, 2, 3, 4, 5, ...\)",
        ),
        (DIGITS, lambda: generated([*DIGITS[:8], "9", "8"]), "class 8 '9' where the photographs have '8'"),
    ],
)
def test_classes_that_mean_something_else_are_refused_at_construction(names: Any, made: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixedLoader(real(names), made())


@pytest.mark.parametrize(
    ("names", "made"),
    [
        (DIGITS, generated),
        (DIGITS, lambda: generated(DIGITS)),
        (BIRDS, lambda: generated(classes=[0, 4])),
        (BIRDS, lambda: generated(target_transform=lambda label: label % 5)),
    ],
)
def test_classes_that_agree_or_are_mapped_are_taken(names: Any, made: Any) -> None:
    MixedLoader(real(names), made())


def test_a_label_that_no_logit_is_for_is_named() -> None:
    with pytest.raises(ValueError, match="labels must be of the 5 classes of the logits, got 9"):
        GenIntLoss()(torch.zeros(2, 5), torch.tensor([1, 9]))


def as_rank(monkeypatch: pytest.MonkeyPatch, rank: int, world: int = 2) -> None:
    for module in ("genaug.training.shared.restarting_loaders", "genaug.training.mixing"):
        monkeypatch.setattr(f"{module}.processes_of_torch", lambda: (rank, world))


@pytest.mark.parametrize("shuffle", [False, True])
def test_processes_share_the_images_of_plain_loaders(monkeypatch: pytest.MonkeyPatch, shuffle: bool) -> None:
    seen = []
    for rank in range(2):
        as_rank(monkeypatch, rank)
        mixed = MixedLoader(loader(0, 32, 4, shuffle=shuffle), loader(100, 16, 2, shuffle=shuffle))
        assert len(mixed) == 4
        assert mixed.batch_size == 4
        epochs = [[number for batch in mixed for number in shown(batch)] for _ in range(2)]
        assert (epochs[0] != epochs[1]) == shuffle
        seen.append(epochs[0])
    first, second = ({number for number in part if number < 100} for part in seen)
    assert len(first) == len(second) == 16
    assert first | second == set(range(32))
    generated = [sorted(number for number in part if number >= 100) for part in seen]
    assert sorted(generated[0] + generated[1]) == list(range(100, 116))


def test_loaders_that_are_shared_already_stay_and_others_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    as_rank(monkeypatch, 0)
    data = loader(0, 8, 2).dataset
    mine = DataLoader(data, batch_size=2, sampler=DistributedSampler(data, 2, 1, shuffle=False))
    assert [shown(batch) for batch in MixedLoader(mine)] == [[1, 3], [5, 7]]
    weighted = DataLoader(data, batch_size=2, sampler=WeightedRandomSampler([1.0] * 8, 8))
    with pytest.raises(
        ValueError, match=r"the loader of photographs must have a sampler that shares .* sampler=DistributedSampler"
    ):
        next(iter(MixedLoader(weighted)))


def test_it_looks_like_the_real_loader() -> None:
    plain = loader(0, 6, 2, drop_last=True)
    mixed = MixedLoader(plain, loader(100, 6, 2))
    for name in ("dataset", "sampler", "batch_size", "drop_last"):
        assert getattr(mixed, name) is getattr(plain, name)


def take(mixed: MixedLoader, count: int) -> list[list[int]]:
    found: list[list[int]] = []
    while len(found) < count:
        for batch in mixed:
            found.append(shown(batch))
            if len(found) == count:
                break
    return found


@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_shuffled_loaders_resume_exactly_in_any_epoch(seeded: bool, stop: int) -> None:
    def fresh() -> MixedLoader:
        options = {"generator": torch.Generator().manual_seed(3)} if seeded else {}
        return MixedLoader(loader(0, 12, 4, shuffle=True, **options), loader(100, 10, 2, shuffle=True))

    mixed = fresh()
    before = take(mixed, stop)
    state = mixed.state_dict()
    after = take(resumed(fresh(), state), 9)
    torch.manual_seed(1234)  # nothing of the global state matters
    assert take(resumed(fresh(), state), 9) == after
    numbers = [n for batch in (before + after)[:6] for n in batch if n < 100]  # two epochs, each of all images once
    assert sorted(numbers) == sorted([*range(12), *range(12)])
    assert numbers[:12] != numbers[12:]


def test_a_copy_continues_where_the_loader_is() -> None:
    mixed = MixedLoader(loader(0, 12, 4, shuffle=True), loader(100, 10, 2, shuffle=True))
    take(mixed, 3)  # an epoch, after which the other loader is in the middle of its own
    copies = [pickle.loads(pickle.dumps(mixed)), copy.deepcopy(mixed)]
    expected = take(mixed, 6)
    assert [take(copied, 6) for copied in copies] == [expected, expected]


def resumed(mixed: MixedLoader, state: Any) -> MixedLoader:
    mixed.load_state_dict(state)
    return mixed


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            lambda: MixedLoader(loader(0, 12, 6), loader(0, 4, 2)).state_dict(),
            "must have batch_size 6 as in the state, got 4",
        ),
        (
            lambda: MixedLoader(loader(0, 8, 4), loader(0, 4, 2)).state_dict(),
            "must have images 8 as in the state, got 12",
        ),
        (
            lambda: {"epoch": 1, "step": 2, "synthetic": [{}]},
            "state must be of a MixedLoader, got one without 'loaders'",
        ),
        (lambda: {"_num_yielded": 3}, "state must be of a MixedLoader"),
    ],
)
def test_states_of_other_loaders_are_refused(state: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixedLoader(loader(0, 12, 4), loader(0, 4, 2)).load_state_dict(state())


class Counted(TensorDataset):
    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


def test_an_epoch_that_does_not_reach_persistent_workers_is_refused() -> None:
    data = Counted(torch.zeros(2, 3, 2, 2), torch.zeros(2))
    with pytest.raises(ValueError, match="the loader of photographs must have persistent_workers=False"):
        MixedLoader(DataLoader(data, num_workers=1, persistent_workers=True))
    MixedLoader(DataLoader(data, num_workers=1))
    MixedLoader(DataLoader(data, num_workers=0))


def test_outside_of_torch_distributed_there_is_one_process() -> None:
    assert restarting_loaders.processes_of_torch() == (0, 1)
