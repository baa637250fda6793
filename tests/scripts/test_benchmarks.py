"""The benchmark measures what it says: its reference, its steps and its counts are right."""

import numpy as np
import pytest
import torch

from benchmarks import flops, reference
from benchmarks.agreement import measure_agreement
from benchmarks.gpu import measure_lockstep
from benchmarks.report import table
from benchmarks.scaling import terms
from benchmarks.searches import measure_flip, measure_searches
from benchmarks.subjects import Subject
from benchmarks.timing import integrate, random_path, sampled_steps
from moxi_lite.patches import PatchGame
from moxi_lite.search import MODES, best_steps, explain


@pytest.fixture(scope="module")
def subject(tiny_vit):
    images = [torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in (0, 1)]
    return Subject(model=tiny_vit, images=images, real=False, description="tiny")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("image", [0, 1])
def test_reference_agrees_with_explain(subject, mode, image):
    game = PatchGame(subject.model, subject.images[image])
    ours = explain(game, mode)
    order, values = reference.search(subject.model.module, subject.images[image], game.target, mode)
    assert order == ours.order.tolist()
    np.testing.assert_allclose(values, ours.values, atol=1e-4)


def test_reference_stops_at_the_flip(subject):
    game = PatchGame(subject.model, subject.images[0])
    ours = explain(game, "deletion", stop="flip")
    order, _ = reference.search(
        subject.model.module, subject.images[0], game.target, "deletion", until_flip=True
    )
    assert order == ours.order.tolist()


@pytest.mark.parametrize("dtype", [None, "mixed"])
@pytest.mark.parametrize("mode", MODES)
def test_the_steps_that_are_timed_are_those_of_explain(subject, mode, dtype):
    game = PatchGame(subject.model, subject.images[0], dtype=dtype)
    ours = explain(game, mode)
    for k in range(game.n_players):
        (step,) = best_steps([(game, ours.visible(k))], mode)
        assert step.player == ours.order[k]
        assert step.value == pytest.approx(ours.values[k], abs=1e-4)


def test_candidate_lists_by_hand():
    assert reference.candidate_lists(3, [1], "insertion") == [[1, 0], [1, 1], [1, 2]]
    # patch 1 is gone already: its row is filler of the same length
    assert reference.candidate_lists(3, [1], "deletion") == [[2], [0], [0]]


def test_flops_by_hand():
    shape = flops.Shape(
        width=2, depth=2, hidden=8, n_patches=3, n_prefix=1, n_classes=5, patch_values=12
    )
    # 4 tokens: q, k, v and projection 4 x 2*4*2*2, attention 2 x 2*4*4*2, MLP 2 x 2*4*2*8
    assert flops.block_flops(shape, 4, 4) == 4 * 32 + 2 * 64 + 2 * 128
    # only one token read: k and v in full, the rest for one token
    assert flops.block_flops(shape, 4, 1) == 2 * 32 + 2 * 8 + 2 * 16 + 2 * 32
    assert flops.row_flops(shape, 3, plain=True) == 2 * 512 + 20
    shared = 4 * 3 * 2 * 2 * 2  # queries, keys and values of the first block
    assert flops.row_flops(shape, 3, plain=False) == 512 + 176 + 20 - shared
    assert flops.embedding_flops(shape) == 2 * 3 * 12 * 2
    assert [flops.step_size(3, k, "insertion") for k in range(3)] == [(3, 1), (2, 2), (1, 3)]
    assert [flops.step_size(3, k, "deletion") for k in range(3)] == [(3, 2), (2, 1), (1, 0)]


def test_flops_as_torch_counts_them(subject):
    from torch.utils.flop_counter import FlopCounterMode

    module = subject.model.module
    shape = flops.Shape.of(module)
    images = torch.stack(subject.images)
    with FlopCounterMode(display=False) as counter:
        reference.forward(module, images, [[0, 5, 7]] * 2)
    counted = 2 * (flops.row_flops(shape, 3, plain=True) + flops.embedding_flops(shape))
    assert counter.get_total_flops() == counted
    game = PatchGame(subject.model, subject.images[0])
    state = (game, random_path(16, "insertion")[2])
    with FlopCounterMode(display=False) as counter:
        best_steps([state], "insertion")
    assert counter.get_total_flops() == flops.step_flops(shape, 2, "insertion", plain=False)


def test_cost_of_a_search_is_cubic_plus_quartic():
    shape = flops.Shape(
        width=192, depth=12, hidden=768, n_patches=784, n_prefix=1, n_classes=1000, patch_values=768
    )
    n = shape.n_patches
    cubic, quartic = terms(shape, "insertion")
    assert cubic == pytest.approx(12 * 24 * 192**2 * n**3 / 6, rel=0.02)
    assert quartic == pytest.approx(12 * 4 * 192 * n**4 / 12, rel=0.02)
    cubic, quartic = terms(shape, "deletion")
    assert cubic == pytest.approx(12 * 24 * 192**2 * n**3 / 3, rel=0.02)
    assert quartic == pytest.approx(12 * 4 * 192 * n**4 / 4, rel=0.02)
    everything = flops.search_flops(shape, "deletion", plain=True)
    assert cubic + quartic == pytest.approx(everything, rel=0.01)  # the head is the rest


def test_integration_is_exact_where_the_pace_is_linear():
    seconds = [(k + 1) * (2 + 3 * k) for k in range(10)]  # work k + 1, pace 2 + 3k
    sampled = {k: seconds[k] for k in (0, 4, 9)}
    assert integrate(10, sampled, lambda k: k + 1) == pytest.approx(sum(seconds))


def test_samples_span_the_search():
    assert sampled_steps(196, 4) == [0, 63, 125, 188]


def test_small_run_from_end_to_end(subject):
    searches = measure_searches(subject, n_samples=2, rounds=1)
    assert set(searches["seconds"]) == {"fp32", "bf16", "mixed", "reference"}
    flip = measure_flip(subject, searches["seconds"]["reference"]["insertion"])
    agreement = measure_agreement(subject, 2, {mode: [0, 3] for mode in MODES})
    assert agreement["n_steps"] == 8
    assert agreement["largest_loss"] >= 0
    assert 1 <= agreement["largest_rank"] <= 16
    lockstep = measure_lockstep(subject, n_images=2, budget=3)
    results = {
        "machine": {"device": "cpu"},
        "real_weights": False,
        "searches": searches,
        "flip": flip,
        "agreement": agreement,
        "gpu": lockstep,
    }
    text = table(results)
    assert "full insertion: reference / fp32" in text
    assert "images/s" in text
