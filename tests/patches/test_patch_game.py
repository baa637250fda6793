"""PatchGame against plain loops over images masked by hand; memory; bad input."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from moxi_lite.patches import PatchGame, mean_baseline
from moxi_lite.search import explain, explain_many


@pytest.fixture
def pixels(tiny_vit):
    return torch.randn(3, *tiny_vit.input_size, generator=torch.Generator().manual_seed(2))


def random_coalitions(m, n, seed=0):
    return np.random.default_rng(seed).random((m, n)) < np.linspace(0, 1, m)[:, None]


def plain_log_odds(logits, target):
    p = torch.softmax(logits.double(), dim=-1)[target]
    return float(torch.log(p / (1 - p)))


def test_dropping_equals_a_loop_over_gathered_tokens(tiny_vit, pixels):
    game = PatchGame(tiny_vit, pixels, target=2)
    coalitions = random_coalitions(12, game.n_players)
    module = tiny_vit.module
    for coalition, reward in zip(coalitions, game(coalitions), strict=True):
        tokens = module._pos_embed(module.patch_embed(pixels[None]))
        keep = [0, *(1 + np.flatnonzero(coalition))]
        logits = module.forward_head(module.norm(module.blocks(tokens[:, keep])))[0]
        assert reward == pytest.approx(plain_log_odds(logits, 2), abs=1e-5)


def test_masking_equals_a_loop_over_images_painted_by_hand(tiny_cnn):
    height, width = tiny_cnn.input_size
    pixels = torch.randn(3, height, width, generator=torch.Generator().manual_seed(3))
    game = PatchGame(tiny_cnn, pixels, target=1, masking="mean", grid=(2, 4))
    coalitions = random_coalitions(10, 8)
    said = game.outcome(coalitions)
    rewards, predictions = said.rewards, said.predictions
    for row, coalition in enumerate(coalitions):
        painted = mean_baseline(pixels)
        for patch in np.flatnonzero(coalition):
            y, x = patch // 4 * (height // 2), patch % 4 * (width // 4)
            here = slice(y, y + height // 2), slice(x, x + width // 4)
            painted[:, *here] = pixels[:, *here]
        logits = tiny_cnn.module(painted[None])[0]
        assert rewards[row] == pytest.approx(plain_log_odds(logits, 1), abs=1e-5)
        assert predictions[row] == int(logits.argmax())


@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_batches_do_not_change_rewards(tiny_vit, pixels, batch_size):
    coalitions = random_coalitions(17, 16)
    expected = PatchGame(tiny_vit, pixels)(coalitions)
    rewards = PatchGame(tiny_vit, pixels, batch_size=batch_size)(coalitions)
    np.testing.assert_allclose(rewards, expected, atol=1e-5)


def test_everything_present_is_the_model(tiny_vit, pixels):
    game = PatchGame(tiny_vit, pixels)
    logits = tiny_vit.module(pixels[None])
    np.testing.assert_allclose(game.logits(np.ones(16, bool)), logits.numpy(), atol=1e-5)
    assert game.target == game.predicted == int(logits.argmax())
    assert game.n_evaluations == 1


def test_outcome_matches_logits(tiny_vit, pixels):
    game = PatchGame(tiny_vit, pixels, target=3)
    coalitions = random_coalitions(9, 16)
    outcome = game.outcome(coalitions)
    p = torch.softmax(torch.from_numpy(game.logits(coalitions)), dim=1).numpy()
    np.testing.assert_array_equal(outcome.predictions, p.argmax(axis=1))
    np.testing.assert_allclose(outcome.confidences, p.max(axis=1), rtol=1e-6)
    np.testing.assert_allclose(1 / (1 + np.exp(-outcome.rewards)), p[:, 3], rtol=1e-4)


def test_one_coalition_and_none(tiny_vit, pixels):
    game = PatchGame(tiny_vit, pixels)
    assert game(np.zeros(16, bool)).shape == (1,)
    assert game(np.zeros((0, 16), bool)).shape == (0,)


class Hungry(torch.nn.Module):
    """Runs out of memory above a number of images, like a small GPU."""

    def __init__(self, module, most):
        super().__init__()
        self.module, self.most, self.batches = module, most, []

    def forward(self, batch):
        self.batches.append(len(batch))
        if len(batch) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return self.module(batch)


def hungry(classifier, most):
    return replace(classifier, module=Hungry(classifier.module, most))


def test_the_batch_halves_itself_when_memory_runs_out(tiny_cnn):
    pixels = torch.randn(3, *tiny_cnn.input_size, generator=torch.Generator().manual_seed(4))
    coalitions = random_coalitions(20, 16)
    expected = PatchGame(tiny_cnn, pixels, masking="zero", grid=(4, 4))(coalitions)
    model = hungry(tiny_cnn, most=3)
    game = PatchGame(model, pixels, masking="zero", grid=(4, 4), batch_size=16)
    np.testing.assert_allclose(game(coalitions), expected, atol=1e-6)
    # one image at the start (the prediction), then 16, 8, 4: too many; 2 fit
    assert model.module.batches == [1, 16, 8, 4] + [2] * 10
    assert game.n_evaluations == 20


@pytest.mark.parametrize(
    "words", ["DefaultCPUAllocator: not enough memory", "CUDA error: out of memory"]
)
def test_every_way_of_running_out_of_memory_is_known(tiny_cnn, words):
    class Full(torch.nn.Module):
        def forward(self, batch):
            if len(batch) > 1:
                raise RuntimeError(words)
            return batch.mean(dim=(2, 3))

    pixels = torch.rand(3, *tiny_cnn.input_size)
    game = PatchGame(replace(tiny_cnn, module=Full()), pixels, masking="zero", grid=2)
    assert game(random_coalitions(4, 4)).shape == (4,)


def test_the_smallest_batch_size_holds_for_all_in_lockstep(tiny_cnn):
    model = hungry(tiny_cnn, most=100)
    pixels = torch.rand(3, *tiny_cnn.input_size)
    games = [
        PatchGame(model, pixels, masking="zero", grid=2, batch_size=size) for size in (None, 3)
    ]
    model.module.batches.clear()
    explain_many(games)
    assert max(model.module.batches) == 3


def test_scores_that_are_not_finite_are_refused_at_once(tiny_cnn):
    class Broken(torch.nn.Module):
        def forward(self, batch):
            return batch.mean(dim=(2, 3)) * torch.nan

    with pytest.raises(ValueError, match="NaN or infinite scores"):
        PatchGame(
            replace(tiny_cnn, module=Broken()), torch.rand(3, *tiny_cnn.input_size), masking="zero"
        )


def test_when_one_image_is_too_much_the_error_says_so(tiny_cnn):
    pixels = torch.zeros(3, *tiny_cnn.input_size)
    with pytest.raises(MemoryError, match="not even one image"):
        PatchGame(hungry(tiny_cnn, most=0), pixels, masking="zero")


def test_other_errors_of_the_model_are_not_swallowed(tiny_cnn):
    class Broken(torch.nn.Module):
        def forward(self, batch):
            raise RuntimeError("broken model")

    with pytest.raises(RuntimeError, match="broken model"):
        PatchGame(
            replace(tiny_cnn, module=Broken()), torch.zeros(3, *tiny_cnn.input_size), masking="zero"
        )


def test_low_precision_is_close_and_leaves_the_model_alone(tiny_vit, pixels):
    coalitions = random_coalitions(9, 16)
    expected = PatchGame(tiny_vit, pixels, target=0)(coalitions)
    rewards = PatchGame(tiny_vit, pixels, target=0, dtype=torch.bfloat16)(coalitions)
    assert 0 < np.abs(rewards - expected).max() < 0.2
    assert next(tiny_vit.module.parameters()).dtype == torch.float32


def test_photograph_and_preprocessed_tensor_agree(tiny_vit):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    everything = np.ones(16, bool)
    by_photo = PatchGame(tiny_vit, photo)(everything)
    assert by_photo == PatchGame(tiny_vit, tiny_vit.preprocess(photo))(everything)


def test_a_photograph_is_turned_upright(tiny_vit):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
    stored = photo.transpose(Image.Transpose.ROTATE_90)
    stored.getexif()[0x0112] = 6  # to be turned clockwise by a quarter
    expected, found = PatchGame(tiny_vit, photo), PatchGame(tiny_vit, stored)
    torch.testing.assert_close(found.pixels, expected.pixels)


@pytest.mark.parametrize("masking", ["drop", "mean"])
def test_the_callers_tensor_may_be_overwritten(tiny_vit, pixels, masking):
    buffer, rows = pixels.clone(), np.eye(16, dtype=bool)
    game = PatchGame(tiny_vit, buffer, masking=masking)
    before = game(rows)
    buffer.zero_()
    np.testing.assert_array_equal(game(rows), before)
    torch.testing.assert_close(game.pixels.cpu(), pixels)


def test_the_callers_baseline_may_be_overwritten(tiny_vit, pixels):
    baseline, rows = torch.ones_like(pixels), np.eye(16, dtype=bool)
    game = PatchGame(tiny_vit, pixels, masking=baseline)
    before = game(rows)
    baseline.zero_()
    np.testing.assert_array_equal(game(rows), before)


def test_flip_on_a_real_search(tiny_vit, pixels):
    game = PatchGame(tiny_vit, pixels)
    other = (game.predicted + 1) % 5
    game = PatchGame(tiny_vit, pixels, target=other)
    ex = explain(game, stop="flip")
    assert ex.stop_reason in ("flip", "all")
    reached = np.array([ex.start_prediction, *ex.predictions]) == other
    assert not reached[:-1].any()
    assert reached.any() == (ex.stop_reason == "flip")
    # target is not what the full image shows, so a deletion has nothing to flip
    assert len(explain(game, "deletion", stop="flip")) == 0


def test_explanation_carries_what_the_search_saw(tiny_vit, pixels):
    game = PatchGame(tiny_vit, pixels)
    ex = explain(game, budget=5)
    for step in range(1, 6):
        outcome = game.outcome(ex.visible(step))
        assert ex.values[step - 1] == pytest.approx(outcome.rewards[0], abs=1e-5)
        assert ex.predictions[step - 1] == outcome.predictions[0]
        assert ex.confidences[step - 1] == pytest.approx(outcome.confidences[0], abs=1e-5)
    assert ex.grid == (4, 4) and ex.heatmap().shape == (4, 4)
    assert (ex.masking, ex.reward) == ("drop", "log_odds")
    assert set(ex.labels) >= {game.target, *ex.predictions.tolist()}
    np.testing.assert_array_equal(ex.image, game.display)


def test_probability_rewards_give_one_order_and_the_logit_may_not(tiny_vit, pixels):
    orders = [
        explain(PatchGame(tiny_vit, pixels, target=1, reward=reward)).order.tolist()
        for reward in ("log_odds", "log_probability", "probability")
    ]
    assert orders[0] == orders[1] == orders[2]


def test_bad_images(tiny_vit, pixels):
    for bad in (float("nan"), float("inf")):
        broken = pixels.clone()
        broken[1, 5, 7] = bad
        with pytest.raises(ValueError, match="NaN or Inf"):
            PatchGame(tiny_vit, broken)
    with pytest.raises(ValueError, match=r"\(3, 32, 32\)"):
        PatchGame(tiny_vit, pixels[:, :16])
    with pytest.raises(ValueError, match="float"):
        PatchGame(tiny_vit, torch.zeros(3, 32, 32, dtype=torch.uint8))
    with pytest.raises(TypeError, match="load_image"):
        PatchGame(tiny_vit, "cat.jpg")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"target": 5}, IndexError, "5"),
        ({"target": -1}, IndexError, "-1"),
        ({"masking": "dorp"}, ValueError, "Did you mean 'drop'"),
        ({"reward": "logodds"}, ValueError, "Did you mean 'log_odds'"),
        ({"masking": "mean", "grid": (0, 3)}, ValueError, "positive"),
        ({"masking": "mean", "grid": (33, 3)}, ValueError, r"1\.\.32 rows"),
        ({"grid": (5, 2), "masking": "drop"}, ValueError, "grid 5x2 is finer than its tokens, 4x4"),
        ({"batch_size": 0}, ValueError, "at least 1"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be a whole number"),
        ({"dtype": "bf16"}, TypeError, "torch.dtype"),
        ({"target": 1.5}, TypeError, "a class is its name or its index, not 1.5"),
        ({"target": True}, TypeError, "not True"),
        ({"target": "-1"}, IndexError, "class index -1 is out of range"),
        ({"masking": "mean", "grid": 7.5}, ValueError, "one positive whole number or two"),
        ({"masking": "mean", "grid": True}, ValueError, "not True"),
        ({"masking": np.zeros((3, 32, 32))}, TypeError, "not ndarray"),
        ({"masking": lambda image: image.numpy()}, TypeError, "must be a tensor.*not ndarray"),
        ({"masking": lambda image: None}, TypeError, "not NoneType"),
        ({"masking": lambda image: image[:, :8]}, ValueError, r"but has shape \(3, 8, 32\)"),
        ({"masking": lambda image: image / 0}, ValueError, "baseline holds NaN or Inf"),
    ],
)
def test_bad_arguments(tiny_vit, pixels, arguments, error, words):
    with pytest.raises(error, match=words):
        PatchGame(tiny_vit, pixels, **arguments)


def test_an_image_without_pixels_is_refused(tiny_vit):
    with pytest.raises(ValueError, match="no pixels"):
        PatchGame(tiny_vit, Image.new("RGB", (0, 0)))


@pytest.mark.parametrize("number", [torch.tensor(3), np.int64(3), np.array(3), "3"])
def test_a_class_may_be_a_number_of_any_kind(tiny_vit, pixels, number):
    assert PatchGame(tiny_vit, pixels, target=number).target == 3


@pytest.mark.parametrize(
    "grid",
    [2, 2.0, np.int64(2), (2, 2), [2, 2], (2.0, 2), np.array([2, 2]), torch.tensor([2, 2])],
)
def test_a_grid_is_one_number_or_two(tiny_vit, pixels, grid):
    assert PatchGame(tiny_vit, pixels, grid=grid).grid == (2, 2)


def test_deletion_on_a_cnn_names_the_alternative(tiny_cnn):
    with pytest.raises(ValueError, match='masking="mean"'):
        PatchGame(tiny_cnn, torch.zeros(3, *tiny_cnn.input_size), masking="drop")


def test_a_bare_module_is_refused(tiny_vit, pixels):
    with pytest.raises(TypeError, match="load_model"):
        PatchGame(tiny_vit.module, pixels)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_cpu(tiny_vit, pixels):
    device = torch.device("cuda")
    coalitions = random_coalitions(40, 16)
    expected = PatchGame(tiny_vit, pixels, target=0)(coalitions)
    on_gpu = replace(tiny_vit, module=copy.deepcopy(tiny_vit.module).to(device))
    np.testing.assert_allclose(PatchGame(on_gpu, pixels, target=0)(coalitions), expected, atol=1e-4)


def test_lockstep_equals_one_by_one(tiny_vit, tiny_cnn):
    generator = torch.Generator().manual_seed(5)
    images = [torch.randn(3, *tiny_vit.input_size, generator=generator) for _ in range(3)]
    games = [PatchGame(tiny_vit, image) for image in images]
    games.append(PatchGame(tiny_vit, images[0], grid=(2, 2)))
    games.append(
        PatchGame(tiny_cnn, torch.rand(3, *tiny_cnn.input_size), masking="zero", grid=(3, 3))
    )
    for mode, stop in (("insertion", None), ("deletion", None), ("deletion", "flip")):
        for together, game in zip(explain_many(games, mode, stop=stop), games, strict=True):
            alone = explain(game, mode, stop=stop)
            assert together.order.tolist() == alone.order.tolist()
            assert together.n_evaluations == alone.n_evaluations
            np.testing.assert_allclose(together.values, alone.values, atol=1e-5)
            np.testing.assert_array_equal(together.predictions, alone.predictions)


def test_coalitions_of_several_images_share_batches(tiny_cnn):
    model = hungry(tiny_cnn, most=100)
    games = [
        PatchGame(model, torch.rand(3, *tiny_cnn.input_size), masking="zero", grid=(2, 2))
        for _ in range(5)
    ]
    model.module.batches.clear()
    explain_many(games)
    # both ends of all five images, then 4, 3, 2 and 1 candidates of each
    assert model.module.batches == [10, 20, 15, 10, 5]


def test_mixed_precision_decides_in_float32(tiny_vit, pixels):
    exact = explain(PatchGame(tiny_vit, pixels, target=1))
    mixed = explain(PatchGame(tiny_vit, pixels, target=1, dtype="mixed"))
    assert mixed.order.tolist() == exact.order.tolist()
    np.testing.assert_allclose(mixed.values, exact.values, atol=1e-5)
    assert mixed.n_evaluations == exact.n_evaluations


def test_auto_masking_deletes_tokens_where_that_is_defined(tiny_vit, tiny_cnn, pixels):
    everything_but_one = np.arange(16) > 0
    auto, drop = PatchGame(tiny_vit, pixels), PatchGame(tiny_vit, pixels, masking="drop")
    assert auto.masking == drop.masking == "drop"
    assert auto(everything_but_one) == drop(everything_but_one)
    assert PatchGame(tiny_vit, pixels, grid=(2, 4)).masking == "drop"

    for model, grid in [(tiny_vit, (5, 4)), (tiny_cnn, (4, 4))]:
        auto, mean = (PatchGame(model, pixels, grid=grid, masking=m) for m in ("auto", "mean"))
        assert auto.masking == "mean"
        coalitions = random_coalitions(5, auto.n_players)
        np.testing.assert_array_equal(auto(coalitions), mean(coalitions))
        with pytest.raises(ValueError, match="deletes tokens, which is not defined for this model"):
            PatchGame(model, pixels, grid=grid, masking="drop")


def test_what_dropping_means_to_a_model_holds_for_auto_as_well(tiny_cnn, pixels):
    blanked = replace(tiny_cnn, drop_as="zero")
    for masking in ("auto", "drop"):
        assert PatchGame(blanked, pixels, masking=masking).masking == "zero"
