"""The training loop of the generators, with a log, sample sheets, checkpoints and resuming."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from genaug._common.files import DamagedFileError, atomic_path, naming_full_disk, one_line
from genaug._common.progress import progress
from genaug._common.records import device_name, differences

LOG_EVERY = 50
CHECKPOINT_EVERY = 100
SAMPLE_EVERY = 500


class Every(NamedTuple):
    """Number of steps between log entries, checkpoints and sample sheets."""

    log: int
    checkpoint: int
    sample: int


class Stateful(Protocol):
    """A network, an optimizer or a loader."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Any) -> Any: ...


class Run:
    """Everything that training steps change. It can be saved as one dict and restored.

    Args:
        parts: networks, optimizers and loaders, by their names in a checkpoint.
        random: also save the state of torch's default generator. Set it if the steps draw from that generator.
    """

    numbers: tuple[str, ...] = ("step", "seconds")  # attributes that a checkpoint stores unchanged
    description = "training"  # text of the progress bar in `optimise`; `shown` names the losses in it
    shown: tuple[str, ...] = ()

    def __init__(self, parts: Mapping[str, Stateful], *, random: bool = False) -> None:
        self.parts = parts
        self.random = random
        self.step = 0
        self.seconds = 0.0

    def state(self) -> dict[str, Any]:
        """Return the content of a checkpoint."""
        state = {name: getattr(self, name) for name in self.numbers}
        state |= {name: part.state_dict() for name, part in self.parts.items()}
        return {**state, "random_state": torch.get_rng_state()} if self.random else state

    def comparable(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of a checkpoint, or of this run, in the form in which they are compared."""
        return settings

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state` returned."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        if self.random:
            torch.set_rng_state(state["random_state"])
        for name in self.numbers:
            setattr(self, name, state[name])


def machine(device: torch.device) -> str:
    """Return the device, threads and torch version as text, for the metadata of trained weights."""
    name = "CPU" if device.type == "cpu" else device_name(device)
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def resume(run: Run, folder: Path, described: dict[str, Any]) -> None:
    """Restore a run from its folder's checkpoint, if any; raise ValueError if it is damaged or has other settings."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        return
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        before, asked = run.comparable(state["settings"]), run.comparable(described)
        different = list(differences({key: before.get(key) for key in asked}, asked))
    except Exception as error:  # torch raises a dozen different classes for damaged files
        raise ValueError(
            f"{path} is not a checkpoint of this run ({type(error).__name__}). Delete it to start over"
        ) from None
    if different:
        raise ValueError(
            f"{folder} holds a run with other settings ({different[0]}). Choose another folder, or delete it to start "
            "over"
        )
    try:
        run.restore(state)
    except KeyError as error:
        raise ValueError(
            f"{path} was written by another version ({error} is missing); delete it to start over"
        ) from None


def optimise(
    run: Any,
    steps: int,
    folder: Path,
    described: dict[str, Any],
    *,
    step: Callable[[], dict[str, Tensor]],
    sheet: Callable[[Path], None],
    every: Every | None = None,
    writes: bool = True,
) -> None:
    """Run the remaining steps, and write log.jsonl, samples/ and checkpoint.pt along the way.

    Args:
        run: a `Run` with a `generator`. This function updates its `step` and `seconds`.
        steps: number of steps of the whole training.
        folder: output folder.
        described: the settings, stored in each checkpoint.
        step: function that takes one step and returns its losses by name.
        sheet: function that writes a sheet of samples to a path.
        every: number of steps between log entries, checkpoints and sheets (default: 50, 100 and 500).
        writes: whether this process writes files. Of several processes, only the first should.

    Raises:
        FloatingPointError: a loss or a weight is not finite. The last checkpoint stays.
    """
    every = every or Every(LOG_EVERY, CHECKPOINT_EVERY, SAMPLE_EVERY)
    log = folder / "log.jsonl" if writes else Path(os.devnull)
    if writes:
        truncate_log(log, run.step)
    bar = progress(total=steps, initial=run.step, description=run.description, unit="step")
    begin = time.monotonic() - run.seconds
    with bar, log.open("a") as lines:
        while run.step < steps:
            losses = step()
            run.step += 1
            run.seconds = time.monotonic() - begin
            bar.update()
            last = run.step == steps
            if run.step % every.log == 0 or last:
                row = {name: round(float(value), 5) for name, value in losses.items()}
                if bad := [name for name, value in row.items() if not math.isfinite(value)]:
                    raise FloatingPointError(
                        f"{bad[0]} is {row[bad[0]]} at step {run.step}; the last checkpoint in {folder} is from before"
                    )
                with naming_full_disk(log):
                    lines.write(json.dumps({"step": run.step, **row, "seconds": round(run.seconds, 1)}) + "\n")
                    lines.flush()
                bar.set_postfix({name: row[name] for name in run.shown})
            if writes and (run.step % every.sample == 0 or last):
                sheet(folder / "samples" / f"{run.step:06d}.png")
            if run.step % every.checkpoint == 0 or last:
                if not all(weight.isfinite().all() for weight in run.generator.parameters()):
                    raise FloatingPointError(
                        f"weights are not finite at step {run.step}; the last checkpoint in {folder} is from before"
                    )
                if writes:
                    with atomic_path(folder / "checkpoint.pt") as path:
                        torch.save({**run.state(), "settings": described}, path)


def truncate_log(path: Path, step: int) -> None:
    """Drop log entries after the last checkpoint of an interrupted run, which would otherwise appear twice."""
    if path.exists():
        complete = path.read_text(errors="replace").splitlines(keepends=True)
        if complete and not complete[-1].endswith("\n"):  # the process was killed while it wrote this line
            complete.pop()
        try:
            kept = [line for line in complete if json.loads(line)["step"] <= step]
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedFileError(
                f"{path} is damaged ({one_line(error)}): delete it to continue without what was logged so far"
            ) from None
        with atomic_path(path) as temporary:
            temporary.write_text("".join(kept))
