"""The tables of kinds and assets: what each is, where it comes from, and how to verify its files.

Each kind of network has one file with its module and one call of `register`. The tables fill at their first use.
Looking up assets imports no network.
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

# The modules that register kinds. They are named here, not imported, because they belong to later rooms.
# Other packages list their modules as entry points of the group GROUP.
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
    """Error for an asset that is unavailable through no fault of the caller: network failure, or a damaged file."""


# the owner of the project's own weights; `publish` uses it for repositories that are given without an owner
NAMESPACE = os.environ.get("GENAUG_NAMESPACE", "genaug")


@dataclass(frozen=True)
class File:
    """One file of an asset.

    Attributes:
        name: its path in the repository, or its name.
        sha256: in hexadecimal; fewer than 64 digits if its publisher states no more; None if not known.
        size: in bytes; None if not known.
        url: its address if it is not in the asset's repository.
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
        url: the address that it came from.
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
        name: the name for users.
        file: the name of the file with the weights.
        sha256: of the file, in hexadecimal; fewer than 64 digits if its publisher states no more; None if not known.
        size: of the file, in bytes; None if not known.
        licence: SPDX identifier of the weights' license, or "unknown".
        what: a description in one line.
        paper: the paper that describes the method.
        source: the origin of the weights: a command of this project, or the authors of a release.
        figures: what was measured with the weights here, with the number of runs, or "not run".
        repository: the Hub repository; None for weights that ship with the package or are not on the Hub.
        revision: the pinned commit of that repository; None if not known.
        url: the address of a file that is not on the Hub.
        embedded: whether it ships with the package.
        others: further files, in the same repository or with their own URLs: a configuration (`.json`), or more files
            with weights.
        config: the key of its configuration in the `configs` of its kind.
        kind: the name of its kind; `register` sets it for the assets of a `Kind`.
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
        """Return the grade of trust, see `assets.trust`."""
        return grade([file.sha256 for file in self.files], self.commit)


@dataclass(frozen=True, eq=False)
class Kind:
    """Everything that genaug needs to find, check, convert and build the weights of a kind of network.

    Attributes:
        name: the name of the kind in the metadata of its files.
        build: builds the trainable module from its configuration, a dict (empty for kinds without configurations). The
            names and shapes of its state dict are the layout of the kind's files. Called on the "meta" device.
        assets: named weights of other packages; this package's own are in `genaug.assets.named_weights`.
        generates: whether it makes images from noise and labels, so that `load_generator` can open it. If the module
            has `fast(device, dtype)`, `load_generator` returns its result.
        configs: the configurations of the released networks, by image size. A checkpoint without a configuration is
            recognized by the names of its tensors.
        complaint: for kinds with configurations: returns what is wrong with a configuration, or None.
        surplus: name prefixes of tensors that a published checkpoint may have but no output depends on.
        layout: for kinds without a module: returns the expected shapes, computed from the tensors of a file.
        marker: for generators that are folders: the file that identifies a folder of this kind, such as "bank.json".
        open: for generators that are folders: opens a folder, given its path, device and dtype.
        parts: for generators that are folders: patterns of the files to download from a Hub repository that has the
            marker. A kind without patterns cannot be opened from a repository.
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
        return iter(sorted(self.rows))  # sorted, so that the order does not depend on which module was imported first

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
        with loading:  # a lock of its own: a thread that imports one of the homes waits for the lock of `register`
            if not begun:
                begun = True  # set before the call, because a module may read the tables while it registers
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
        except Exception as error:  # an error in another package must not break this one
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
    """Fill the table of assets. Without plugins, this imports no network."""
    _load_rows()
    _load_plugins()


KINDS: _Table[Kind] = _Table(_load_kinds)
ASSETS: _Table[Asset] = _Table(_load_assets)


def register(kind: Kind) -> Kind:
    """Add a kind and its assets to the tables.

    Raises:
        ValueError: the name of the kind or of one of its assets is taken, or an asset has no source.
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
