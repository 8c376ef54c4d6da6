"""The one table of assets: what each is, where it comes from, and how to know that a file is the right one.

Reading this module opens no file and no connection. A new asset is one row.
"""

from __future__ import annotations

from dataclasses import dataclass


class AssetError(RuntimeError):
    """An asset that cannot be had or is not what it should be; the message says which, where it was sought, and why."""


@dataclass(frozen=True)
class Asset:
    """One row of the table.

    Attributes:
        name: what users call it.
        file: the file's name where it is kept.
        kind: which network the weights are for; a key of `genaug.assets.layouts.LAYOUTS`.
        sha256: of the file, in hexadecimal.
        size: of the file, in bytes.
        licence: SPDX identifier of the weights' licence.
        what: one line for a reader who chooses.
        paper: where the method is described.
        source: how the weights came about: a command of this project, or whose release.
        figures: what they measured, with the number of runs.
        repository: the Hub repository, or None for weights that ship with the package.
        revision: the pinned commit of that repository.
    """

    name: str
    file: str
    kind: str
    sha256: str
    size: int
    licence: str
    what: str
    paper: str
    source: str
    figures: str
    repository: str | None = None
    revision: str | None = None


_CGN = "Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021, section 4.1"

_ROWS = (
    Asset(
        name="cgn-colored-mnist",
        file="cgn-colored-mnist.safetensors",
        kind="cgn-mnist",
        sha256="7b6cd416b467b82a7d9da19cb9c3b23970928d3b3c8374f0abebf5f0a2b66fcd",
        size=1_351_728,
        licence="MIT",
        what="counterfactual digits: coloured digits on black",
        paper=_CGN,
        source="genaug train cgn-mnist --variant colored",
        figures="CGN, Table 2, 100,000 counterfactuals alone: test accuracy 93.8% (n=1, bfloat16, cpu)",
    ),
    Asset(
        name="cgn-double-colored-mnist",
        file="cgn-double-colored-mnist.safetensors",
        kind="cgn-mnist",
        sha256="a04e25bb39a23825db64026fbc2cc535ed35503a833fa6c586a0372e864e6e46",
        size=1_351_632,
        licence="MIT",
        what="counterfactual digits: coloured digits on coloured backgrounds",
        paper=_CGN,
        source="genaug train cgn-mnist --variant double-colored",
        figures="CGN, Table 2, 100,000 counterfactuals alone: test accuracy 85.1% (n=1, bfloat16, cpu)",
    ),
    Asset(
        name="cgn-wildlife-mnist",
        file="cgn-wildlife-mnist.safetensors",
        kind="cgn-mnist",
        sha256="b60b25335ce2cbbae5752a0c5dda5fb2cf660cba780caad819bf851c55fdda11",
        size=1_351_624,
        licence="MIT",
        what="counterfactual digits: striped digits on veined backgrounds",
        paper=_CGN,
        source="genaug train cgn-mnist --variant wildlife",
        figures="CGN, Table 2, 100,000 counterfactuals alone: test accuracy 85.1% (n=1, bfloat16, cpu)",
    ),
    Asset(
        name="cgn-digits",
        file="cgn-digits.safetensors",
        kind="cgn-mnist",
        sha256="3cb95b86aab37c22b279ba22fbdf497bb689bb7852d90c7b2d0e5bdb60ef7d87",
        size=1_351_648,
        licence="MIT",
        what="counterfactual digits of the demo, learnt from its own biased scikit-learn digits",
        paper=_CGN,
        source="genaug train cgn-mnist --variant digits",
        figures="not run",
    ),
)

ASSETS = {row.name: row for row in _ROWS}
