from __future__ import annotations

import pytest

from genaug.datasets.colored_mnist import DoubleColoredMNIST


@pytest.fixture(scope="session")
def digits() -> DoubleColoredMNIST:
    """1,287 of scikit-learn's, wholly biased."""
    return DoubleColoredMNIST(None, digits="sklearn")
