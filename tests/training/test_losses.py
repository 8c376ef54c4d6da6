"""The papers' losses against cases worked by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from genaug import GenIntLoss, MultiHeadLoss
from genaug.training.losses import irm_penalty

LOGITS = torch.tensor([[0.0, 0.0], [0.0, math.log(3.0)], [math.log(3.0), 0.0]])
# of these labels the losses are log 2, log(4/3) and log 4
LABELS = torch.tensor([0, 1, 1])
HAND = (math.log(2), math.log(4 / 3), math.log(4))


def targets(*sources: int, **more: Any) -> dict[str, Any]:
    return {"labels": LABELS, "source": torch.tensor(sources), **more}


def test_equation_1_is_a_weighted_sum_of_means() -> None:
    loss = GenIntLoss((1.0, 0.5, 2.0))(LOGITS, targets(0, 1, 2))
    assert float(loss) == pytest.approx(HAND[0] + 0.5 * HAND[1] + 2 * HAND[2])
    loss = GenIntLoss((1.0, 0.5))(LOGITS, targets(0, 1, 1))
    assert float(loss) == pytest.approx(HAND[0] + 0.5 * (HAND[1] + HAND[2]) / 2)


def test_a_source_that_is_not_in_the_batch_is_nothing() -> None:
    assert float(GenIntLoss((1.0, 5.0, 2.0))(LOGITS, targets(0, 0, 2))) == pytest.approx(
        (HAND[0] + HAND[1]) / 2 + 2 * HAND[2]
    )


def test_a_tensor_of_probabilities_is_labels_of_real_images() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(4, 3, generator=draw), torch.rand(4, 3, generator=draw).softmax(dim=1)
    expected = F.cross_entropy(logits, labels)
    torch.testing.assert_close(GenIntLoss()(logits, labels), expected)
    torch.testing.assert_close(MultiHeadLoss()({"ensemble": logits}, labels), expected)


def test_weights_1_0_0_are_plain_training_to_the_last_bit() -> None:
    found = []
    for equation in (True, False):
        torch.manual_seed(0)
        model = torch.nn.Linear(5, 7)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        loss = GenIntLoss((1.0, 0.0, 0.0))
        for _ in range(20):
            inputs, labels = torch.randn(33, 5), torch.randint(7, (33,))
            source = torch.cat([torch.zeros(21), torch.ones(7), torch.full((5,), 2)]).long()
            batch: Any = {"labels": labels, "source": source}
            value = loss(model(inputs), batch) if equation else F.cross_entropy(model(inputs)[:21], labels[:21])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        found.append([parameter.detach() for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_images_of_weight_zero_have_no_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    GenIntLoss((1.0, 0.0))(logits, targets(0, 1, 1)).backward()
    assert logits.grad is not None
    assert logits.grad[0].any()
    assert not logits.grad[1:].any()


def test_an_infinite_loss_of_weight_zero_is_nothing() -> None:
    logits = LOGITS.clone()
    logits[2, 0] = torch.inf
    assert float(GenIntLoss((1.0, 0.0))(logits, targets(0, 0, 1))) == pytest.approx((HAND[0] + HAND[1]) / 2)


def test_soft_labels_and_smoothing_are_those_of_cross_entropy() -> None:
    soft = torch.tensor([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]])
    batch = {"labels": soft, "source": torch.zeros(3, dtype=torch.long)}
    assert torch.allclose(GenIntLoss()(LOGITS, batch), F.cross_entropy(LOGITS, soft))
    smoothed = GenIntLoss(label_smoothing=0.1)(LOGITS, targets(0, 0, 0))
    assert torch.allclose(smoothed, F.cross_entropy(LOGITS, LABELS, label_smoothing=0.1))


def test_plain_labels_are_of_real_images_and_heads_give_their_ensemble() -> None:
    plain = F.cross_entropy(LOGITS, LABELS)
    assert torch.allclose(GenIntLoss()(LOGITS, LABELS), plain)
    assert torch.allclose(GenIntLoss()({"shape": -LOGITS, "ensemble": LOGITS}, LABELS), plain)
    assert torch.allclose(MultiHeadLoss()({"shape": -LOGITS, "ensemble": LOGITS}, LABELS), plain)


def test_heads_learn_their_factors_and_the_ensemble_real_labels() -> None:
    outputs = {"shape": LOGITS, "texture": LOGITS.flip(1), "ensemble": 0.5 * LOGITS}
    heads = {"shape": torch.tensor([-100, 1, 1]), "texture": torch.tensor([-100, 0, 1])}
    loss = MultiHeadLoss()(outputs, targets(0, 1, 1, heads=heads))
    # ensemble on the real image: log 2; shape: log(4/3), log 4; texture, flipped: log(4/3), log(4/3)
    expected = HAND[0] + (HAND[1] + HAND[2]) / 2 + math.log(4 / 3)
    assert float(loss) == pytest.approx(expected)


def test_a_head_without_labels_in_the_batch_is_nothing_and_real_images_may_be_missing() -> None:
    outputs = {"shape": LOGITS, "texture": LOGITS, "ensemble": LOGITS}
    none = torch.full((3,), -100)
    heads = {"shape": LABELS, "texture": none}
    loss = MultiHeadLoss()(outputs, targets(1, 1, 1, heads=heads))
    assert float(loss) == pytest.approx(sum(HAND) / 3)
    ignored = {"labels": none, "source": torch.ones(3, dtype=torch.long), "heads": {"shape": none}}
    assert float(MultiHeadLoss()(outputs, ignored)) == 0


@pytest.mark.parametrize("soft", [False, True])
def test_no_source_of_generated_images_is_dropped_without_a_word(soft: bool) -> None:
    """A loader without labels by head, beside one that has them, would give no gradient to any head."""
    batch = targets(0, 1, 2, heads={"shape": torch.tensor([-100, 1, -100]), "texture": torch.tensor([-100, -100, 2])})
    outputs = {name: torch.zeros(3, 3) for name in ("shape", "texture", "ensemble")}
    if soft:
        batch["labels"] = F.one_hot(LABELS, 3).float()
    assert float(MultiHeadLoss()(outputs, batch)) == pytest.approx(3 * math.log(3))
    del batch["heads"]["texture"]
    with pytest.raises(ValueError, match="labels by head, got none for source 2: use"):
        MultiHeadLoss()(outputs, batch)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_loss_may_be_cast_with_its_model_or_made_under_another_default_type(dtype: torch.dtype) -> None:
    batch = targets(0, 1, 1)
    expected = GenIntLoss((1.0, 0.5))(LOGITS, batch)
    assert GenIntLoss((1.0, 0.5)).to(dtype)(LOGITS, batch) == expected
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        loss = GenIntLoss((1.0, 0.5), class_weight=(1, 1))
    finally:
        torch.set_default_dtype(before)
    assert loss(LOGITS, batch) == expected


def test_gradients_reach_each_head_from_its_own_images_alone() -> None:
    outputs = {name: LOGITS.clone().requires_grad_() for name in ("shape", "texture", "ensemble")}
    heads = {"shape": torch.tensor([-100, 1, 1]), "texture": torch.tensor([-100, 0, 1])}
    MultiHeadLoss()(outputs, targets(0, 1, 1, heads=heads)).backward()
    rows = {name: logits.grad.abs().sum(1) > 0 for name, logits in outputs.items() if logits.grad is not None}
    assert {name: found.tolist() for name, found in rows.items()} == {
        "shape": [False, True, True],
        "texture": [False, True, True],
        "ensemble": [True, False, False],
    }


def test_the_penalty_of_irm_is_the_squared_derivative_in_a_multiplier_of_the_logits() -> None:
    # of logits (0, log 3) p is (1/4, 3/4): the derivative is 3/4 log 3, less log 3 if that logit is the label's
    log3 = math.log(3)
    assert float(irm_penalty(LOGITS[1:2], torch.tensor([1]))) == pytest.approx((0.25 * log3) ** 2)
    assert float(irm_penalty(LOGITS[1:2], torch.tensor([0]))) == pytest.approx((0.75 * log3) ** 2)
    # over the batch the derivatives are 0, -1/4 log 3 and 3/4 log 3: their mean is squared, not they
    assert float(irm_penalty(LOGITS, LABELS)) == pytest.approx((0.5 / 3 * log3) ** 2)
    many, classes = torch.linspace(-3, 4, 60, dtype=torch.float64).view(12, 5), torch.arange(12) % 5
    multiplier = torch.ones((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(F.cross_entropy(multiplier * many, classes), multiplier)
    assert float(irm_penalty(many, classes)) == pytest.approx(float(slope) ** 2)


def test_the_unbiased_penalty_is_the_product_of_two_halves_derivatives() -> None:
    # the derivatives of its images are 0, -1/4 log 3 and 3/4 log 3: (0 + 3/4) / 2 times -1/4
    log3 = math.log(3)
    assert float(irm_penalty(LOGITS, LABELS, unbiased=True)) == pytest.approx(0.375 * -0.25 * log3**2)


def test_over_batches_the_unbiased_penalty_has_the_environments_mean() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.tensor([0.0, math.log(3)], dtype=torch.float64).expand(40_000, 2)
    labels = (torch.rand(40_000, generator=draw) < 0.75).long()  # calibrated: of all, the penalty is next to nothing
    pairs = [(logits[start : start + 4], labels[start : start + 4]) for start in range(0, 40_000, 4)]
    biased, unbiased = (
        torch.stack([irm_penalty(*pair, unbiased=way) for pair in pairs]).mean() for way in (False, True)
    )
    assert abs(float(unbiased)) < 0.003 < 0.05 < float(biased)


def test_one_logit_of_two_classes_has_the_penalty_of_binary_cross_entropy() -> None:
    log3 = math.log(3)
    assert float(irm_penalty(torch.tensor([log3]), torch.tensor([1]))) == pytest.approx((0.25 * log3) ** 2)
    one, labels = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64), torch.tensor([0, 1, 1])
    multiplier = torch.ones((), dtype=torch.float64, requires_grad=True)
    loss = F.binary_cross_entropy_with_logits(multiplier * one, labels.double())
    (slope,) = torch.autograd.grad(loss, multiplier)
    assert float(irm_penalty(one, labels)) == pytest.approx(float(slope) ** 2)


def test_the_penalty_of_irm_is_nothing_where_confidence_is_calibrated_and_it_has_a_gradient() -> None:
    # three of four labels are class 1, of which the logits say so: no multiplier would do better
    calibrated = LOGITS[1:2].repeat(4, 1)
    labels = torch.tensor([1, 1, 0, 1])
    assert float(irm_penalty(calibrated, labels)) == pytest.approx(0, abs=1e-12)
    confident = (2 * calibrated).requires_grad_()
    irm_penalty(confident, labels).backward()
    assert confident.grad is not None
    assert (confident.grad[:, 1] > 0).all()  # less of it would be better


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: GenIntLoss((1.0, -0.1)), ValueError, "weights must be at least 0 and finite, got -0.1"),
        (lambda: GenIntLoss(()), ValueError, "weights must have at least one, of the real images, got none"),
        (lambda: GenIntLoss(("x",)), TypeError, "weights must be a number"),  # type: ignore[arg-type]
        (lambda: GenIntLoss(0.05), TypeError, r"such as \(1.0, 0.05\), got 0.05"),  # type: ignore[arg-type]
        (
            lambda: MultiHeadLoss()({"ensemble": LOGITS, "shape": LOGITS}, targets(0, 1, 1)),
            ValueError,
            'must have labels by head, got none for source 1: use targets="all" for its dataset',
        ),
        (lambda: GenIntLoss(label_smoothing=2), ValueError, r"label_smoothing must be in \[0, 1\], got 2"),
        (lambda: MultiHeadLoss(label_smoothing=-1), ValueError, r"label_smoothing must be in \[0, 1\], got -1"),
        (
            lambda: GenIntLoss((1.0,))(LOGITS, targets(0, 1, 1)),
            ValueError,
            "weights must have one entry for each source, 0 to 1, got 1",
        ),
        (lambda: GenIntLoss((1.0,))(LOGITS, LABELS + 1), ValueError, "must be of the 2 classes of the logits, got 2"),
        (lambda: GenIntLoss((1.0,))(LOGITS, LABELS - 1), ValueError, "must be of the 2 classes of the logits, got -1"),
        (lambda: GenIntLoss()(LOGITS, LABELS[:2]), ValueError, r"got \(3, 2\), \(2,\) and \(2,\)"),
        (lambda: irm_penalty(LOGITS, LABELS[:2]), ValueError, r"got \(3, 2\) and \(2,\)"),
        (lambda: irm_penalty(LOGITS[:1], LABELS[:1], unbiased=True), ValueError, "B at least 2, got"),
        (lambda: irm_penalty(LOGITS[:0], LABELS[:0]), ValueError, r"B at least 1, got \(0, 2\) and \(0,\)"),
        (lambda: MultiHeadLoss()(LOGITS, LABELS), TypeError, r"with an 'ensemble'.* got Tensor"),
        (lambda: MultiHeadLoss()({"shape": LOGITS}, LABELS), TypeError, "got a mapping of shape"),
        (
            lambda: MultiHeadLoss()({"ensemble": LOGITS}, targets(1, 1, 1, heads={"hue": LABELS})),
            ValueError,
            "outputs must have each head of the targets, but lack 'hue'",
        ),
    ],
)
def test_bad_input_is_named(make: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_ignored_labels_do_not_count_as_in_cross_entropy() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([1, -100, 2, -100, 0, 3])
    expected = F.cross_entropy(logits, labels, ignore_index=-100)
    assert GenIntLoss()(logits, labels).item() == pytest.approx(expected.item())
    assert MultiHeadLoss()({"ensemble": logits}, labels).item() == pytest.approx(expected.item())
    assert GenIntLoss()(logits, torch.full((6,), -100)) == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_are_those_of_cross_entropy_for_each_source(smoothing: float) -> None:
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    labels, source = torch.tensor([0, 1, 2, -100, 1, 2, 0, 0]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    weight = torch.tensor([1.0, 5.0, 0.5])
    parts = [
        F.cross_entropy(logits[source == i], labels[source == i], weight, label_smoothing=smoothing) for i in range(2)
    ]
    loss = GenIntLoss((1.0, 0.2), label_smoothing=smoothing, class_weight=weight)
    found = loss(logits, {"labels": labels, "source": source})
    assert found.item() == pytest.approx((parts[0] + 0.2 * parts[1]).item())
    with pytest.raises(ValueError, match="class_weight must have one for each of 3 classes, got 2"):
        GenIntLoss(class_weight=[1, 2])(logits, labels)


def test_the_loss_compiles_as_one_graph() -> None:
    # what a graph is broken by is found where it is traced; no compiler is needed for that
    loss = torch.compile(GenIntLoss((1.0, 0.1)), fullgraph=True, backend="eager")
    logits, labels = torch.zeros(3, 4), torch.tensor([0, 1, 2])
    targets = {"labels": labels, "source": torch.tensor([0, 0, 1])}
    assert loss(logits, targets).item() == pytest.approx(GenIntLoss((1.0, 0.1))(logits, targets).item())


def test_an_infinite_loss_of_a_class_without_weight_is_nothing() -> None:
    logits = torch.tensor([[0.0, 0.0], [torch.inf, 0.0]])
    loss = GenIntLoss((1.0, 1.0), class_weight=[1, 0])
    assert loss(logits, {"labels": torch.tensor([0, 1]), "source": torch.tensor([0, 1])}).item() == pytest.approx(
        math.log(2)
    )


def test_labels_may_be_a_column_and_an_empty_batch_is_nothing() -> None:
    column = {"labels": LABELS[:, None], "source": torch.zeros(3, dtype=torch.long)}
    assert GenIntLoss()(LOGITS, column).item() == pytest.approx(sum(HAND) / 3)
    nothing = {"labels": LABELS[:0], "source": LABELS[:0]}
    assert GenIntLoss()(LOGITS[:0], nothing) == 0
    assert MultiHeadLoss()({"ensemble": LOGITS[:0]}, nothing) == 0
    # as many classes as images: integers of that shape are no probabilities
    with pytest.raises(ValueError, match=r"got \(2, 2\), \(2, 2\) and \(2,\)"):
        GenIntLoss()(LOGITS[:2], {"labels": torch.eye(2).long(), "source": LABELS[:2] * 0})
    with pytest.raises(ValueError, match=r"got \(3, 2\), \(3,\) and \(2,\)"):
        GenIntLoss()(LOGITS, {"labels": LABELS, "source": LABELS[:2]})
    with pytest.raises(ValueError, match=r"got \(3, 2\), \(3, 3\) and \(3,\)"):
        GenIntLoss()(LOGITS, {"labels": torch.rand(3, 3), "source": LABELS * 0})


def test_every_class_may_be_a_label_of_a_head_and_no_other() -> None:
    heads = {"shape": torch.tensor([0, 1, 2])}
    outputs = {"ensemble": LOGITS, "shape": LOGITS}
    with pytest.raises(ValueError, match="must be of the 2 classes of the logits, got 2"):
        MultiHeadLoss()(outputs, targets(0, 1, 1, heads=heads))


def test_smoothing_reaches_the_ensemble_and_every_head_and_is_told() -> None:
    outputs = {"ensemble": LOGITS, "shape": 2 * LOGITS}
    batch = targets(0, 0, 1, heads={"shape": torch.tensor([-100, -100, 1])})
    expected = F.cross_entropy(LOGITS[:2], LABELS[:2], label_smoothing=0.2) + F.cross_entropy(
        2 * LOGITS[2:], LABELS[2:], label_smoothing=0.2
    )
    assert MultiHeadLoss(label_smoothing=0.2)(outputs, batch).item() == pytest.approx(expected.item())
    assert repr(MultiHeadLoss(label_smoothing=0.2)) == "MultiHeadLoss(label_smoothing=0.2)"
    assert (repr(MultiHeadLoss()), repr(GenIntLoss((1, 2)))) == ("MultiHeadLoss()", "GenIntLoss(weights=(1.0, 2.0))")
    assert repr(GenIntLoss((1,), label_smoothing=1)) == "GenIntLoss(weights=(1.0,), label_smoothing=1.0)"
    assert GenIntLoss(label_smoothing=1).state_dict() == GenIntLoss(class_weight=[1, 2]).state_dict() == {}


def test_probabilities_of_generated_images_do_not_count_as_real() -> None:
    soft = torch.tensor([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]])
    batch = {"labels": soft, "source": torch.tensor([0, 0, 1]), "heads": {"shape": torch.tensor([-100, -100, 0])}}
    outputs = {"ensemble": LOGITS, "shape": torch.zeros(3, 2)}
    expected = F.cross_entropy(LOGITS[:2], soft[:2]) + math.log(2)
    assert MultiHeadLoss()(outputs, batch).item() == pytest.approx(expected.item())


def test_defaults_weigh_three_sources_equally_and_smooth_nothing() -> None:
    assert GenIntLoss().weights == (1.0, 1.0, 1.0)
    assert GenIntLoss().label_smoothing == MultiHeadLoss().label_smoothing == 0
    assert float(irm_penalty(LOGITS, LABELS)) == float(irm_penalty(LOGITS, LABELS, unbiased=False))
    for wrong in (torch.zeros(3, 2, 1), torch.zeros(())):
        with pytest.raises(ValueError, match=r"logits must be \(B, num_classes\) or \(B,\)"):
            irm_penalty(wrong, LABELS)
    assert float(irm_penalty(LOGITS[:2], LABELS[:2], unbiased=True)) == 0  # two images are enough


def test_losses_lie_where_the_logits_do() -> None:
    where = {name: value.to("meta") for name, value in targets(0, 1, 1).items()}
    loss = GenIntLoss((1.0, 0.5), class_weight=[1, 2]).to("meta")
    assert loss(LOGITS.to("meta"), where).device.type == "meta"
    assert irm_penalty(LOGITS.to("meta"), LABELS.to("meta"), unbiased=True).device.type == "meta"
