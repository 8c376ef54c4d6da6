"""Read and write results.json of long work, so that a later call can resume it.

Also here: the environment of a result, statistics over seeds, and tables as text.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import genaug
from genaug._common.files import atomic_path, tell

if TYPE_CHECKING:
    import torch

_OTHERS = {"settings": "with other settings", "model": "of another model"}


def read_results(file: Path, what: str, key: str, settings: dict[str, Any], holds: Collection[str]) -> dict[str, Any]:
    """Return the results of an earlier call in `file`, to resume from, or {} if there are none.

    Args:
        file: the results.
        what: the work that writes such a file, for error messages.
        key: the key of the settings in the file, "settings" or "model".
        settings: the settings of this call. Those in the file must be equal.
        holds: the other keys that such a file must have.

    Raises:
        ValueError: the file belongs to other work, or its settings differ, which the message names.
    """
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text())
        before = dict(content[key])
        if not set(holds) <= set(content):
            raise KeyError
    except (ValueError, KeyError, TypeError):
        raise foreign(file, what) from None
    if before != settings:
        names = [name for name in {**settings, **before} if before.get(name) != settings.get(name)]
        other = ", ".join(f"{name} {before.get(name)!r}" for name in names)
        raise ValueError(f"{file} has results {_OTHERS[key]} ({other}): choose another folder")
    return content


def check_replaces_own(
    file: Path,
    what: str,
    settings: dict[str, Any],
    found: Callable[[Any], dict[str, Any]],
    digests: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Check that `file` does not exist, or has results of the same settings, which may be replaced.

    Args:
        file: the results.
        what: the work that writes such a file, for error messages.
        settings: the settings of this call.
        found: function from the content of the file to its settings.
        digests: settings whose values mean nothing to a reader, such as checksums -> text for the error if they differ.

    Raises:
        ValueError: the file belongs to other work, or its settings differ, which the message names.
    """
    if not file.exists():
        return
    try:
        before = found(json.loads(file.read_text()))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise foreign(file, what) from None
    names = [name for name in settings if before.get(name) != settings[name]]
    if names:
        other = ", ".join(
            digests.get(name) or f"{name} {before.get(name)!r} instead of {settings[name]!r}" for name in names
        )
        raise ValueError(f"{file} is {what} of something else ({other}): choose another folder")


def check_replaces_demo(file: Path, rows: Collection[str]) -> None:
    """Check that `file` does not exist or is from an earlier demo with the same rows. Tell if it will be replaced."""
    check_replaces_own(file, "a demo", {}, lambda found: {row: found[row] for row in rows})
    if file.exists():
        tell(f"{file.parent}: the demo's earlier results will be replaced")


def read_runs(
    file: Path, what: str, settings: dict[str, Any], names: Sequence[str], holds: Collection[str] = ()
) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return the runs of an earlier call in `file`, by key, or {} if there are none.

    Args:
        file, what, settings: as `read_results` takes them.
        names: the entries that identify a run, such as ("row", "seed"). They become its key.
        holds: other entries that each run must have.

    Raises:
        ValueError: as `read_results`, or a run does not have these entries.
    """
    runs = read_results(file, what, "settings", settings, ("runs",)).get("runs", [])
    try:
        if all(set(holds) <= set(run) for run in runs):
            return {tuple(run.pop(name) for name in names): run for run in runs}
    except (KeyError, TypeError, AttributeError):
        pass
    raise foreign(file, what)


def differences(before: Any, after: Any, name: str = "") -> Iterator[str]:
    """Yield a line of text for each setting that differs, with both values."""
    if isinstance(before, dict) and isinstance(after, dict):
        for part in {**before, **after}:
            yield from differences(before.get(part), after.get(part), f"{name}.{part}" if name else part)
    elif before != after:
        yield f"{name.removeprefix('source.')}: {before!r} there, {after!r} asked for"


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return mean, standard deviation (None for one value) and number of values, as in results.json."""
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "sd": sd, "n": len(values)}


def aligned(lines: Sequence[Sequence[str]], *, right: bool = False) -> str:
    """Format rows of cells as a table: left-aligned, or with `right`, right-aligned after the first column."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    adjust = str.rjust if right else str.ljust
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(adjust, line[1:], widths[1:])]).rstrip() for line in lines
    )


def foreign(file: Path, what: str) -> ValueError:
    """Return the error for a results file that belongs to other work."""
    return ValueError(f"{file} is not a result of {what}: choose another folder")


def write_results(file: Path, results: dict[str, Any]) -> None:
    """Write results as JSON. After an error the file is unchanged."""
    with atomic_path(file) as temporary:
        temporary.write_text(json.dumps(results, indent=2) + "\n")


def device_name(device: torch.device) -> str:
    """Return the name of the GPU from its driver, or the type of another device, such as "cpu" or "mps"."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def processor() -> str:
    """Return the model name of the processor, or its architecture if the system does not report the model."""
    import platform

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def write_runs(
    file: Path,
    recipe: str,
    settings: dict[str, Any],
    names: Sequence[str],
    runs: Mapping[Any, dict[str, Any]],
    keys: Iterable[Any],
    **more: Any,
) -> dict[str, Any]:
    """Write the runs with these keys to a table's results.json and return its content. `names` name a key's parts."""
    listed = [dict(zip(names, key, strict=True)) | runs[key] for key in keys]
    results = {"recipe": recipe, "settings": settings, "runs": listed, **more}
    write_results(file, results)
    return results


def circumstances(start: float, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the environment of a result: duration in seconds, hardware, threads and versions.

    Args:
        start: `time.perf_counter()` when the work began.
        device: device of the work.
    """
    import torch

    device = torch.device(device)
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "device": device_name(device),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "genaug": genaug.__version__,
    }
