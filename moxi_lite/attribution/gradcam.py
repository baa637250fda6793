"""The Grad-CAM family: which layer to look at, and pytorch-grad-cam on it, leaving no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
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
    """Class activation map of the game's target, float64 (h, w), at least 0, as fine as the layer.

    `method` is the name of a class of pytorch-grad-cam, and the smoothings are the library's; the
    other parameters and the errors are those of `moxi_lite.attribute`.
    """
    try:
        import pytorch_grad_cam
    except ImportError as error:
        raise ImportError(
            f"Grad-CAM needs pytorch-grad-cam, which cannot be imported ({error}). Install it "
            'with: pip install "grad-cam>=1.5" (moxi-lite[book] includes it).'
        ) from error
    model, module = game.model, game.model.module
    if next(module.parameters(), None) is None:
        raise ValueError(f"Grad-CAM looks at layers, but {model.name} has no parameters at all.")
    # A graph cannot be recorded in inference mode, which the caller may be in.
    with torch.inference_mode(False), torch.enable_grad(), _left_as_found(module):
        image = game.pixels.to(model.device, dtype_of(module), copy=True)[None]
        if target_layer is None:
            layer = _default_layer(model, image)
        else:
            layer = _named_layer(module, target_layer)
        kind = _at_layer(getattr(pytorch_grad_cam, method))
        cam = kind(module, [layer], reshape_transform=_to_map(model, layer, reshape))
        try:
            smooth = {"aug_smooth": aug_smooth, "eigen_smooth": eigen_smooth}
            # A score without a graph may run backwards too: get_cam_image says what is wrong.
            targets = [lambda logits: logits[game.target].requires_grad_()]
            scaled = cam(image.requires_grad_(), targets, **smooth)[0].astype(np.float64)
        finally:
            cam.__exit__(None, None, None)  # "with" would print an IndexError and go on
        return scaled if aug_smooth else np.maximum(cam.unclipped, 0)


@cache
def _at_layer(method: Any) -> Any:
    """Extend a class of pytorch-grad-cam: its map is not resized, and kept as it is computed."""

    class AtLayer(method):
        unclipped: FloatArray  # the last map (h, w), before the library clips and scales it

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
            self.unclipped = maps[0].astype(np.float64)
            return maps

    return AtLayer


def _no_gradient(layer: nn.Module) -> ValueError:
    return ValueError(
        f"no gradient of the class's score reaches the target layer {type(layer).__name__}, it is "
        "None: the model detaches it, or is not differentiable there, as with quantised (int8) "
        "layers. Pass another target_layer=, or use a method without gradients, such as 'shapley'."
    )


@contextmanager
def _left_as_found(module: nn.Module) -> Iterator[None]:
    """Undo pytorch-grad-cam's ``eval()`` and ``zero_grad()``, and let no gradients accumulate."""
    training = [(part, part.training) for part in module.modules()]
    gradients = [(each, each.requires_grad, each.grad) for each in module.parameters()]
    try:
        module.requires_grad_(False)
        yield
    finally:
        for part, mode in training:
            part.training = mode
        for parameter, needed, gradient in gradients:
            parameter.requires_grad_(needed).grad = gradient


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


def _default_layer(model: Classifier, image: Tensor) -> nn.Module:
    """Return the LayerNorm before timm's last attention, else the last map that is computed."""
    module = model.module
    blocks = getattr(module, "blocks", None)
    if _token_grid(model) is not None and isinstance(blocks, nn.Sequential | nn.ModuleList):
        norm = getattr(blocks[-1], "norm1", None)
        if hasattr(blocks[-1], "attn") and isinstance(norm, nn.Module):
            return norm
    found: list[nn.Module] = []

    def look(part: nn.Module, _: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        if output.ndim == 4 and _channels_first(module, output)[0, 0].numel() > 1:
            found.append(part)
        elif output.ndim == 3:
            found.clear()  # tokens: whatever map came before is only their embedding

    handles = [part.register_forward_hook(look) for part in module.modules()]
    try:
        with torch.no_grad():
            module(image)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise ValueError(
            f"no layer for Grad-CAM is found in {model.name}: it is no Vision Transformer as timm "
            f"has them, nor does it end in convolutional feature maps. {_PASS_A_LAYER}"
        )
    return found[-1]


def _to_map(model: Classifier, layer: nn.Module, reshape: Reshape | None) -> Reshape:
    """Make a layer's output, or its gradient, a map (1, channels, h, w) in float64."""
    module: Any = model.module
    grid = _token_grid(model)

    def standard(output: Tensor) -> Tensor:
        if output.ndim == 4:
            return _channels_first(module, output)
        if output.ndim == 3 and grid is not None:
            patches = output[:, module.num_prefix_tokens :].transpose(1, 2)
            return patches.unflatten(2, grid) if patches.shape[2] == np.prod(grid) else output
        return output

    def to_map(output: Tensor | None) -> Tensor:
        if output is None:  # autograd's way to say that an operation has no derivative
            raise _no_gradient(layer)
        result = (reshape or standard)(output) if isinstance(output, Tensor) else output
        if not isinstance(result, Tensor) or result.ndim != 4 or len(result) != 1:
            got = f"shape {tuple(result.shape)}" if isinstance(result, Tensor) else type(result)
            raise ValueError(
                f"the target layer's output is not a feature map but has {got}. {_PASS_A_LAYER}"
            )
        # Copied, since the next layer may work in place, as a ReLU does. MPS has no float64.
        return result.detach().to("cpu", copy=True).double()

    return to_map


def _token_grid(model: Classifier) -> tuple[int, int] | None:
    """Grid of tokens of timm's Vision Transformers at the size of image that the model is fed."""
    size = getattr(getattr(model.module, "patch_embed", None), "dynamic_feat_size", None)
    tokens = hasattr(model.module, "num_prefix_tokens")
    return tuple(size(model.input_size)) if size is not None and tokens else None


def _channels_first(module: nn.Module, output: Tensor) -> Tensor:
    # timm's Swin and its like say so if their maps are (1, h, w, channels).
    last = getattr(module, "output_fmt", "NCHW") == "NHWC"
    return output.permute(0, 3, 1, 2) if last else output
