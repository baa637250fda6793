"""The Grad-CAM family: which layer to look at, and pytorch-grad-cam on it, leaving no trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from moxi_lite.errors import unknown_name
from moxi_lite.games import FloatArray
from moxi_lite.models import Classifier, dtype_of
from moxi_lite.patches import PatchGame

Reshape = Callable[[Tensor], Tensor]

_PASS_A_LAYER = (
    "Pass target_layer=, a submodule or its dotted name, and if its output is not a feature map "
    "(1, channels, rows, columns), also reshape=, a function that makes one of it."
)


def gradcam_map(
    game: PatchGame,
    *,
    method: str = "GradCAM",
    aug_smooth: bool = False,
    eigen_smooth: bool = False,
    target_layer: nn.Module | str | None = None,
    reshape: Reshape | None = None,
) -> FloatArray:
    """Class activation map of the game's target, float64 (h, w), as fine as the layer.

    What the published map cuts to 0 is negative here, by its score before that. `method` is the
    name of a class of pytorch-grad-cam, and the smoothings are the library's; the other parameters
    and the errors are those of `moxi_lite.attribute`.
    """
    try:
        import pytorch_grad_cam
    except ImportError as error:
        raise ImportError(
            f"Grad-CAM needs pytorch-grad-cam, which cannot be imported ({error}). Install it "
            'with: pip install "grad-cam>=1.5".'
        ) from error
    model, module = game.model, game.model.module
    if next(module.parameters(), None) is None:
        raise ValueError(f"Grad-CAM looks at layers, but {model.name} has no parameters at all.")
    # A graph cannot be recorded in inference mode, which the caller may be in.
    with torch.inference_mode(False), torch.enable_grad(), _frozen(module):
        image = game.pixels.to(model.device, dtype_of(module), copy=True)[None]
        if target_layer is None:
            layer = _default_layer(model, image, game.target)
        else:
            layer = _named_layer(module, target_layer)
        kind = _at_layer(getattr(pytorch_grad_cam, method))
        cam = kind(_Scored(model), [layer], reshape_transform=_to_map(model, layer, reshape))
        cam.unclipped = []
        try:
            smooth = {"aug_smooth": aug_smooth, "eigen_smooth": eigen_smooth}
            # A score without a graph may run backwards too: get_cam_image says what is wrong.
            targets = [lambda logits: logits[game.target].requires_grad_()]
            scaled = cam(image.requires_grad_(), targets, **smooth)[0].astype(np.float64)
        finally:
            cam.__exit__(None, None, None)  # "with" would print an IndexError and go on
        if not aug_smooth:
            return cam.unclipped[0]
        turned = [
            view.deaugment_mask(torch.from_numpy(cells)[None, None])[0, 0].numpy()
            for view, cells in zip(cam.tta_transforms, cam.unclipped, strict=True)
        ]
        return np.where(scaled > 0, scaled, np.minimum(np.mean(turned, axis=0), 0))


@cache
def _at_layer(method: Any) -> Any:
    """Extend a class of pytorch-grad-cam: its map is not resized, and kept as it is computed."""

    class AtLayer(method):
        unclipped: list[FloatArray]  # maps (h, w), before the library clips and scales them

        def get_target_width_height(self, input_tensor: Tensor) -> None:
            """Return None: no resizing to the image."""

        def get_cam_image(self, *given: Any) -> np.ndarray:
            """Fix the sign of the principal component; the last argument asks for it."""
            *inputs, eigen_smooth = given
            _, layer, _, activations, gradients = inputs
            if activations is None:
                raise ValueError(f"target_layer {type(layer).__name__} is not run by this model.")
            if gradients is None:
                raise _no_gradient(layer)
            maps = plain = super().get_cam_image(*inputs)
            if eigen_smooth:
                maps = super().get_cam_image(*inputs, eigen_smooth=True)
                # A principal component has an arbitrary sign: take that of the plain map.
                maps = maps if np.sum(maps * (plain - plain.mean())) >= 0 else -maps
            self.unclipped.append(maps[0].astype(np.float64))
            return maps

    return AtLayer


def _no_gradient(layer: nn.Module) -> ValueError:
    return ValueError(
        f"no gradient of the class's score reaches the target layer {type(layer).__name__}, it is "
        "None: the model detaches it, or is not differentiable there, as with quantised (int8) "
        "layers. Pass another target_layer=, or use a method without gradients, such as 'shapley'."
    )


class _Scored(nn.Module):
    """A classifier's logits; pytorch-grad-cam may not touch the modes and gradients behind them."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model, self.module = model, model.module

    def forward(self, images: Tensor) -> Tensor:
        return self.model.to_logits(self.module(images))

    def eval(self) -> _Scored:
        return self  # adapters merge their weights in it

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Keep the caller's gradients."""


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Let no gradients accumulate in parameters."""
    needed = [each for each in module.parameters() if each.requires_grad]
    try:
        for each in needed:
            each.requires_grad_(False)
        yield
    finally:
        for each in needed:
            each.requires_grad_(True)


def _named_layer(module: nn.Module, target_layer: nn.Module | str) -> nn.Module:
    named = {name: part for name, part in module.named_modules() if name}
    if isinstance(target_layer, str) and target_layer not in named:
        raise unknown_name("target_layer", target_layer, named)
    layer = named[target_layer] if isinstance(target_layer, str) else target_layer
    kind = type(layer).__name__
    if not isinstance(layer, nn.Module):
        raise TypeError(
            f"target_layer must be a submodule of the model or its dotted name, not {kind}."
        )
    if all(part is not layer for part in named.values()):
        raise ValueError(
            f"target_layer {kind} is not part of this model: take it from model.module."
        )
    return layer


def _default_layer(model: Classifier, image: Tensor, target: int) -> nn.Module:
    """Return the last layer that says where: a map, or the last LayerNorm or so of as many tokens.

    Of timm's Vision Transformers it is the LayerNorm before the last attention.
    """
    module = model.module
    blocks = getattr(module, "blocks", None)
    if hasattr(module, "num_prefix_tokens") and isinstance(blocks, nn.Sequential | nn.ModuleList):
        norm = getattr(blocks[-1], "norm1", None)
        if hasattr(blocks[-1], "attn") and isinstance(norm, nn.Module):
            return norm
    ran: list[tuple[nn.Module, Tensor]] = []
    handles = [
        part.register_forward_hook(lambda part, _, output: ran.append((part, output)))
        for part in module.modules()
    ]
    try:
        score = model.to_logits(module(image.clone().requires_grad_()))[0, target]
    finally:
        for handle in handles:
            handle.remove()
    # A layer that runs twice, such as a shared ReLU, has no output of its own; what a dropout or a
    # softmax gives may be attention, and flattened maps have their channels first.
    runs = Counter(part for part, _ in ran)
    names = {part: name for name, part in module.named_modules()}
    seen = [
        (part, output)
        for part, output in ran
        if isinstance(output, Tensor) and output.ndim > 2 and runs[part] == 1
        if not isinstance(part, nn.Dropout | nn.Softmax | nn.Flatten)
    ]
    maps = [(*each, cells) for each in seen if (cells := _as_map(model, each[1])) is not None]
    maps = [each for each in maps if each[2][0, 0].numel() > 1]
    if not maps:
        shown = ", ".join(f"{names[part]} {tuple(output.shape)}" for part, output in seen[-8:])
        raise ValueError(
            f"no layer for Grad-CAM is found in {model.name}: none gives a feature map, or tokens, "
            f"in the proportions of its images, {model.input_size[0]}x{model.input_size[1]}. "
            f"{_PASS_A_LAYER} The last to run: {shown or 'none'}."
        )
    tracked = [each for each in maps if each[1].requires_grad]
    if score.requires_grad and tracked:
        gradients = torch.autograd.grad(score, [each[1] for each in tracked], allow_unused=True)
        laid_out = [None if each is None else _as_map(model, each) for each in gradients]
        read = [each is not None and bool(each.any()) for each in laid_out]
        maps = [each for each, is_read in zip(tracked, read, strict=True) if is_read] or maps
    last, output, cells = maps[-1]
    tokens = [part for part, out, c in maps if out.ndim == 3 and c.shape[2:] == cells.shape[2:]]
    images = [part for part, out, _ in maps if out.ndim == 4]
    if output.ndim == 3 and (normed := [part for part in tokens if _is_norm(part, names[part])]):
        return normed[-1]
    # never normalised, and few: convolutions whose maps are pooled by attention, as in CLIP
    return images[-1] if len(images) > len(tokens) else last


def _is_norm(part: nn.Module, name: str) -> bool:
    named = name.rpartition(".")[2].startswith("norm") and not isinstance(part, nn.Identity)
    return named or isinstance(part, nn.LayerNorm)


def _to_map(model: Classifier, layer: nn.Module, reshape: Reshape | None) -> Reshape:
    """Make a layer's output, or its gradient, a map (1, channels, h, w) in float64."""

    def to_map(output: Tensor | None) -> Tensor:
        if output is None:  # autograd's way to say that an operation has no derivative
            raise _no_gradient(layer)
        lay_out = reshape or partial(_as_map, model)
        result = lay_out(output) if isinstance(output, Tensor) else None
        if not isinstance(result, Tensor) or result.ndim != 4 or len(result) != 1:
            given = output if reshape is None else result
            got = f"shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given)
            raise ValueError(
                "the target layer's output is not a feature map in the proportions of the image, "
                f"{model.input_size[0]}x{model.input_size[1]}, but has {got}. {_PASS_A_LAYER}"
            )
        # Copied, since the next layer may work in place, as a ReLU does. MPS has no float64.
        return result.detach().to("cpu", copy=True).double()

    return to_map


def _as_map(model: Classifier, output: Tensor) -> Tensor | None:
    """Lay a layer's output out as (1, channels, h, w); None where h : w is not as in the image."""
    height, width = model.input_size

    def cells_off(rows: int, columns: int) -> float:
        return abs(rows * width - columns * height) / max(height, width)

    if output.ndim == 4 and len(output) == 1:
        maps = [output, output.permute(0, 3, 1, 2)]
        if getattr(model.module, "output_fmt", "NCHW") == "NHWC":  # timm's Swin: decides a tie
            maps.reverse()
        best = min(maps, key=lambda each: cells_off(*each.shape[2:]))
        return best if cells_off(*best.shape[2:]) <= 1 else None  # rounded where strides are odd
    if output.ndim == 3 and len(output) == 1:
        for n_prefix in (getattr(model.module, "num_prefix_tokens", 0), *range(9)):
            n_patches = max(output.shape[1] - n_prefix, 0)
            rows = round((n_patches * height / width) ** 0.5)
            if rows and n_patches % rows == 0 and not cells_off(rows, n_patches // rows):
                tokens = output[:, n_prefix:].transpose(1, 2)
                return tokens.unflatten(2, (rows, n_patches // rows))
    return None
