"""Batches of real and generated images, joined."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

from genaug import CounterfactualDataset, MixedLoader


def loader(first: int, count: int, size: int, **options: Any) -> DataLoader:
    """Images that all show their own number, which is their label, too."""
    numbers = torch.arange(first, first + count)
    images = numbers[:, None, None, None].expand(-1, 3, 2, 2).float()
    return DataLoader(TensorDataset(images, numbers), batch_size=size, **options)


def shown(batch: tuple[torch.Tensor, Any]) -> list[int]:
    return batch[0][:, 0, 0, 0].int().tolist()


def test_one_batch_of_each_is_joined_and_the_length_is_the_first() -> None:
    mixed = MixedLoader(loader(0, 6, 2), loader(100, 6, 1), loader(200, 30, 3))
    assert len(mixed) == 3
    batches = list(mixed)
    assert [shown(batch) for batch in batches] == [
        [0, 1, 100, 200, 201, 202],
        [2, 3, 101, 203, 204, 205],
        [4, 5, 102, 206, 207, 208],
    ]
    targets = batches[0][1]
    assert targets["labels"].tolist() == [0, 1, 100, 200, 201, 202]
    assert targets["source"].tolist() == [0, 0, 1, 2, 2, 2]
    assert targets["source"].dtype == torch.int64
    assert "heads" not in targets


def test_shorter_loaders_start_over_and_longer_ones_go_on_in_the_next_epoch() -> None:
    mixed = MixedLoader(loader(0, 3, 1), loader(100, 2, 1), loader(200, 5, 1))
    assert [shown(batch) for batch in mixed] == [[0, 100, 200], [1, 101, 201], [2, 100, 202]]
    assert [shown(batch) for batch in mixed] == [[0, 101, 203], [1, 100, 204], [2, 101, 200]]


def test_a_partial_last_batch_of_any_is_kept() -> None:
    mixed = MixedLoader(loader(0, 3, 2), loader(100, 3, 2))
    assert [shown(batch) for batch in mixed] == [[0, 1, 100, 101], [2, 102]]


def test_labels_only_fits_an_unchanged_loop() -> None:
    images, labels = next(iter(MixedLoader(loader(0, 4, 2), loader(100, 4, 2), labels_only=True)))
    assert images.shape == (4, 3, 2, 2)
    assert labels.tolist() == [0, 1, 100, 101]


def test_heads_have_the_labels_of_counterfactuals_and_none_of_real_images() -> None:
    dataset = CounterfactualDataset("cgn-digits", length=8, targets="all", transform=lambda image: image / 1)
    real = DataLoader(TensorDataset(torch.zeros(4, 3, 32, 32), torch.arange(4)), batch_size=2)
    images, targets = next(iter(MixedLoader(real, DataLoader(dataset, batch_size=3))))
    assert images.shape == (5, 3, 32, 32)
    for name, classes in dataset.labels(range(3)).items():
        assert targets["heads"][name].tolist() == [-100, -100, *classes.tolist()]
    assert targets["labels"].tolist() == [0, 1, *dataset.labels(range(3))["shape"].tolist()]


def test_a_head_that_one_loader_lacks_is_ignored_there() -> None:
    def dicts(**heads: torch.Tensor) -> list[Any]:
        return [(torch.zeros(2, 3, 2, 2), heads)]

    one = torch.tensor([1, 1])
    mixed = MixedLoader(loader(0, 2, 2), dicts(shape=one), dicts(shape=one + 1, texture=one + 2))
    (_, targets) = next(iter(mixed))
    assert targets["heads"]["shape"].tolist() == [-100, -100, 1, 1, 2, 2]
    assert targets["heads"]["texture"].tolist() == [-100, -100, -100, -100, 3, 3]


def test_soft_real_labels_make_the_others_one_hot() -> None:
    soft = [(torch.zeros(1, 3, 2, 2), torch.tensor([[0.25, 0.75, 0.0]]))]
    _, targets = next(iter(MixedLoader(soft, loader(2, 1, 1))))
    assert targets["labels"].tolist() == [[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("labels", "came"),
    [
        (torch.tensor([0, -100]), "the label -100"),
        (torch.tensor([3, 0]), "the label 3"),
        (torch.full((2, 4), 0.25), "probabilities of 4"),
    ],
)
def test_labels_that_do_not_fit_anothers_probabilities_name_their_loader(labels: torch.Tensor, came: str) -> None:
    images = torch.zeros(2, 3, 2, 2)
    soft, other = [(images, torch.full((2, 3), 1 / 3))], [(images, labels)]
    message = "{} must have labels of the 3 classes of which {} yields probabilities, got {}: give"
    photographs, generated = "the loader of photographs", "loader {} of generated images"
    with pytest.raises(ValueError, match=message.format(generated.format(2), photographs, came)):
        next(iter(MixedLoader(soft, soft, other)))
    if labels.ndim == 1:
        with pytest.raises(ValueError, match=message.format(photographs, generated.format(1), came)):
            next(iter(MixedLoader(other, soft)))


class Epochs(RandomSampler):
    """Told its epoch, which its order follows from."""

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __iter__(self) -> Any:
        order = torch.Generator().manual_seed(self.epochs[-1])
        return iter(torch.randperm(len(self.data_source), generator=order).tolist())


def epochs(first: int, count: int) -> tuple[DataLoader, Epochs]:
    data = loader(first, count, 1).dataset
    sampler = Epochs(data)
    return DataLoader(data, batch_size=1, sampler=sampler), sampler


def test_samplers_are_told_the_epoch_each_in_its_own_round() -> None:
    real, sampler = epochs(0, 4)
    fake, other = epochs(100, 3)
    mixed = MixedLoader(real, fake)
    first, second = [shown(batch)[0] for batch in mixed], [shown(batch)[0] for batch in mixed]
    assert sampler.epochs == [0, 1]
    assert other.epochs == [0, 1, 2]
    assert sorted(first) == sorted(second) == [0, 1, 2, 3]
    assert first != second
    mixed.set_epoch(0)
    assert [shown(batch)[0] for batch in mixed] == first
    assert sampler.epochs == [0, 1, 0]


@pytest.mark.parametrize("stop", [0, 1, 3, 4, 6])
def test_a_saved_state_goes_on_with_what_would_have_come(stop: int) -> None:
    def fresh() -> MixedLoader:
        return MixedLoader(epochs(0, 4)[0], epochs(100, 3)[0])

    def take(mixed: MixedLoader, count: int) -> list[list[int]]:
        found: list[list[int]] = []
        while len(found) < count:
            for batch in mixed:
                found.append(shown(batch))
                if len(found) == count:
                    break
        return found

    whole = take(fresh(), 10)
    mixed = fresh()
    before = take(mixed, stop)
    state = mixed.state_dict()
    resumed = fresh()
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert before + take(resumed, 10 - stop) == whole


def test_workers_of_the_real_loader_change_nothing() -> None:
    plain = [shown(batch) for batch in MixedLoader(loader(0, 6, 2), loader(100, 6, 2))]
    assert [shown(batch) for batch in MixedLoader(loader(0, 6, 2, num_workers=1), loader(100, 6, 2))] == plain


class Empty(Dataset[Any]):
    def __len__(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: MixedLoader(DataLoader(Empty())),
            ValueError,
            "the loader of photographs must have at least one batch",
        ),
        (
            lambda: MixedLoader(loader(0, 2, 1), loader(0, 2, 3, drop_last=True)),
            ValueError,
            "loader 1 of generated images must have at least one batch, got none: with drop_last it needs a whole",
        ),
        (
            lambda: next(iter(MixedLoader(loader(0, 2, 1), iter([])))),
            ValueError,
            "loader 1 of generated images must have at least one batch",
        ),
        (
            lambda: next(iter(MixedLoader(loader(0, 2, 1), [(torch.zeros(1, 3, 4, 4), torch.zeros(1).long())]))),
            ValueError,
            r"loader 1 of generated images must have images like the photographs, torch.float32 \(3, 2, 2\), "
            r"got torch.float32 \(3, 4, 4\): give its dataset the transform of your photographs",
        ),
        (
            lambda: next(iter(MixedLoader(loader(0, 2, 1), [(torch.zeros(1, 3, 2, 2).byte(), torch.zeros(1).long())]))),
            ValueError,
            "got torch.uint8",
        ),
        (
            lambda: next(iter(MixedLoader(loader(0, 2, 1), [torch.zeros(1, 3, 2, 2)]))),
            TypeError,
            "loader 1 of generated images must yield pairs of images and labels, got Tensor",
        ),
        (
            lambda: next(iter(MixedLoader([(torch.zeros(1, 3, 2, 2), {"shape": torch.zeros(1)})]))),
            TypeError,
            r"the loader of photographs must yield labels \(B,\) with B = 1, got dict",
        ),
        (
            lambda: next(iter(MixedLoader(loader(0, 1, 1), [(torch.zeros(1, 3, 2, 2), {"hue": torch.zeros(1)})]))),
            TypeError,
            "loader 1 of generated images must have labels of the shape, got hue",
        ),
        (
            lambda: MixedLoader(loader(0, 1, 1)).load_state_dict(
                MixedLoader(loader(0, 1, 1), loader(0, 1, 1)).state_dict()
            ),
            ValueError,
            "state must be of 0 loaders of generated images, got 1",
        ),
        (
            lambda: MixedLoader(loader(0, 1, 1), loader(0, 1, 1).dataset),
            TypeError,
            r"loader 1 of generated images must be a loader, such as DataLoader\(dataset\), got a dataset",
        ),
        (lambda: MixedLoader(3), TypeError, "the loader of photographs must be a loader, .* got int"),  # type: ignore[arg-type]
        (lambda: MixedLoader(loader(0, 1, 1), device="tpu"), ValueError, "device must be cpu"),
    ],
)
def test_bad_input_is_named(make: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_an_iterator_which_is_read_once_does_not_make_empty_epochs() -> None:
    mixed = MixedLoader(iter(list(loader(0, 2, 1))), loader(0, 1, 1))
    assert len(list(mixed)) == 2
    with pytest.raises(ValueError, match="photographs must have batches in every epoch, got none in epoch 1"):
        list(mixed)


class Iterated(IterableDataset[Any]):
    """Three images that come one after the other, whose number nobody knows before."""

    def __iter__(self) -> Any:
        return iter([(torch.full((3, 2, 2), float(i)), i) for i in range(3)])


def test_loaders_that_do_not_know_their_length_work_as_any() -> None:
    mixed = MixedLoader(DataLoader(Iterated(), batch_size=2), DataLoader(Iterated(), batch_size=1))
    assert [shown(batch) for batch in mixed] == [[0, 1, 0], [2, 1]]
    assert mixed.state_dict()["epoch"] == 1
    assert [shown(batch) for batch in mixed] == [[0, 1, 2], [2, 0]]


def test_the_sampler_within_a_batch_sampler_is_told_the_epoch() -> None:
    data = loader(0, 4, 1).dataset
    sampler = Epochs(data)
    list(MixedLoader(DataLoader(data, batch_sampler=BatchSampler(sampler, 2, drop_last=False))))
    assert sampler.epochs == [0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_batches_made_ahead_on_a_side_stream_are_the_same() -> None:
    def shown_twice(device: str) -> list[list[int]]:
        mixed = MixedLoader(loader(0, 6, 2), loader(100, 5, 1), device=device)
        return [shown(batch) for _ in range(2) for batch in mixed]

    assert shown_twice("cuda") == shown_twice("cpu")
