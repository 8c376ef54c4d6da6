"""The tables of kinds and assets: what each is, where it comes from, and how to verify its files.

A kind of network is one file: its module, and one call of `register`. The tables fill at first use. Looking up assets
imports no network.
"""

from __future__ import annotations

import importlib
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from genaug.assets.trust import Trust, grade

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# The modules that register kinds. They are named, not imported: they belong to
# later rooms. Other packages name theirs as entry points of the group GROUP.
HOMES = (
    "genaug.generators.cgn_mnist",
    "genaug.generators.digits_vae",
    "genaug.generators.biggan",
    "genaug.generators.cgn",
    "genaug.generators.diffusion",
    "genaug.generators.u2net",
    "genaug.transforms.vgg",
    "genaug.assets.directions",
    "genaug.photographs.bank",
)
GROUP = "genaug.kinds"

Shapes = dict[str, tuple[int, ...]]


class AssetError(RuntimeError):
    """Error for an asset that is not available or not valid.

    The message names the asset, the places searched, and the reason.
    """


class UnavailableAssetError(AssetError):
    """Error for an unavailable asset without the caller's fault: a network failure, or a damaged file of genaug."""


# where the project publishes its own weights: the owner of the repositories that `publish` is given without one
NAMESPACE = os.environ.get("GENAUG_NAMESPACE", "genaug")


@dataclass(frozen=True)
class File:
    """One file of an asset.

    Attributes:
        name: its path in the repository, or its name.
        sha256: in hexadecimal; fewer than 64 digits where its publisher names no more; None if not known.
        size: in bytes; None if not known.
        url: where it is if it is not in the asset's repository.
    """

    name: str
    sha256: str | None = None
    size: int | None = None
    url: str | None = None


@dataclass(frozen=True)
class Source:
    """A downloaded file and its source.

    Attributes:
        file: its name.
        url: where it came from.
        sha256: in hexadecimal.
        size: in bytes.
        commit: of the Hub repository; None for files from elsewhere.
    """

    file: str
    url: str
    sha256: str
    size: int
    commit: str | None = None


@dataclass(frozen=True)
class Asset:
    """One row of the table of assets.

    Attributes:
        name: what users call it.
        file: the name of the file with the weights.
        sha256: of the file, in hexadecimal; fewer than 64 digits where its publisher names no more; None if not known.
        size: of the file, in bytes; None if not known.
        licence: SPDX identifier of the weights' licence, or "unknown".
        what: one line for a reader who chooses.
        paper: where the method is described.
        source: how the weights came about: a command of this project, or whose release.
        figures: what they measured here, with the number of runs, or "not run".
        repository: the Hub repository; None for weights that ship with the package or are not on the Hub.
        revision: the pinned commit of that repository; None if not known.
        url: the file where it is not on the Hub.
        embedded: whether it ships with the package.
        others: further files, of the same repository or with URLs of their own: a configuration (`.json`), or the
            other parts of weights that are stored in several files.
        config: which of its kind's released configurations it has.
        kind: the name of its kind; `register` fills it in for those of a `Kind`.
    """

    name: str
    file: str
    sha256: str | None
    size: int | None
    licence: str
    what: str
    paper: str
    source: str
    figures: str
    repository: str | None = None
    revision: str | None = None
    url: str | None = None
    embedded: bool = False
    others: tuple[File, ...] = ()
    config: Any = None
    kind: str = ""

    @property
    def files(self) -> tuple[File, ...]:
        """Return every file, starting with the one in `file`."""
        return File(self.file, self.sha256, self.size, self.url), *self.others

    @property
    def home(self) -> str | None:
        """Return the web address of the file, or None if it is not known."""
        if self.repository is None:
            return self.url
        page = f"https://huggingface.co/{self.repository}"
        return page if self.revision is None else f"{page}/resolve/{self.revision}/{self.file}"

    @property
    def commit(self) -> str | None:
        """Return the pinned commit of the Hub repository, or None."""
        return self.revision if self.repository and re.fullmatch("[0-9a-f]{40}", self.revision or "") else None

    @property
    def trust(self) -> Trust:
        """Return the trust level, see `assets.trust`."""
        return grade([file.sha256 for file in self.files], self.commit)


@dataclass(frozen=True, eq=False)
class Kind:
    """Everything that genaug needs to find, check, convert and build the weights of a kind of network.

    Attributes:
        name: what the files' metadata call it.
        build: the trainable module of a configuration, which is a dict, empty for kinds without one. The names and
            shapes of its state dict are the layout of the kind's files. Called on the "meta" device.
        assets: the weights that have names, of other packages; this package's own are in `genaug.assets.named_weights`.
        generates: whether it makes images of noise and labels, so that `load_generator` opens it. If the module has
            `fast(device, dtype)`, `load_generator` returns what that returns.
        configs: the configurations of the released networks, by their image size: a checkpoint without a configuration
            is told by the names of its tensors.
        complaint: what is wrong with a configuration, or None; a function for kinds that have configurations.
        surplus: how names begin that a published checkpoint may have and nothing depends on.
        layout: the shapes of a file's tensors, for kinds without a module, whose shapes follow from one another.
        marker: for generators that are folders: the file that tells a folder of this kind, such as "bank.json".
        open: for those: the generator of a folder.
        parts: for those: patterns of the files to download from a Hub repository that has the marker. Without
            patterns, the name of such a repository is refused.
        example: Python lines for a model card, with {file} for the name of the weights.
    """

    name: str
    build: Callable[[dict[str, Any]], nn.Module] | None = None
    assets: tuple[Asset, ...] = ()
    generates: bool = False
    configs: Mapping[Any, dict[str, Any]] = field(default_factory=dict)
    complaint: Callable[[Any], str | None] | None = None
    surplus: tuple[str, ...] = ()
    layout: Callable[[Mapping[str, Tensor]], Shapes] | None = None
    marker: str | None = None
    open: Callable[[Path, torch.device | str | None, torch.dtype | None], nn.Module] | None = None
    parts: tuple[str, ...] = ()
    example: str = field(default="", repr=False)


Row = TypeVar("Row")


class _Table(MutableMapping[str, Row]):
    """A dict, sorted by name, that loads the registered rows at its first use."""

    def __init__(self, load: Callable[[], None]) -> None:
        self.rows: dict[str, Row] = {}
        self._load = load

    def __getitem__(self, name: str) -> Row:
        self._load()
        return self.rows[name]

    def __setitem__(self, name: str, row: Row) -> None:
        self._load()
        self.rows[name] = row

    def __delitem__(self, name: str) -> None:
        self._load()
        del self.rows[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self.rows))  # whichever module was imported first

    def __len__(self) -> int:
        self._load()
        return len(self.rows)


_lock = threading.RLock()


def _once(load: Callable[[], None]) -> Callable[[], None]:
    """Let a function run once; other threads wait for it."""
    loading, begun, done = threading.RLock(), False, False

    def run() -> None:
        nonlocal begun, done
        if done:
            return
        with loading:  # not the lock of `register`, which a thread that imports one of the homes waits for
            if not begun:
                begun = True  # before the call: a module may look into the tables while it registers
                load()
                done = True

    return run


@_once
def _load_rows() -> None:
    from genaug.assets.named_weights import ROWS

    ASSETS.rows.update({row.name: row for row in ROWS})


@_once
def _load_homes() -> None:
    for home in HOMES:
        importlib.import_module(home)


@_once
def _load_plugins() -> None:
    from importlib.metadata import entry_points

    entries = entry_points(group=GROUP)
    if entries:
        _load_homes()  # the names of this package come first
    for entry in entries:
        try:
            entry.load()
        except Exception as error:  # somebody else's package must not take this one down
            warnings.warn(
                f"the plugin {entry.value!r} could not be imported ({type(error).__name__}: {error}); "
                "its kinds of networks are unknown",
                stacklevel=2,
            )


def _load_kinds() -> None:
    _load_rows()
    _load_homes()
    _load_plugins()


def _load_assets() -> None:
    """Fill the table of assets; without plugins no network is imported."""
    _load_rows()
    _load_plugins()


KINDS: _Table[Kind] = _Table(_load_kinds)
ASSETS: _Table[Asset] = _Table(_load_assets)


def register(kind: Kind) -> Kind:
    """Add a kind and its assets to the tables.

    Raises:
        ValueError: another kind has this name, another kind's asset has the name of one of these, or an asset has no
            source.
    """
    _load_rows()
    with _lock:
        if kind.name in KINDS.rows:
            raise ValueError(f"a kind must have a name of its own, got {kind.name!r}, which is registered already")
        if taken := [row.name for row in kind.assets if row.name in ASSETS.rows]:
            raise ValueError(f"an asset must have a name of its own, got {taken[0]!r}, which is registered already")
        for row in kind.assets:
            if not row.embedded and row.repository is None and not all(file.url for file in row.files):
                raise ValueError(f"an asset must have a repository or a URL for each file, got none for {row.name!r}")
        KINDS.rows[kind.name] = kind
        ASSETS.rows.update({row.name: replace(row, kind=kind.name) for row in kind.assets})
    return kind
