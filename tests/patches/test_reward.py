"""Rewards against their textbook forms in float64, and where those saturate."""

import numpy as np
import pytest
import torch

from moxi_lite.patches import get_reward, log_odds, log_probability, logit, probability
from moxi_lite.patches.reward import REWARDS


def test_by_hand():
    # p = (1/2, 1/4, 1/4)
    logits = torch.log(torch.tensor([[2.0, 1.0, 1.0]]))
    assert probability(logits, 0).item() == pytest.approx(0.5)
    assert log_odds(logits, 0).item() == pytest.approx(0.0, abs=1e-6)
    assert log_odds(logits, 1).item() == pytest.approx(np.log(1 / 3))
    assert log_probability(logits, 2).item() == pytest.approx(np.log(1 / 4))
    assert logit(logits, 0).item() == pytest.approx(np.log(2))


def test_log_odds_equals_log_p_over_one_minus_p():
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    p = torch.softmax(logits.double(), dim=1)[:, 3]
    torch.testing.assert_close(
        log_odds(logits, 3).double(), torch.log(p / (1 - p)), rtol=1e-5, atol=1e-5
    )


def test_log_odds_does_not_saturate_where_the_probability_does():
    logits = torch.tensor([[40.0, 0.0], [50.0, 0.0]])
    assert probability(logits, 0).tolist() == [1.0, 1.0]
    assert log_odds(logits, 0).tolist() == [40.0, 50.0]


def test_low_precision_logits_are_computed_in_float32():
    logits = torch.tensor([[3.0, 1.0, 0.5]], dtype=torch.bfloat16)
    for reward in REWARDS.values():
        assert reward(logits, 0).dtype == torch.float32


def test_the_three_probabilistic_rewards_rank_alike_and_the_logit_does_not():
    logits = torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    ranks = {name: int(f(logits, 0).argmax()) for name, f in REWARDS.items()}
    assert ranks == {"log_odds": 0, "log_probability": 0, "probability": 0, "logit": 1}


def test_input_is_left_alone():
    logits = torch.ones(2, 3)
    log_odds(logits, 1)
    assert torch.equal(logits, torch.ones(2, 3))


def test_unknown_name():
    with pytest.raises(ValueError, match="Did you mean 'log_odds'"):
        get_reward("logodds")
