"""Grad-CAM maps: which layer to look at, and pytorch-grad-cam run on it without leaving a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from moxi_lite.errors import unknown_name
from moxi_lite.games import FloatArray
from moxi_lite.models import Classifier, dtype_of

Reshape = Callable[[Tensor], Tensor]

_PASS_A_LAYER = (
    "Pass target_layer=, a submodule or its dotted name, and if its output is not a feature map "
    "(1, channels, rows, columns), also reshape=, a function that makes one of it."
)


def gradcam_map(
    model: Classifier,
    pixels: Tensor,
    target: int,
    *,
    plus_plus: bool = False,
    smooth: str | None = None,
    target_layer: nn.Module | str | None = None,
    reshape: Reshape | None = None,
) -> FloatArray:
    """Grad-CAM or Grad-CAM++ of one image at the resolution of the layer.

    Parameters
    ----------
    model : Classifier
        The network; it is left as found.
    pixels : Tensor, shape (3, H, W)
        Preprocessed image.
    target : int
        Class whose raw score (logit) is differentiated.
    plus_plus : bool
        Weigh channels as Grad-CAM++ does.
    smooth : {None, "eigen", "aug"}
        See `moxi_lite.attribute`.
    target_layer, reshape : optional
        See `moxi_lite.attribute`.

    Returns
    -------
    ndarray of float64, shape (h, w)
        At least 0.

    Raises
    ------
    ImportError
        If pytorch-grad-cam is missing.
    ValueError, TypeError
        If no layer is found, or the one given is not fit for Grad-CAM.
    """
    library, scale_cam_image = _pytorch_grad_cam()
    module = model.module
    if next(module.parameters(), None) is None:
        raise ValueError(f"Grad-CAM looks at layers, but {model.name} has no parameters at all.")
    # A graph cannot be recorded in inference mode, which the caller may be in.
    with torch.inference_mode(False), torch.enable_grad(), _left_as_found(module):
        image = pixels.to(model.device, dtype_of(module), copy=True)[None].requires_grad_()
        layer, to_map = _resolve_layer(model, image.detach(), target_layer, reshape)
        method = library.GradCAMPlusPlus if plus_plus else library.GradCAM
        cam = method(module, [layer], reshape_transform=to_map)
        try:
            if smooth != "aug":
                return _map_at(cam, image, target, layer, eigen=smooth == "eigen")
            maps = []
            for transform in cam.tta_transforms:
                seen = _map_at(cam, transform.augment_image(image), target, layer)
                straight = transform.deaugment_mask(torch.from_numpy(seen)[None, None])
                maps.append(scale_cam_image(straight[0].numpy())[0])
            return np.mean(maps, axis=0, dtype=np.float64)
        finally:
            cam.activations_and_grads.release()


def _pytorch_grad_cam() -> tuple[Any, Callable[[np.ndarray], np.ndarray]]:
    try:
        import pytorch_grad_cam
        from pytorch_grad_cam.utils.image import scale_cam_image
    except ImportError as error:
        raise ImportError(
            f"Grad-CAM needs pytorch-grad-cam, which cannot be imported ({error}). Install it "
            'with: pip install "grad-cam>=1.5" (moxi-lite[book] includes it).'
        ) from error
    return pytorch_grad_cam, scale_cam_image


@contextmanager
def _left_as_found(module: nn.Module) -> Iterator[None]:
    """Undo pytorch-grad-cam's ``module.eval()``, submodule by submodule."""
    training = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, mode in training:
            part.training = mode


def _map_at(
    cam: Any, image: Tensor, target: int, layer: nn.Module, eigen: bool = False
) -> FloatArray:
    """Run forwards and backwards once; the library records and weighs, without its resizing."""
    recorder = cam.activations_and_grads
    score = recorder(image)[0, target]
    if len(recorder.activations) == 0:
        raise ValueError(f"target_layer {type(layer).__name__} is not run by this model.")
    if score.requires_grad:
        # Not score.backward(): nothing may accumulate in anybody's .grad.
        torch.autograd.grad(score, image, allow_unused=True)
    if len(recorder.gradients) == 0:
        raise ValueError(
            f"no gradient of the class's score reaches the target layer {type(layer).__name__}: "
            "the model detaches it or is not differentiable there. Pass another target_layer=."
        )
    activations = recorder.activations[0].double().numpy()
    gradients = recorder.gradients[0].double().numpy()
    plain = cam.get_cam_image(image, layer, None, activations, gradients)[0]
    if not eigen:
        return np.maximum(plain, 0)
    projection = cam.get_cam_image(image, layer, None, activations, gradients, eigen_smooth=True)[0]
    # A principal component has an arbitrary sign: take the one that agrees with the plain map.
    agreement = np.sum(projection * (plain - plain.mean()))
    return np.maximum(projection if agreement >= 0 else -projection, 0).astype(np.float64)


def _resolve_layer(
    model: Classifier,
    image: Tensor,
    target_layer: nn.Module | str | None,
    reshape: Reshape | None,
) -> tuple[nn.Module, Reshape]:
    """Return the layer and the function that makes its output a map, (1, channels, h, w)."""
    module = model.module
    if target_layer is None:
        layer = _before_last_attention(model)
        if layer is None:
            layer = _last_feature_map(model, image)
    else:
        layer = _named_layer(module, target_layer)
    return layer, _checked(reshape or _default_reshape(model))


def _named_layer(module: nn.Module, target_layer: nn.Module | str) -> nn.Module:
    named = {name: part for name, part in module.named_modules() if name}
    if isinstance(target_layer, str):
        if target_layer not in named:
            raise unknown_name("target_layer", target_layer, named)
        return named[target_layer]
    if not isinstance(target_layer, nn.Module):
        raise TypeError(
            "target_layer must be a submodule of the model or its dotted name, not "
            f"{type(target_layer).__name__}."
        )
    if not any(part is target_layer for part in named.values()):
        raise ValueError(
            f"target_layer {type(target_layer).__name__} is not part of this model: take it from "
            "model.module."
        )
    return target_layer


def _before_last_attention(model: Classifier) -> nn.Module | None:
    """Return the LayerNorm before the last attention of a Vision Transformer, as timm has it."""
    blocks = getattr(model.module, "blocks", None)
    if _token_grid(model) is None or not isinstance(blocks, nn.Sequential | nn.ModuleList):
        return None
    norm = getattr(blocks[-1], "norm1", None)
    return norm if hasattr(blocks[-1], "attn") and isinstance(norm, nn.Module) else None


def _token_grid(model: Classifier) -> tuple[int, int] | None:
    embed = getattr(model.module, "patch_embed", None)
    grid = getattr(embed, "grid_size", None)
    if grid is None or not hasattr(model.module, "num_prefix_tokens"):
        return None
    # grid_size is the grid of the size that the model was built for
    of_size = getattr(embed, "dynamic_feat_size", None)
    return tuple(grid if of_size is None else of_size(model.input_size))


def _last_feature_map(model: Classifier, image: Tensor) -> nn.Module:
    """Return the last module, in order of running, whose output is a feature map."""
    found: list[nn.Module] = []

    def look(part: nn.Module, _: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        if output.ndim == 4 and _channels_first(model.module, output)[0, 0].numel() > 1:
            found.append(part)
        elif output.ndim == 3:
            found.clear()  # tokens: whatever map came before is only their embedding

    handles = [part.register_forward_hook(look) for part in model.module.modules()]
    try:
        with torch.no_grad():
            model.module(image)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise ValueError(
            f"no layer for Grad-CAM is found in {model.name}: it is no Vision Transformer as timm "
            f"has them, nor does it end in convolutional feature maps. {_PASS_A_LAYER}"
        )
    return found[-1]


def _channels_first(module: nn.Module, output: Tensor) -> Tensor:
    # timm's Swin and its like say so if their maps are (1, h, w, channels).
    last = getattr(module, "output_fmt", "NCHW") == "NHWC"
    return output.permute(0, 3, 1, 2) if last else output


def _default_reshape(model: Classifier) -> Reshape:
    module, grid = model.module, _token_grid(model)

    def to_map(output: Tensor) -> Tensor:
        if output.ndim == 4:
            return _channels_first(module, output)
        if grid is None or output.ndim != 3:
            return output
        patches = output[:, module.num_prefix_tokens :]
        if patches.shape[1] != grid[0] * grid[1]:
            return output
        return patches.transpose(1, 2).unflatten(2, grid)

    return to_map


def _checked(reshape: Reshape) -> Reshape:
    def to_map(output: Tensor) -> Tensor:
        result = reshape(output) if isinstance(output, Tensor) else output
        if not isinstance(result, Tensor) or result.ndim != 4 or len(result) != 1:
            got = f"shape {tuple(result.shape)}" if isinstance(result, Tensor) else type(result)
            raise ValueError(
                f"the target layer's output is not a feature map but has {got}. {_PASS_A_LAYER}"
            )
        # A copy, since the next layer may work in place, for example a ReLU.
        return result.clone()

    return to_map
