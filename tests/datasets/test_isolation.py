"""Sample i is a function of (seed, i): not of the caller's modes, default types, threads, or the batch."""

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from contract import Conditional
from torch import nn

from genaug import (
    ColoredMNIST,
    CounterfactualDataset,
    DoubleColoredMNIST,
    GenerativeInterventionDataset,
    fit_directions,
)
from genaug.generators.images import to_uint8
from genaug.interventions.steering import isolated


class Parts(nn.Module):
    """A simple counterfactual generator of one's own: sizes must be equal, and its output depends on its mode."""

    z_dim, num_classes, image_size = 4, 3, 8

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(15, 64), nn.BatchNorm1d(64), nn.Linear(64, 7 * 64))

    def mechanisms(self, z, labels, truncation):
        shares = [nn.functional.one_hot(label, 3).to(z[0].dtype) for label in labels]
        # one network for the three: it is given their noise side by side
        joined = torch.cat([*z, shares[0]], dim=1)
        out = self.net(joined).unflatten(1, (7, 8, 8))
        return out[:, :1].sigmoid(), out[:, 1:4].tanh(), out[:, 4:].tanh()


def counterfactual(generator=None, **options):
    return CounterfactualDataset(generator or Parts(), **{"length": 48, **options})


def generative(generator=None, **options):
    return GenerativeInterventionDataset(generator or Conditional(), **{"length": 48, "components": 6, **options})


MADE = {
    "counterfactual": counterfactual,
    "pool": lambda generator=None, **options: counterfactual(generator, pool=8, **options),
    "latent": generative,
    "activation": lambda generator=None, **options: generative(generator, mode="activation", **options),
}


@pytest.fixture(params=MADE)
def make(request):
    return MADE[request.param]


def test_the_callers_autocast_changes_no_sample(make):
    expected = make().images(range(48))
    with torch.autocast("cpu", torch.bfloat16):
        data = make()
        assert torch.equal(data.images(range(48)), expected)
    assert torch.equal(data.images(range(48)), expected)  # nor what a pool holds


def test_the_default_type_changes_no_sample(make):
    expected = make()
    try:
        torch.set_default_dtype(torch.float16)
        data = make(generator=expected.generator)
        assert torch.equal(data.images(range(48)), expected.images(range(48)))
        assert torch.get_default_dtype() == torch.float16
    finally:
        torch.set_default_dtype(torch.float32)


class Noting(Parts):
    """Notes the modes that its images are made in."""

    def __init__(self):
        super().__init__()
        self.modes = set()

    def mechanisms(self, z, labels, truncation):
        self.modes.add((torch.get_float32_matmul_precision(), torch.get_default_dtype()))
        return super().mechanisms(z, labels, truncation)


def test_the_precision_of_products_is_not_the_callers():
    # "medium" computes products in bfloat16 where a CPU has instructions for it, and on GPUs
    data = counterfactual(Noting())
    torch.set_float32_matmul_precision("medium")
    try:
        data.images(range(8))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert data.generator.modes == {("highest", torch.float32)}


def test_a_thread_that_leaves_does_not_change_the_defaults_of_another():
    inside, left = threading.Event(), threading.Event()
    found = []

    def stay():
        with isolated():
            inside.set()
            left.wait(10)
            found.append(torch.get_default_dtype())

    torch.set_default_dtype(torch.float64)
    try:
        thread = threading.Thread(target=stay)
        with isolated():
            thread.start()
            inside.wait(10)
        left.set()
        thread.join()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == [torch.float32]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forking a process with threads
def test_a_process_that_is_forked_meanwhile_has_the_callers_defaults():
    def types_in_a_child():
        child = os.fork()
        if not child:
            before = torch.get_default_dtype()
            with isolated():
                within = torch.get_default_dtype()
            os._exit(0 if (before, within) == (torch.float64, torch.float32) else 1)
        codes.append(os.waitpid(child, 0)[1])

    codes = []
    torch.set_default_dtype(torch.float64)
    try:
        with isolated():  # in this thread, while another one forks
            thread = threading.Thread(target=types_in_a_child)
            thread.start()
            thread.join()
    finally:
        torch.set_default_dtype(torch.float32)
    assert codes == [0]


def test_redraws_that_factors_ask_for_do_not_see_the_callers_autocast():
    seen = set()

    def classifier(images):
        seen.add(torch.is_autocast_enabled("cpu"))
        return torch.zeros(len(images), 10)

    data = generative(recognized_by=classifier, draws=2)
    with torch.autocast("cpu", torch.bfloat16):
        data.factors(range(8))
    assert seen == {False}


class Interrupted:
    """A pool's store that is interrupted at its first write."""

    def __init__(self, store):
        self.store, self.first = store, True

    def __setitem__(self, places, made):
        if self.first:
            self.first = False
            raise KeyboardInterrupt
        self.store[places] = made

    def __getitem__(self, places):
        return self.store[places]


def test_an_entry_of_a_pool_is_not_half_another_after_an_interruption():
    data, expected = (counterfactual(pool=4, refresh=1.0, length=6400) for _ in range(2))
    data.images(range(16))
    *stores, backgrounds = data._held._banks
    data._held._banks = (*stores, Interrupted(backgrounds))
    with pytest.raises(KeyboardInterrupt):
        data.images(range(64, 80))  # masks and textures of new entries are there, their backgrounds are not
    assert torch.equal(data.images(range(16)), expected.images(range(16)))


def test_a_dataset_first_used_in_inference_mode_works_outside_of_it(make):
    expected = make().images(range(48))
    with torch.inference_mode():
        data = make()
        data.images(range(24))
    images = data.images(range(48))
    assert torch.equal(images, expected)
    assert not images.is_inference()


def test_the_default_device_is_not_the_datasets(make):
    expected = make()
    with torch.device("meta"):
        data = make(generator=expected.generator)
        assert torch.equal(data.images(range(48)), expected.images(range(48)))
        json.dumps(data.describe(3))
        data.labels([3])


def test_simple_modules_are_given_batches_of_one_size():
    data = counterfactual(counterfactuals_per_noise=10)
    whole = data.images(range(48))
    assert torch.equal(torch.cat([data.images(piece) for piece in torch.arange(48).split(7)]), whole)


def test_threads_share_a_module_and_a_pool(make):
    data = make()
    data.generator.train()
    before = {name: value.clone() for name, value in data.generator.state_dict().items()}
    expected, failed = data.images(range(48)), []

    def work(first):
        for step in range(6):
            indices = [(first + 8 * step + i) % 48 for i in range(8)]
            if not torch.equal(data.images(indices), expected[indices]):
                failed.append(indices)

    threads = [threading.Thread(target=work, args=(12 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert data.generator.training
    assert all(torch.equal(before[name], value) for name, value in data.generator.state_dict().items())


def test_threads_share_a_pool_that_is_renewed():
    data = counterfactual(length=6400, pool=16, refresh=1.0)
    places = [torch.arange(64 * k, 64 * k + 16) for k in range(12)]
    expected = [data.images(place) for place in places]
    failed = []

    def work(start):
        for k in range(start, start + 12):
            if not torch.equal(data.images(places[k % 12]), expected[k % 12]):
                failed.append(k)

    threads = [threading.Thread(target=work, args=(3 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_numpys_numbers_are_described_as_json():
    number = np.int64
    data = counterfactual(seed=number(3), counterfactuals_per_noise=number(2), pool=number(6), refresh=np.float32(0.5))
    json.dumps(data.describe(number(5)))
    data = generative(seed=number(3), components=number(4), interventions_per_noise=number(2), scale=np.float32(2))
    json.dumps(data.describe(number(5)))


def test_an_overflow_is_an_error_that_names_the_sample():
    data = generative(scale=1e308)
    with pytest.raises(ValueError, match=r"images must be finite, got NaN or infinity in sample 5, .*'scale': 1e\+308"):
        data[5]


class Broken(Parts):
    """One part is changed."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def mechanisms(self, z, labels, truncation):
        return self.change(*super().mechanisms(z, labels, truncation))


@pytest.mark.parametrize("pool", [None, 8])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m, t, b: (3 * m, t, b), ValueError, r"masks of Broken must lie in \[0, 1\], got .* to [12]\."),
        (lambda m, t, b: (m, 255 * t.abs(), b), ValueError, r"textures of Broken must lie in \[-1, 1\], got .* to 2"),
        (
            lambda m, t, b: (m, t[:, :1], b),
            ValueError,
            r"textures of Broken must be \(8, 3, 8, 8\), got \(8, 1, 8, 8\)",
        ),
        (lambda m, t, b: (m, t, b[..., :4]), ValueError, r"backgrounds of Broken must be \(8, 3, 8, 8\), got"),
        (lambda m, t, b: (m, to_uint8(t), b), TypeError, "textures of Broken must be floats, got torch.uint8"),
        (lambda m, t, b: (m, t), ValueError, "mechanisms of Broken must return 3 parts, got 2"),
        (lambda m, t, b: (m, t / 0, b), ValueError, "images must be finite|textures of Broken must lie"),
        (lambda m, t, b: (m, t, b * torch.nan), ValueError, "images must be finite, got NaN"),
    ],
)
def test_parts_outside_of_the_contract_are_named(change, error, message, pool):
    with pytest.raises(error, match=message):
        CounterfactualDataset(Broken(change), length=8, counterfactuals_per_noise=1, pool=pool).images(range(8))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x: 255 * x, ValueError, r"images of Broken must lie in \[-1, 1\]"),
        (lambda x: x[:, :1], ValueError, r"images of Broken must be \(8, 3, 32, 32\), got \(8, 1, 32, 32\)"),
        (lambda x: x[..., :16], ValueError, "images of Broken must be"),
        (to_uint8, TypeError, "images of Broken must be floats"),
        (lambda x: [x], TypeError, "images of Broken must be floats, got"),
    ],
)
def test_images_outside_of_the_contract_are_named(change, error, message):
    class Broken(Conditional):
        def forward(self, z, labels, truncation=1.0):
            return change(super().forward(z, labels, truncation))

    with pytest.raises(error, match=message):
        GenerativeInterventionDataset(Broken(), length=8, components=4).images(range(8))


@pytest.mark.parametrize("dataset", [CounterfactualDataset, GenerativeInterventionDataset])
def test_a_generator_without_the_argument_truncation_is_refused_at_once(dataset):
    class Two(Parts):
        def forward(self, z, labels):
            raise AssertionError

        def mechanisms(self, z, labels):
            raise AssertionError

    with pytest.raises(TypeError, match=r"must take \(z, labels, truncation\), but that of Two takes \(z, labels\)"):
        dataset(Two())


class Twice(Conditional):
    """A layer that runs twice in a forward pass."""

    def forward(self, z, labels, truncation=1.0):
        self.gen_z(torch.cat([z, self.embedding(labels)], dim=1))
        return super().forward(z, labels, truncation)


@pytest.mark.parametrize("samples", [None, 64])
def test_a_layer_that_runs_twice_is_refused(samples):
    with pytest.raises(ValueError, match=r"layer 'gen_z' must run once for each image"):
        fit_directions(Twice(), components=4, samples=samples)


@pytest.mark.parametrize("mode", ["latent", "activation"])
def test_a_dataset_of_a_layer_that_runs_twice_is_refused(mode):
    directions = fit_directions(Conditional(), components=6)
    with pytest.raises(ValueError, match=r"layer 'gen_z' must run once for each image"):
        GenerativeInterventionDataset(Twice(), components=6, mode=mode, directions=directions)


def test_exact_directions_of_a_wide_layer_say_what_they_need():
    class Wide(nn.Module):
        z_dim, num_classes, image_size = 4096, 2, 32

        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(4, 320, 3, padding=1)

        def forward(self, z, labels, truncation):
            return self.first(z.unflatten(1, (4, 32, 32)))[:, :3].tanh()

    with pytest.raises(ValueError, match=r"'first' has 327680 entries .* need 16\.1 GB\. Give samples="):
        fit_directions(Wide(), "first", components=4)


@pytest.mark.skipif(not hasattr(torch.backends.mkldnn, "matmul"), reason="torch has one setting of precision here")
def test_torchs_newer_names_of_precision_are_kept():
    code = """
import torch
from genaug import CounterfactualDataset

torch.backends.cuda.matmul.fp32_precision = "tf32"
first = CounterfactualDataset("cgn-digits", length=4)[0][0]
assert torch.backends.cuda.matmul.fp32_precision == "tf32"
"""
    subprocess.run([sys.executable, "-c", code], check=True)  # a process of its own: torch does not let it be undone


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_moved_must_be_finite(value):
    data = GenerativeInterventionDataset("vae-digits", length=4, components=2)
    with pytest.raises(ValueError, match="images must be finite"):
        data.moved(0, {0: value})


@pytest.mark.parametrize("dataset", [ColoredMNIST, DoubleColoredMNIST])
def test_biased_digits_are_not_of_the_callers_defaults(dataset):
    expected = dataset(digits="sklearn", train=False).images(range(6))
    for dtype in (torch.float16, torch.float64):
        try:
            torch.set_default_dtype(dtype)
            assert torch.equal(dataset(digits="sklearn", train=False).images(range(6)), expected)
        finally:
            torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        image, _ = dataset(digits="sklearn", train=False)[2]
    assert torch.equal(image, expected[2])


def test_a_sample_is_on_the_datasets_device(make):
    data = make()
    with torch.device("meta"):
        image = data[1][0]
    assert torch.equal(image, data[1][0])
