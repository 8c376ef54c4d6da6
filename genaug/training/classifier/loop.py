"""Train a classifier on photographs and generated images, by the recipes of both papers or your own.

Training uses one process, or several with `torchrun`. Batch sizes and learning rates are totals over all processes.
Random draws depend on the seed and the training step only, so that an interrupted run resumes bitwise identically on a
CPU.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from genaug._common.arguments import check_integer
from genaug._common.files import ImageError, atomic_path, image_files, naming_full_disk, open_image, output_folder, tell
from genaug._common.imagenet import IMAGENET_MEAN, IMAGENET_STD
from genaug._common.precision import autocast
from genaug._common.progress import progress
from genaug._common.records import circumstances, write_results
from genaug.evaluation.scoring import ENSEMBLE, MOST_WORKERS, ImageFiles, naming_files, preprocessing, score
from genaug.interventions.random_streams import generator_of
from genaug.models.multi_head_resnet import MultiHeadClassifier
from genaug.training.classifier.config_file import write_config
from genaug.training.classifier.contents import Content, check_unchanged, comparable, photographs_of
from genaug.training.classifier.data import BAD_IMAGES
from genaug.training.classifier.loaders import check_same_classes, mixed_loader
from genaug.training.classifier.settings import Settings, Source
from genaug.training.groups import read_group_file, retrain_last_layer
from genaug.training.losses import GenIntLoss, MultiHeadLoss
from genaug.training.mixing import MixedLoader
from genaug.training.shared.processes import World, processes
from genaug.training.shared.resumable import Run, resume, truncate_log

PLAIN = ("label",)  # name of the single head of a plain classifier
LOG_EVERY = 50  # steps
_NEVER = 2**62


@torch.inference_mode(False)  # in inference mode there are no gradients
def train(
    out: str | os.PathLike[str],
    data: str | os.PathLike[str] | None,
    validation: str | os.PathLike[str],
    *,
    sources: Sequence[Source] = (),
    settings: Settings | None = None,
    device: torch.device | str | None = None,
    num_workers: int = 4,
    checkpoint_every: int = 1000,
    skip_bad: bool = False,
    tensorboard: bool = False,
    retrain: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Train a classifier. Calling it again with the same arguments resumes from the last checkpoint.

    `out` gets model/ (for `MultiHeadClassifier.from_pretrained` and `genaug evaluate`, with class names and
    preprocessing), config.yaml (for `genaug train classifier --config`), results.json, checkpoint.pt, log.jsonl, and
    bad_images.txt if images were skipped.

    Args:
        out: output folder. With several processes, all of them need access to it.
        data: training photographs, one folder per class; None to train on the first source only (GenInt's Table 4).
        validation: photographs to measure accuracy on after each epoch, one folder per class. All are opened first.
        sources: generated images, in addition to photographs. Classes are matched with the folders by name if the
            generator has names, and by WordNet id for ImageNet. Otherwise both have the same number of classes, and
            folders that are named by numbers are matched by value.
        settings: training settings (default: `Settings()`).
        device: device to train on (default: CPU). With "cuda", each process of `torchrun` has its own GPU.
        num_workers: number of processes that read photographs, for each training process.
        checkpoint_every: number of steps between checkpoints. Another one follows each epoch.
        skip_bad: replace an image that cannot be opened by the next one, and list it (default: raise an error).
        tensorboard: also write curves to `out`/tensorboard. Needs the package tensorboard.
        retrain: held-out photographs, one folder per class, with a groups.csv. The last layer is retrained on them at
            the end, balanced by group (deep feature reweighting; see `retrain_last_layer`).

    Returns:
        The content of results.json: "settings", "sources", "class_names", "labels" (for each source, the folder of each
        class), "validation" (top-1 accuracy in percent by head, and top-5 for more than five classes), "epochs" (the
        same after each epoch), "trained_on" (the folders of photographs), "bad_images" (the number of skipped images),
        and the environment. "validation" is for the saved model; the last of "epochs" is for the model before its last
        layer is retrained.

    Raises:
        FileNotFoundError: a folder, or the folder of a class, is missing.
        ValueError: a class has no images, classes do not match, an image cannot be opened (an `ImageError`), a batch is
            larger than its dataset or cannot be divided evenly, `out` has a run with other settings, or an argument is
            out of its range.
        FloatingPointError: the loss is not finite. The last checkpoint stays.
        ModuleNotFoundError: tensorboard is not installed.
        genaug.AssetError: the weights of a generator are not available.
    """
    settings = settings or Settings()
    check_integer("checkpoint_every", checkpoint_every, 1)
    check_integer("num_workers", num_workers, 0, MOST_WORKERS)
    with processes(device) as world, torch.random.fork_rng(devices=world.gpus), output_folder(out) as folder:
        try:
            kept = json.loads(json.dumps([asdict(source) for source in sources]))
        except TypeError as error:
            raise TypeError(f"options of sources must be numbers, strings, lists and dicts ({error})") from None
        listed = image_files(validation)
        held_out, classes = _held_out(listed, settings, world), list(listed.classes)
        if world.rank == 0:
            tell(listed.told)
        bad = folder / BAD_IMAGES if skip_bad else None
        again = None if retrain is None else _grouped(retrain, listed, settings)
        mixed = mixed_loader(data, listed, sources, settings, world, num_workers, bad)
        steps = len(mixed.loader) // settings.accumulate
        described = {
            **asdict(settings),
            "sources": kept,
            "classes": len(classes),
            # a position in the data has another meaning if the number of images changes
            "images": [len(loader.dataset) for loader in mixed.loader.loaders],
            "validation_images": len(listed.files),
        }
        if not settings.balance_groups:  # checkpoints from before this setting do not have it
            del described["balance_groups"]
        contents = {
            **mixed.contents,
            "validation": Content(os.fspath(validation), "photographs", len(listed.files), listed.fingerprint()),
        }
        run = _Run(settings, len(classes), mixed.loader, contents, folder, world.device)
        run.model.preprocessing = {
            "class_names": classes,
            "image_size": settings.size,
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
        }
        resume(run, folder, described)
        if not run.step:  # find unreadable images now, not after the first epoch
            _check_images(held_out, num_workers)
        if world.rank == 0:
            others = {"retrain": None if retrain is None else os.fspath(retrain), "skip_bad": skip_bad}
            write_config(folder, data, validation, kept, settings, **others)
        if run.step and world.rank == 0:
            complete = run.epoch == settings.epochs
            tell(
                f"{folder}: complete, nothing is left to train"
                if complete
                else f"{folder}: resuming after step {run.step:,}"
            )
        log = _Log(folder, run.step, tensorboard, writes=world.rank == 0)
        loop = _Loop(run, settings, mixed.weights, world, folder, described, steps, log, checkpoint_every)
        bar = progress(total=settings.epochs * steps, initial=run.step, description="classifier", unit="step")
        with closing(log), bar:
            while run.epoch < settings.epochs:
                loop.train_epoch(bar)
                accuracies = _validate(run.model, held_out, len(listed.files), world, settings, num_workers)
                run.history.append(accuracies)
                row = {"epoch": run.epoch, "step": run.step, "validation": accuracies}
                run.epoch += 1
                loop.save()
                log.write(row)  # after the checkpoint, so that a resumed run does not log it twice
                bar.set_postfix({"top-1": f"{accuracies[ENSEMBLE]['top1']:.1f}"})
        accuracies = run.history[-1]
        if again is not None:
            _retrain(run.model, *again, world, settings, num_workers)
            accuracies = _validate(run.model, held_out, len(listed.files), world, settings, num_workers)
        noted = folder / BAD_IMAGES
        results = {
            "settings": asdict(settings),
            "sources": described["sources"],
            "classes": len(classes),
            "class_names": classes,
            "labels": mixed.labels,
            "validation_images": len(listed.files),
            "validation": accuracies,
            "trained_on": photographs_of(data, retrain, sources, mixed.banks),
            "retrained_on": None if retrain is None else os.fspath(retrain),
            "epochs": run.history,
            "bad_images": len(set(noted.read_text().splitlines())) if noted.exists() else 0,
            "processes": world.size,
            **circumstances(run.start, world.device),
        }
        if world.rank == 0:
            run.model.save_pretrained(folder / "model")
            write_results(folder / "results.json", results)
        return results


def _preprocessing(size: int) -> Any:
    return preprocessing(resize=round(size * 8 / 7), crop=size)


class _Run(Run):
    numbers = ("epoch", "step", "history", "seconds")

    def __init__(
        self,
        settings: Settings,
        num_classes: int,
        mixed: MixedLoader,
        contents: Mapping[str, Content],
        folder: Path,
        device: torch.device,
    ) -> None:
        torch.default_generator.manual_seed(settings.seed)
        self.model = MultiHeadClassifier(
            settings.architecture,
            num_classes,
            heads=settings.heads or PLAIN,
            weights=settings.weights,
            aggregate=settings.aggregate,
            frozen_batch_norm=settings.frozen_batch_norm,
        ).to(device)
        if settings.channels_last:
            self.model.to(memory_format=torch.channels_last)
        parameters, rate, decay = self.model.parameters(), settings.learning_rate, settings.weight_decay
        self.optimizer: torch.optim.Optimizer
        if settings.optimizer == "sgd":
            self.optimizer = torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=decay)
        else:
            self.optimizer = torch.optim.Adam(parameters, rate, weight_decay=decay)
        self.mixed, self.folder = mixed, folder
        self.contents = contents
        self.epoch = 0
        self.history: list[Any] = []
        super().__init__({"model": self.model, "optimizer": self.optimizer, "mixed": self.mixed})

    def state(self) -> dict[str, Any]:
        return {**super().state(), "contents": {key: asdict(content) for key, content in self.contents.items()}}

    def comparable(self, settings: dict[str, Any]) -> dict[str, Any]:
        return comparable(settings)

    def restore(self, state: Mapping[str, Any]) -> None:
        check_unchanged(state.get("contents", {}), self.contents, self.folder)  # earlier versions wrote none
        super().restore(state)

    @property
    def seconds(self) -> float:
        """Return the duration of the run, including parts before an interruption."""
        return time.perf_counter() - self.start

    @seconds.setter
    def seconds(self, value: float) -> None:
        self.start = time.perf_counter() - value


class _Loop:
    """The steps of a run."""

    def __init__(
        self,
        run: _Run,
        settings: Settings,
        weights: Sequence[float],
        world: World,
        folder: Path,
        described: dict[str, Any],
        steps: int,
        log: _Log,
        checkpoint_every: int,
    ) -> None:
        self.run, self.settings, self.world, self.steps = run, settings, world, steps
        self.folder, self.described, self.log, self.checkpoint_every = folder, described, log, checkpoint_every
        smoothing = settings.label_smoothing
        self.objective: nn.Module = (
            MultiHeadLoss(label_smoothing=smoothing)
            if settings.heads
            else GenIntLoss(weights, label_smoothing=smoothing)
        ).to(world.device)
        self.real = settings.batch_size // settings.accumulate // world.size  # this process's photographs in a part
        self.first_bad = torch.full((), _NEVER, device=world.device)  # first step whose loss is not finite
        self.mixup = v2.MixUp(alpha=settings.mixup, num_classes=run.model.num_classes) if settings.mixup else None
        self.model: Any = torch.compile(run.model) if settings.compile else run.model
        if world.size > 1:
            self.model = nn.parallel.DistributedDataParallel(self.model, world.gpus or None)

    def train_epoch(self, bar: Any) -> None:
        """Run the remaining steps of this epoch."""
        run, settings = self.run, self.settings
        for group in run.optimizer.param_groups:
            group["lr"] = settings.learning_rate * settings.drop_factor ** (run.epoch // settings.drop_every)
        run.model.train()
        run.mixed.set_epoch(run.epoch)
        batches = naming_files(run.mixed)
        begin, total, since = time.perf_counter(), torch.zeros((), device=self.world.device), run.step
        last = (run.epoch + 1) * self.steps
        while run.step < last:
            run.optimizer.zero_grad()
            loss = torch.zeros_like(total)
            for part in range(settings.accumulate):
                images, targets = next(batches)
                loss += self._backward(images, targets, part)
            total += loss
            run.step += 1
            self.first_bad = torch.minimum(self.first_bad, torch.where(loss.isfinite(), _NEVER, run.step))
            logs = run.step % LOG_EVERY == 0 or run.step == last
            saves = run.step % self.checkpoint_every == 0 and run.step != last
            # on a GPU the loss is checked only when it is logged or saved, because each check waits for the GPU
            if logs or saves or (self.world.device.type == "cpu" and self.world.size == 1):
                self._look()
            run.optimizer.step()
            kept = run.model.state_dict().values() if saves or run.step == last else ()
            if not all(tensor.isfinite().all() for tensor in kept):
                raise self._not_finite("weights are not finite", run.step)
            bar.update()
            if logs:
                steps, seconds = run.step - since, time.perf_counter() - begin
                self.log.write(
                    {
                        "epoch": run.epoch,
                        "step": run.step,
                        "loss": round(float(total) / steps, 6),
                        "learning_rate": run.optimizer.param_groups[0]["lr"],
                        "steps_per_second": round(steps / seconds, 3),
                    }
                )
                begin, total, since = time.perf_counter(), torch.zeros_like(total), run.step
            if saves:
                self.save()
        self.save()  # so that the epoch is not lost if validation fails

    def _look(self) -> None:
        """Raise FloatingPointError if a loss of any process was not finite."""
        if self.world.size > 1:
            torch.distributed.all_reduce(self.first_bad, torch.distributed.ReduceOp.MIN)
        if int(self.first_bad) < _NEVER:
            raise self._not_finite("the loss is not finite", int(self.first_bad))

    def _backward(self, images: Tensor, targets: dict[str, Any], part: int) -> Tensor:
        """Add the gradients of one part of a step, and return its share of the loss."""
        settings, device = self.settings, self.world.device
        # Mixup and layers such as dropout draw from the global generators: a resumed run repeats these draws
        key = generator_of(settings.seed, self.run.step * settings.accumulate + part, f"mixup {self.world.rank}")
        torch.set_rng_state(key.get_state())
        if self.world.gpus:
            torch.cuda.manual_seed(key.initial_seed() % 2**63)
        if self.mixup is not None:
            images, targets = _mixed_up(images, targets, self.real, self.mixup, self.run.model.num_classes)
        if settings.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        # processes exchange gradients once per step, after its last part
        waits = self.world.size > 1 and part + 1 < settings.accumulate
        with self.model.no_sync() if waits else nullcontext():
            with autocast(device, torch.bfloat16 if settings.dtype == "bfloat16" else None):
                logits = self.model(images, heads=True) if settings.heads else self.model(images)
            floats = {name: value.float() for name, value in logits.items()} if settings.heads else logits.float()
            loss = self.objective(floats, targets) / settings.accumulate
            loss.backward()
        return loss.detach()

    def _not_finite(self, what: str, step: int) -> FloatingPointError:
        kept = self.folder / "checkpoint.pt"
        return FloatingPointError(
            f"{what} at step {step}; "
            + (f"the last checkpoint, {kept}, is from before" if kept.exists() else "there is no checkpoint yet")
        )

    def save(self) -> None:
        if self.world.rank == 0:
            with atomic_path(self.folder / "checkpoint.pt") as path:
                torch.save({**self.run.state(), "settings": self.described}, path)


def _mixed_up(
    images: Tensor, targets: dict[str, Any], real: int, mixup: Any, num_classes: int
) -> tuple[Tensor, dict[str, Any]]:
    """Apply Mixup to the real images, which come first in a batch, and convert all labels to probabilities."""
    mixed, soft = mixup(images[:real], targets["labels"][:real])
    others = nn.functional.one_hot(targets["labels"][real:], num_classes).to(soft)
    return torch.cat([mixed, images[real:]]), {**targets, "labels": torch.cat([soft, others])}


@torch.no_grad()
def _validate(
    model: MultiHeadClassifier, images: ImageFiles, count: int, world: World, settings: Settings, num_workers: int
) -> dict[str, dict[str, float]]:
    """Return top-1 and top-5 accuracy of each head in percent; each process scores its share."""
    if world.size > 1:  # running statistics of batch norm differ between processes; use the first one's
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)
    dtype = torch.bfloat16 if settings.dtype == "bfloat16" else None
    batch_size = max(1, settings.batch_size // world.size)
    counts: dict[str, Tensor] = {}
    for heads, labels in score(model, images, dtype=dtype, batch_size=batch_size, num_workers=num_workers):
        for head, logits in heads.items():
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
            found = torch.stack([best[:, 0].sum(), best.sum()])
            counts[head] = counts.get(head, 0) + found
    names = [ENSEMBLE, *settings.heads]
    table = torch.stack([counts.get(name, torch.zeros(2, dtype=torch.int64, device=world.device)) for name in names])
    if world.size > 1:
        torch.distributed.all_reduce(table)
    shares = 100 * table.cpu().double() / count
    measures = ("top1", "top5") if model.num_classes > 5 else ("top1",)  # of five classes, all are in the top 5
    return {name: dict(zip(measures, map(float, row), strict=False)) for name, row in zip(names, shares, strict=True)}


def _grouped(root: str | os.PathLike[str], validation: Any, settings: Settings) -> tuple[ImageFiles, list[str]]:
    """Return the photographs on which a last layer is retrained, and their groups."""
    if settings.heads:
        raise ValueError("retrain takes a model with one answer, but this one has heads: leave out heads or retrain")
    listed = image_files(root)
    check_same_classes(root, listed.classes, validation)
    paths = [listed.root / file for file, _ in listed.files]
    images = ImageFiles(paths, [label for _, label in listed.files], _preprocessing(settings.size), open_image)
    return images, read_group_file(root, [file for file, _ in listed.files])


def _retrain(
    model: MultiHeadClassifier,
    images: ImageFiles,
    groups: Sequence[str],
    world: World,
    settings: Settings,
    num_workers: int,
) -> None:
    """Train the last layer again in the first process, and copy it to the other processes."""
    if world.rank == 0:
        retrain_last_layer(
            model, images, groups, seed=settings.seed, batch_size=settings.batch_size, num_workers=num_workers
        )
    if world.size > 1:
        for parameter in model.parameters():
            torch.distributed.broadcast(parameter.data, 0)


def _held_out(listed: Any, settings: Settings, world: World) -> ImageFiles:
    """Return this process's share of the validation images."""
    part = listed.files[world.rank :: world.size]
    paths = [listed.root / file for file, _ in part]
    return ImageFiles(paths, [label for _, label in part], _preprocessing(settings.size), open_image)


def _check_images(images: ImageFiles, num_workers: int) -> None:
    """Open each image, and raise an ImageError that names the first image that cannot be opened."""
    files = ImageFiles(images.paths, images.labels, _nothing, open_image)
    batches = DataLoader(files, 64, num_workers=num_workers, generator=torch.Generator(), collate_fn=len)
    try:
        for _ in progress(naming_files(batches), total=len(batches), description="checking --val", unit="batch"):
            pass
    except ImageError as error:
        raise ImageError(f"{error}; remove it from the validation photographs, none of which is skipped") from None


def _nothing(image: Any) -> int:
    return 0


class _Log:
    """Write log.jsonl and, on request, TensorBoard's files. Entries after the last checkpoint are dropped first.

    Of several processes, only the first writes.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool, writes: bool) -> None:
        self.lines: Any = None
        self.writer: Any = None
        if not writes:
            return
        truncate_log(folder / "log.jsonl", step)
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ModuleNotFoundError:
                raise ModuleNotFoundError("tensorboard=True needs tensorboard: pip install tensorboard") from None
            self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self.lines = (folder / "log.jsonl").open("a")

    def write(self, row: dict[str, Any]) -> None:
        if self.lines is None:
            return
        with naming_full_disk(self.lines.name):
            self.lines.write(json.dumps(row) + "\n")
            self.lines.flush()
        if self.writer is not None:
            scalars = {name: value for name, value in row.items() if isinstance(value, float)}
            for head, found in row.get("validation", {}).items():
                scalars |= {f"{head}, {name}": value for name, value in found.items()}
            for name, value in scalars.items():
                self.writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        if self.lines is not None:
            self.lines.close()
        if self.writer is not None:
            self.writer.close()
