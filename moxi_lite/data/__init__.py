"""Photographs and composites of digits."""

from moxi_lite.data.digit_sources import DIGIT_SIDE
from moxi_lite.data.digits import (
    SOURCES,
    SPLITS,
    DigitPool,
    SetSumComposites,
    digit_pool,
    set_sum_composites,
    set_sum_labels,
    tile_cells,
)
from moxi_lite.data.downloads import ImagesUnavailableError
from moxi_lite.data.photos import (
    SAMPLE_PHOTOS,
    ImageNetSample,
    image_list_sha256,
    imagenet_sample,
    labelled_images,
    load_image,
    sample_photo,
)

__all__ = [
    "DIGIT_SIDE",
    "SAMPLE_PHOTOS",
    "SOURCES",
    "SPLITS",
    "DigitPool",
    "ImageNetSample",
    "ImagesUnavailableError",
    "SetSumComposites",
    "digit_pool",
    "image_list_sha256",
    "imagenet_sample",
    "labelled_images",
    "load_image",
    "sample_photo",
    "set_sum_composites",
    "set_sum_labels",
    "tile_cells",
]
