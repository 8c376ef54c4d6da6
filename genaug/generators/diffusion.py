"""A `diffusers` pipeline that makes images from text or class labels, as a generator with named nuisances."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaug._common.arguments import check_device, check_dtype, check_integer, check_number
from genaug._common.files import atomic_path
from genaug.assets.registry import Kind, register
from genaug.generators import load_generator, pipelines
from genaug.generators.batches import CPU_BATCH
from genaug.generators.pipeline_layers import LayerAt, hooked, read
from genaug.generators.prompts import templates
from genaug.interventions.nuisances import Nuisances, worded_noise

SETTINGS = "diffusion.json"  # marks a folder that `save` wrote
PIPELINE = "model_index.json"  # marks the folder of a diffusers pipeline
BLACKENED = (
    "the pipeline's safety checker made images black, which still have a class. Replace them by "
    "GenerativeInterventionDataset(recognized_by=classifier), or give a pipeline with safety_checker=None"
)
FEW = 4  # steps; models that need no more than these are distilled, and guidance would spoil their images
SMALL = 64  # pixels; larger images are made one by one on a CPU, where a batch saves nothing


class DiffusionGenerator(nn.Module):
    """A diffusion pipeline as a generator: (noise, class) to an image, with named nuisances.

    The noise of a sample is a row of integers, not a vector. It has the seed of the sample's own `torch.Generator`,
    which the pipeline and its scheduler use, a number that selects a photograph, and the index of each nuisance's
    value. Nuisances are therefore drawn with the noise, in the same way for every class: do(nuisance).

    Args:
        pipeline: a Hub name ("stabilityai/sd-turbo", optionally with "@revision"), a folder, or a `diffusers` pipeline
            object. It makes images from text (Stable Diffusion, SDXL, SANA, FLUX) or from classes (DiT, consistency
            models). Its networks are put in evaluation mode.
        classes: names of the classes, which replace {label} in the prompt. A class-conditional model has its own
            classes; names for them must match their number.
        prompt: a template with {label} and a field for each nuisance ({nuisance}, or the factor's name). A list, or a
            dict by class name, gives each class its own template. Default: "a photo of a {label}, {nuisance}".
        nuisances: a list of phrases, a dict of lists for several factors, or "default" (see
            `genaug.interventions.nuisances.NUISANCES`). Text pipelines only.
        observed: how often each nuisance was seen with each class, (num_classes, values); a dict of tables for several
            factors. The dataset's `balance="observed"` draws from them.
        negative_prompt: what the images should not show; needs a guidance above 1.
        steps: denoising steps (default: the pipeline's).
        guidance: guidance scale toward the prompt or class (default: the pipeline's). Text pipelines with at most 4
            steps default to 0 (no guidance), because few-step models (SD-Turbo, SDXL-Turbo, SDXL-Lightning) are
            trained to work without it.
        size: pixels per side (default: the model's own).
        guide: a photograph bank, or its folder. Each image begins as a photograph of its class, with noise added
            (image-to-image).
        inpaint: a photograph bank, or its folder. Each image keeps the object of a photograph of its class; the
            pipeline paints a new background.
        strength: how much images may differ from the photograph, in (0, 1].
        device: device to move the pipeline to (default: it is not moved).
        dtype: type of the weights (default: unchanged). torch.bfloat16 halves the memory.
        trust_remote_code: allow a repository to run its own code.

    Attributes:
        num_classes, image_size: as for every generator.
        z_dim: number of integers in a sample's noise.
        classes: a name for each class; None for a class-conditional model if no names were given.
        nuisances: a `Nuisances`.

    Raises:
        ValueError, TypeError: an argument is out of range or of the wrong type; the message names it.
        ModuleNotFoundError: diffusers is not installed.
        genaug.AssetError: the pipeline cannot be opened.
        torch.OutOfMemoryError: its weights do not fit on the GPU.
    """

    def __init__(
        self,
        pipeline: Any,
        classes: Sequence[str] | None = None,
        prompt: str | Sequence[str] | Mapping[str, str] | None = None,
        *,
        nuisances: Any = None,
        observed: Any = None,
        negative_prompt: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        size: int | None = None,
        guide: Any = None,
        inpaint: Any = None,
        strength: float = 0.6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        self._given = {name: value for name, value in given.items() if value is not None}
        self.pipeline = pipelines.open_pipeline(pipeline, dtype, trust_remote_code)
        self.kind = pipelines.kind_of(self.pipeline)
        self.takes = pipelines.arguments_of(self.pipeline)
        for name, part in pipelines.modules_of(self.pipeline).items():
            self.add_module(name, part)
        self.steps = check_integer("steps", self._default("num_inference_steps", 50) if steps is None else steps, 1)
        if guidance is None and self.kind == "text" and self.steps <= FEW and pipelines.guides_twice(self.pipeline):
            guidance = 0.0 if "guidance_scale" in self.takes else None
        self.guidance = None if guidance is None else check_number("guidance", guidance)
        self.negative_prompt = negative_prompt
        self.image_size = pipelines.image_size_of(self.pipeline, None if size is None else check_integer("size", size))
        self._names = self._names_of(classes)
        self.num_classes = len(self._names)
        self.classes = self._names if self.kind == "text" or classes is not None else None
        if self.kind == "class" and (nuisances is not None or prompt is not None):
            what = "prompt" if nuisances is None else "nuisances"
            raise ValueError(
                f"{what} are words, which {type(self.pipeline).__name__} does not take: it makes images of classes. "
                'Intervene on its activations: GenerativeInterventionDataset(mode="activation")'
            )
        self.nuisances = Nuisances(nuisances, observed, self.num_classes)
        self._templates = templates(prompt, self._names, self.nuisances) if self.kind == "text" else ()
        self._check_call()
        self.bank, self.strength = self._photographs(guide, inpaint, strength)
        self.z_dim = 2 + len(self.nuisances)
        self._embeddings = pipelines.Prompts(1 if self.batch_invariant else CPU_BATCH)
        self.requires_grad_(False).eval()
        check_dtype(dtype)
        self.to(device=None if device is None else check_device("device", device), dtype=dtype)

    def _default(self, argument: str, otherwise: Any) -> Any:
        found = self.takes.get(argument)
        return otherwise if found is None or found.default in (None, found.empty) else found.default

    def _names_of(self, classes: Sequence[str] | None) -> tuple[str, ...]:
        if self.kind == "text":
            if classes is None or isinstance(classes, str) or not all(isinstance(c, str) for c in classes):
                advice = "" if classes else ". For commands, give them in Python, and save() the generator to a folder"
                raise ValueError(f"classes must be a list of names for the prompt's {{label}}, got {classes!r}{advice}")
            if not classes:
                raise ValueError("classes must not be empty")
            if twice := [name for name in classes if list(classes).count(name) > 1]:
                raise ValueError(f"classes must differ, got {twice[0]!r} twice")
            return tuple(classes)
        config: Any = pipelines.denoiser_of(self.pipeline).config
        count = config.get("num_class_embeds") or config.get("num_embeds_ada_norm")
        if not count:
            raise TypeError(f"pipeline must make images of classes, this {type(self.pipeline).__name__} knows none")
        if classes is not None and len(classes) != count:
            raise ValueError(
                f"classes must name all {count} classes of the model, got {len(classes)}. To draw from some of them, "
                "give their numbers as classes= of the dataset"
            )
        words = {number: name for name, number in reversed(list(getattr(self.pipeline, "labels", {}).items()))}
        return tuple(classes) if classes is not None else tuple(words.get(i, str(i)) for i in range(count))

    def _check_call(self) -> None:
        pipelines.check_scheduler(self.pipeline, self.steps)
        scale = self._default("guidance_scale", 1.0) if self.guidance is None else self.guidance
        name = type(self.pipeline).__name__
        if self.guidance is not None and "guidance_scale" not in self.takes:
            raise ValueError(f"guidance must be None for {name}, which has none, got {self.guidance:g}")
        if self.kind == "class":
            if name == "DiTPipeline" and self.num_classes != 1000 and scale > 1:
                raise ValueError(
                    f"guidance must be 1 here, got {scale:g}: {name} guides with class 1000, and this model has "
                    f"{self.num_classes} classes"
                )
            return
        if self.negative_prompt is not None and "negative_prompt" not in self.takes:
            raise ValueError(f"negative_prompt must be None for {name}, which takes none")
        if self.negative_prompt is not None and self._default("true_cfg_scale", 2.0) <= 1:
            raise ValueError(f"negative_prompt must be None for {name}, which takes none by default")
        if self.negative_prompt is not None and scale <= 1 and pipelines.guides_twice(self.pipeline):
            raise ValueError(f"negative_prompt needs a guidance above 1, got {scale:g}: give guidance=, such as 5")
        tokenizer = getattr(self.pipeline, "tokenizer", None)
        # if the longest value of each factor fits, all others do
        longest = [
            max(range(len(values)), key=lambda i: len(tokenizer.tokenize(values[i]) if tokenizer else values[i]))
            for values in self.nuisances.factors.values()
        ]
        prompts = [self.prompt(label, longest) for label in range(self.num_classes)]
        pipelines.check_prompts(self.pipeline, [*prompts, *([self.negative_prompt] if self.negative_prompt else [])])

    def prompt(self, label: int, nuisances: Sequence[int]) -> str:
        """Return the prompt for a class and the indices (F,) of its nuisances' values."""
        return self._templates[label].format(label=self._names[label], **self.nuisances.names(nuisances))

    def _photographs(self, guide: Any, inpaint: Any, strength: float) -> tuple[Any, float]:
        """Return the bank and the strength, and switch the pipeline to its image-to-image or inpainting form."""
        bank = guide if guide is not None else inpaint
        if bank is None:
            return None, 0.0
        if guide is not None and inpaint is not None:
            raise ValueError("guide and inpaint must not both be given")
        if self.kind != "text":
            raise ValueError(f"guide and inpaint need a text pipeline, got {type(self.pipeline).__name__}")
        if check_number("strength", strength, 1) == 0:
            raise ValueError("strength must be in (0, 1], got 0")
        if int(self.steps * strength) < 1:
            raise ValueError(f"steps * strength must be at least 1, got {self.steps} * {strength:g}: raise either")
        if isinstance(bank, (str, os.PathLike)):
            bank = load_generator(bank)
        bank = getattr(bank, "files", bank)  # a PhotographBank reads its files
        if not (hasattr(bank, "parts") and hasattr(bank, "classes")):
            what = "guide" if guide is not None else "inpaint"
            raise TypeError(f"{what} must be a PhotographBank or its folder, got {type(bank).__name__}")
        if missing := [name for name in self._names if name not in bank.classes]:
            raise ValueError(
                f"the bank must have photographs of every class, {missing[0]!r} has none; it knows "
                f"{', '.join(bank.classes[:5])}"
            )
        numbers = [list(bank.classes).index(name) for name in self._names]
        self._entries = [(bank.labels == number).nonzero()[:, 0] for number in numbers]
        if empty := [name for name, rows in zip(self._names, self._entries, strict=True) if not len(rows)]:
            raise ValueError(f"the bank must have photographs of every class, {empty[0]!r} has none")
        diffusers = pipelines.import_diffusers()
        kind = diffusers.AutoPipelineForImage2Image if guide is not None else diffusers.AutoPipelineForInpainting
        try:
            self.pipeline = kind.from_pipe(self.pipeline)
        except ValueError:
            what = "guide" if guide is not None else "inpaint"
            raise ValueError(
                f"{what} is not possible with {type(self.pipeline).__name__}: it has no such form"
            ) from None
        self.takes = pipelines.arguments_of(self.pipeline)
        self._inpaints = inpaint is not None
        return bank, strength

    def to(self, *args: Any, **kwargs: Any) -> DiffusionGenerator:
        """Move the pipeline as `nn.Module.to` does, after checking that the weights fit on the GPU."""
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        if device is not None:
            pipelines.check_memory(self.pipeline, device, dtype)
        self._embeddings.clear()
        return super().to(*args, **kwargs)

    def train(self, mode: bool = True) -> DiffusionGenerator:
        """Stay in evaluation mode, since DiT drops labels at random in training mode."""
        return super().train(False)

    def draw_noise(self, seed: int, indices: Tensor, stream: str) -> Tensor:
        """Draw the noise of these samples, (B, z_dim) int64, for `forward`; arguments as `random_streams.uniform`."""
        return worded_noise(self.nuisances, seed, indices, stream)

    @property
    def batch_invariant(self) -> bool:
        """Return whether no image depends on its batch on a CPU, because images are made one by one there."""
        return self.image_size > SMALL

    def forward(self, z: Tensor, labels: Tensor, truncation: float = 1.0) -> Tensor:
        """Return images (B, 3, H, W) in [-1, 1] on the labels' device.

        Args:
            z: (B, z_dim) int64. Each row has the seed of the sample's generator, a number in 0..2**31 - 1 that selects
                its photograph, and the index of each nuisance's value.
            labels: (B,) int64.
            truncation: must be 1: this noise has no scale.

        Raises:
            ValueError: the scheduler draws noise without the samples' generators, or an argument is out of range.
        """
        self._check_noise(z, labels, truncation)
        if not len(z):
            return torch.empty(0, 3, self.image_size, self.image_size, device=labels.device)
        return self._each(self._images, z, labels)

    def activation(self, z: Tensor, labels: Tensor, truncation: float, layer: str) -> Tensor:
        """Return the output of a layer at its first chosen step, (B, ...); arguments as `forward` and `LayerAt`."""
        self._check_noise(z, labels, truncation)
        where = LayerAt(self.pipeline, layer, self.steps)

        def one(z: Tensor, labels: Tensor) -> Tensor:
            return read(self.pipeline, where, len(z), self._conditional, lambda: self._call(z, labels))

        with pipelines.calling(self.pipeline, self._embeddings):
            return self._each(one, z, labels)

    def steered(
        self, layer: str, change: Callable[[Tensor, slice], Tensor], z: Tensor, labels: Tensor, truncation: float
    ) -> Tensor:
        """Return images made with a changed layer output, kept at the layer's other chosen steps; see `steer`."""
        self._check_noise(z, labels, truncation)
        where = LayerAt(self.pipeline, layer, self.steps)
        done = 0

        def one(z: Tensor, labels: Tensor) -> Tensor:
            nonlocal done
            rows = slice(done, done + len(z))
            done += len(z)
            with hooked(self.pipeline, where, len(z), self._conditional, lambda output: change(output, rows)):
                return self._images(z, labels)

        return self._each(one, z, labels)

    @property
    def _conditional(self) -> int:
        """Return which half of a guided batch has the class or the prompt."""
        return 0 if self.kind == "class" else -1

    def _check_noise(self, z: Tensor, labels: Tensor, truncation: float) -> None:
        if truncation != 1:
            raise ValueError(
                f"truncation must be 1 for a diffusion pipeline, whose noise has no scale, got {truncation}"
            )
        if z.ndim != 2 or z.shape[1] != self.z_dim or z.is_floating_point():
            raise ValueError(f"z must be (B, {self.z_dim}) integers, got {z.dtype} of {tuple(z.shape)}")
        if labels.shape != (len(z),) or (len(z) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes):
            raise ValueError(f"labels must be ({len(z)},) integers in 0..{self.num_classes - 1}")

    def _each(self, make: Callable[[Tensor, Tensor], Tensor], z: Tensor, labels: Tensor) -> Tensor:
        alone = self.batch_invariant and torch.device(self.pipeline._execution_device).type == "cpu"
        size = 1 if alone else max(1, len(z))
        return torch.cat([make(*part) for part in zip(z.split(size), labels.split(size), strict=True)])

    @torch.no_grad()
    def _images(self, z: Tensor, labels: Tensor) -> Tensor:
        with pipelines.calling(self.pipeline, self._embeddings):
            images = self._call(z, labels)
        if not isinstance(images, Tensor) or images.shape[1:] != (3, self.image_size, self.image_size):
            made = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(f"pipeline must make images (B, 3, {self.image_size}, {self.image_size}), it made {made}")
        return images.to(labels.device).float() * 2 - 1

    def _call(self, z: Tensor, labels: Tensor) -> Any:
        calls = [self.call(numbers, label) for numbers, label in zip(z.tolist(), labels.tolist(), strict=True)]
        together: dict[str, Any] = dict(calls[0])
        for name in ("prompt", "negative_prompt"):
            if name in together:
                together[name] = [call[name] for call in calls]
        if "class_labels" in together:
            together["class_labels"] = [label for call in calls for label in call["class_labels"]]
        if "batch_size" in together:
            together["batch_size"] = len(z)
        if self.bank is not None:
            photographs, colours, mask, _ = self._parts(z, labels)
            together["image"] = photographs
            if self._inpaints:
                together["mask_image"] = 1 - mask
        generators = [torch.Generator().manual_seed(seed) for seed in z[:, 0].tolist()]
        result = self.pipeline(**together, generator=generators, output_type="pt")
        if not hasattr(result, "images"):
            raise TypeError(
                f"pipeline must make images, {type(self.pipeline).__name__} returned {type(result).__name__}"
            )
        if any(getattr(result, "nsfw_content_detected", None) or ()):
            warnings.warn(BLACKENED, stacklevel=2)
        if self.bank is None or not self._inpaints:
            return result.images
        # put the original object back, because the autoencoder has changed it a little
        mask, colours = mask.to(result.images), colours.to(result.images)
        return mask * colours + (1 - mask) * result.images

    def call(self, z: Sequence[int], label: int) -> dict[str, Any]:
        """Return the pipeline's arguments for this sample alone, without generator and photograph."""
        found: dict[str, Any] = {"num_inference_steps": self.steps}
        if self.kind == "class":
            found["class_labels"] = [label]
            found |= {"batch_size": 1} if "batch_size" in self.takes else {}
        else:
            found["prompt"] = self.prompt(label, z[2:])
            found |= {} if self.negative_prompt is None else {"negative_prompt": self.negative_prompt}
        found |= {} if self.guidance is None else {"guidance_scale": self.guidance}
        if "height" in self.takes:
            found |= {"height": self.image_size, "width": self.image_size}
        return found | ({} if self.bank is None else {"strength": self.strength})

    def _numbers(self, z: Tensor, labels: Tensor) -> Tensor:
        """Return the index of each sample's bank entry."""
        found = []
        for number, label in zip(z[:, 1].tolist(), labels.tolist(), strict=True):
            rows = self._entries[label]
            found.append(rows[number * len(rows) >> 31])
        return torch.stack(found)

    def _parts(self, z: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Return photograph, object colors, mask and background in [0, 1], at the size of the images."""
        parts = [part.float() / 255 for part in self.bank.parts(self._numbers(z, labels))]
        size = (self.image_size, self.image_size)
        if parts[0].shape[2:] == size:
            return tuple(parts)
        return tuple(F.interpolate(part, size, mode="bilinear", antialias=True).clamp(0, 1) for part in parts)

    def describe(self, z: Tensor, labels: Tensor) -> list[dict[str, Any]]:
        """Return the metadata of each sample, JSON-serializable.

        `pipeline(**call, generator=torch.Generator().manual_seed(seed))` makes the sample. With a bank, `photograph`
        names the file and the entry that provide the call's image and mask.
        """
        source = self._given["pipeline"]
        found = []
        entries = None if self.bank is None else self._numbers(z, labels).tolist()
        for place, (numbers, label) in enumerate(zip(z.tolist(), labels.tolist(), strict=True)):
            said: dict[str, Any] = {
                "pipeline": os.fspath(source) if isinstance(source, (str, os.PathLike)) else type(source).__name__,
                "pipeline_class": type(self.pipeline).__name__,
                "scheduler": type(self.pipeline.scheduler).__name__,
                "generator_seed": numbers[0],
                "call": self.call(numbers, label),
                "class_name": self._names[label],
                "nuisances": self.nuisances.names(numbers[2:]),
            }
            if entries is not None:
                said["photograph"] = {"file": self.bank.entries[entries[place]].file, "entry": entries[place]}
            found.append(said)
        return found

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the settings, not the weights, to a folder that every command and dataset accepts as a name.

        Raises:
            ValueError: the pipeline was given as an object, or a bank as one that has no folder. A file can only store
                names.
        """
        settings: dict[str, Any] = {}
        for name, value in self._given.items():
            if name in ("device", "dtype"):
                continue
            if name in ("guide", "inpaint"):
                value = getattr(getattr(value, "files", value), "path", value)
                if value is not None and not isinstance(value, (str, os.PathLike)):
                    raise ValueError(f"{name} must be a bank's folder for save(), got an object without one")
            if isinstance(value, os.PathLike):
                value = os.fspath(value)
            settings[name] = value
        if not isinstance(settings["pipeline"], str):
            raise ValueError("pipeline must be a name or a folder for save(), got an object: save_pretrained it first")
        Path(folder).mkdir(parents=True, exist_ok=True)
        with atomic_path(Path(folder, SETTINGS)) as temporary:
            Path(temporary).write_text(json.dumps(settings, indent=2, default=_plain) + "\n")
        return Path(folder)

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> DiffusionGenerator:
        """Load a generator from a folder of `save`, or a diffusers pipeline that has its own class names.

        Raises:
            ValueError: the settings are not what `save` writes.
        """
        path = Path(folder, SETTINGS)
        if not path.is_file():
            return cls(os.fspath(folder), device=device, dtype=dtype)
        try:
            settings = json.loads(path.read_text())
        except ValueError:
            settings = None
        if not isinstance(settings, dict):
            raise ValueError(f"{path} must be a JSON object, the arguments of DiffusionGenerator by name")
        try:
            return cls(**settings, device=device, dtype=dtype)
        except TypeError as error:
            if "argument" not in str(error):
                raise
            raise ValueError(f"{path} has settings that DiffusionGenerator does not take: {error}") from None

    def __reduce__(self) -> Any:
        # a pipeline given by name is opened again by the process that unpickles it
        if not isinstance(self._given["pipeline"], (str, os.PathLike)):
            return super().__reduce__()
        weight = next(self.parameters())
        return _again, ({**self._given, "device": weight.device, "dtype": weight.dtype},)

    def extra_repr(self) -> str:
        return f"{type(self.pipeline).__name__}, steps={self.steps}, nuisances: {self.nuisances}"


def _again(settings: dict[str, Any]) -> DiffusionGenerator:
    return DiffusionGenerator(**settings)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


register(Kind("diffusion", marker=SETTINGS, open=DiffusionGenerator.load))
register(Kind("diffusers", marker=PIPELINE, open=DiffusionGenerator.load))
