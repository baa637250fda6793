"""Classifiers: loading, preprocessing, weights."""

from moxi_lite.models.classifier import Classifier, dtype_of, evaluating, patched_methods, state_of
from moxi_lite.models.hugging_face import TransformersViT, transformers_vits
from moxi_lite.models.load import (
    available_models,
    check_device,
    imagenet_class_names,
    load_model,
)
from moxi_lite.models.set_sum import (
    SET_SUM_MODELS,
    WEIGHTS_FOLDER,
    SetSumResNet,
    build_set_sum,
    load_set_sum,
    save_set_sum,
    set_sum_vit,
)
from moxi_lite.models.weights import (
    WeightsUnavailableError,
    file_sha256,
    why_unreachable,
)

__all__ = [
    "SET_SUM_MODELS",
    "WEIGHTS_FOLDER",
    "Classifier",
    "SetSumResNet",
    "TransformersViT",
    "WeightsUnavailableError",
    "available_models",
    "build_set_sum",
    "check_device",
    "dtype_of",
    "evaluating",
    "file_sha256",
    "imagenet_class_names",
    "load_model",
    "load_set_sum",
    "patched_methods",
    "save_set_sum",
    "set_sum_vit",
    "state_of",
    "transformers_vits",
    "why_unreachable",
]
