"""Schedules that step within an epoch, and where an epoch is cut for them."""

import math

import pytest
import torch

from projectlib.errors import UserError
from projectlib.training.loop import chunks
from projectlib.training.schedules import SmoothCosine


def make_schedule(**settings):
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    return SmoothCosine(optimizer, **settings), optimizer


def test_the_rate_is_half_a_cosine():
    schedule, optimizer = make_schedule(num_epochs=3, parts=5)
    rates = []
    for _ in range(17):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:16] == pytest.approx([0.15 * (1 + math.cos(math.pi * k / 15)) for k in range(16)])
    assert rates[16] == 0, "it does not rise again"


@pytest.mark.parametrize("settings", [{"num_epochs": 0}, {"num_epochs": 3, "parts": 0}, {"num_epochs": 1.5}])
def test_bad_settings(settings):
    with pytest.raises(UserError, match="expected a whole number of at least 1"):
        make_schedule(**settings)


@pytest.mark.parametrize("start", [0, 1, 6])
@pytest.mark.parametrize("num_steps", [7, 20, 141])
@pytest.mark.parametrize("parts", [1, 3, 20])
def test_an_epoch_is_cut_at_the_end_of_every_part(num_steps, parts, start):
    ranges = [*chunks(start, num_steps, log_interval=50, before=13, parts=parts)]
    assert [first for first, _ in ranges] == [start, *(last for _, last in ranges[:-1])]
    ends = {last for _, last in ranges}
    wanted = {-(-part * num_steps // parts) for part in range(1, parts + 1)}
    assert {end for end in wanted if end > start} <= ends
    assert {step for step in range(start + 1, num_steps + 1) if (13 + step) % 50 == 0} <= ends
