"""Grad-CAM sheets: the image regions that predictions depend on, for several models (GenInt, Figure 7).

The method is by Selvaraju et al., 2019; the grad-cam package computes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import to_pil_image

from genaug._common.plotting import FAINT, INK, new_figure, paste, save, text_width, write
from genaug.evaluation.scoring import preprocessing
from genaug.interventions.steering import evaluating, find_layer, generator_device

SMALLEST = 128  # pixels; smaller images are enlarged by the largest whole factor that stays within this side
OPACITY = 0.5  # of the map over its image
WRONG = "#b3261e"


def grad_cam(
    model: nn.Module,
    inputs: Tensor,
    *,
    layer: str | None = None,
    targets: Sequence[int] | Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute Grad-CAM maps, which show where a model finds the evidence for a class.

    The model runs in evaluation mode. Its gradients are restored afterwards.

    Args:
        model: (B, 3, H, W) -> (B, num_classes).
        inputs: what the model takes, (B, 3, H, W) float.
        layer: name of the layer whose activations are weighted (default: the last one with an output (B, C, h, w)
            larger than one pixel, as in the Grad-CAM paper; a ResNet's `layer4`).
        targets: the class of each image to explain, (B,) (default: the model's own answer).

    Returns:
        Maps (B, H, W) float32 on the CPU, each scaled from 0 to 1, and the model's answers (B,) int64.

    Raises:
        ModuleNotFoundError: grad-cam is not installed.
        ValueError: no layer has such an output, there is no layer of this name, or shapes do not match.
        TypeError: the model is not a module.
    """
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ModuleNotFoundError:
        raise ModuleNotFoundError("Grad-CAM needs grad-cam: pip install 'genaug[eval]'") from None
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch module, whose layers Grad-CAM looks into, got {type(model).__name__}")
    if inputs.ndim != 4 or not len(inputs) or not inputs.is_floating_point():
        raise ValueError(f"inputs must be (B, 3, H, W) floats with B > 0, got {inputs.dtype} {tuple(inputs.shape)}")
    chosen = None if targets is None else torch.as_tensor(targets)
    if chosen is not None and chosen.shape != inputs.shape[:1]:
        raise ValueError(f"targets must be ({len(inputs)},), got {tuple(chosen.shape)}")
    device = generator_device(model)
    gradients = [(weight, weight.grad) for weight in model.parameters()]
    try:
        # this overrides the caller's modes: inference mode has no gradients, and NumPy has no bfloat16
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
            evaluating(model),
        ):
            # only inputs with gradients give gradients to the activations of a frozen model
            inputs = inputs.detach().to(device).clone().requires_grad_()
            target_layer = find_layer(model, _last_spatial(model, inputs) if layer is None else layer)
            asked = None if chosen is None else [ClassifierOutputTarget(int(c)) for c in chosen]
            with GradCAM(model=model, target_layers=[target_layer]) as cam:
                maps = cam(input_tensor=inputs, targets=asked)
                answers = cam.outputs.argmax(dim=1).cpu()
    finally:
        for weight, gradient in gradients:
            weight.grad = gradient
    return torch.from_numpy(maps).float(), answers


def save_grad_cams(
    path: str | os.PathLike[str],
    models: Mapping[str, nn.Module],
    images: Tensor,
    *,
    labels: Sequence[int] | Tensor | None = None,
    names: Sequence[str] | None = None,
    layers: Mapping[str, str] | None = None,
    transform: Callable[[Any], Tensor] | None = None,
    title: str = "Where predictions come from",
) -> None:
    """Draw a sheet like GenInt's Figure 7: a row of images, then one row per model with its maps and answers.

    Blue regions do not matter for the model's answer; red ones matter most.

    Args:
        path: image file; its suffix sets the format, such as .png.
        models: the models by the names of their rows, such as {"baseline": ..., "GenInt": ...}.
        images: (N, 3, H, W) uint8; one column each.
        labels: the true classes. They are written above the images, and answers are marked as right or wrong.
        names: names of the classes (default: their numbers).
        layers: name of a model -> layer, as `grad_cam` takes it; models that are left out use its default.
        transform: PIL image -> what the models take, without cropping (default:
            `scoring.preprocessing(resize=None, crop=None)`, for classifiers of ImageNet).
        title: title of the sheet.

    Raises:
        ModuleNotFoundError: grad-cam is not installed.
        ValueError: there are no models or images, shapes do not match, or as `grad_cam`.
        TypeError: images are not uint8, or a model is not a module.
        OSError: the folder cannot be written.
    """
    if not models:
        raise ValueError("models must not be empty")
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8, got {images.dtype}")
    if images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise ValueError(f"images must be (N, 3, H, W) with N > 0, got {tuple(images.shape)}")
    truth = None if labels is None else torch.as_tensor(labels)
    if truth is not None and truth.shape != images.shape[:1]:
        raise ValueError(f"labels must be ({len(images)},), got {tuple(truth.shape)}")
    if unknown := set(layers or {}) - set(models):
        raise ValueError(f"layers must name models, {', '.join(models)}, got {min(unknown)!r}")
    transform = preprocessing(resize=None, crop=None) if transform is None else transform
    images = images.detach().as_subclass(Tensor).cpu()
    inputs = torch.stack([transform(to_pil_image(image)) for image in images])
    if inputs.shape[2:] != images.shape[2:]:
        sizes = f"{tuple(inputs.shape[2:])} and {tuple(images.shape[2:])}"
        raise ValueError(f"transform must keep an image's size, or its map would not lie on it, got {sizes}")
    found = {name: grad_cam(model, inputs, layer=(layers or {}).get(name)) for name, model in models.items()}

    scale = max(1, SMALLEST // min(images.shape[2:]))
    large = images.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    high, wide = large.shape[2:]
    margin, gap, caption = 24, 8, 22
    left = margin + max(text_width(name, 11) for name in ("image", *models)) + 16
    above = 52 + (22 if truth is not None else 0)
    width = max(left + len(images) * (wide + gap) - gap + margin, 2 * margin + text_width(title, 14, weight="bold"))
    row = high + caption + gap

    def named(number: int) -> str:
        return names[number] if names is not None and number < len(names) else str(number)

    def fitting(text: str) -> str:
        while text_width(text, 9) > wide and len(text) > 1:
            text = text.rstrip("…")[:-1].rstrip() + "…"
        return text

    with new_figure(width, above + high + gap + len(models) * row + margin - gap) as figure:
        write(figure, margin, 34, title, weight="bold", size=14)
        write(figure, left - 16, above + high / 2, "image", ha="right", va="center")
        for i, image in enumerate(large):
            x = left + i * (wide + gap)
            paste(figure, image, x, above)
            if truth is not None:
                write(figure, x + wide / 2, above - 8, fitting(named(int(truth[i]))), ha="center", size=9, color=FAINT)
        for place, (name, (maps, answers)) in enumerate(found.items()):
            y = above + high + gap + place * row
            write(figure, left - 16, y + high / 2, name, ha="right", va="center")
            shown = _overlaid(large, maps.repeat_interleave(scale, 1).repeat_interleave(scale, 2))
            for i, image in enumerate(shown):
                x = left + i * (wide + gap)
                paste(figure, image, x, y)
                answer = int(answers[i])
                mark = "" if truth is None else "✓ " if answer == int(truth[i]) else "✗ "
                colour = WRONG if mark == "✗ " else INK
                write(
                    figure,
                    x + wide / 2,
                    y + high + 15,
                    fitting(mark + named(answer)),
                    ha="center",
                    size=9,
                    color=colour,
                )
        save(figure, path)


def _overlaid(images: Tensor, maps: Tensor) -> Tensor:
    """Overlay maps (N, H, W) in [0, 1], from blue to red, on images (N, 3, H, W) uint8."""
    from matplotlib import colormaps

    colours = torch.from_numpy(colormaps["jet"](maps.numpy())[..., :3]).permute(0, 3, 1, 2) * 255
    return torch.lerp(images.double(), colours.double(), OPACITY).round().to(torch.uint8)


def _last_spatial(model: nn.Module, inputs: Tensor) -> str:
    """Return the last layer whose output (B, C, h, w) is larger than one pixel; of nested layers, the outermost."""
    last = ""

    def note(name: str) -> Callable[..., None]:
        def see(module: nn.Module, arguments: Any, output: Any) -> None:
            nonlocal last
            if isinstance(output, Tensor) and output.ndim == 4 and max(output.shape[2:]) > 1:
                last = name

        return see

    handles = [module.register_forward_hook(note(name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            model(inputs[:1])
    finally:
        for handle in handles:
            handle.remove()
    if not last:
        raise ValueError(f"layer must be named: no layer of {type(model).__name__} returns (B, C, h, w)")
    return last
