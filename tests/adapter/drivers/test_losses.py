"""How long executions that are lost with their worker are repeated."""

import pytest

from inngest_temporal.drivers.losses import Losses


@pytest.mark.parametrize("retries", [0, 3, 40])
def test_losses_alone_end_nothing_before_ten_minutes(retries: int) -> None:
    """Each loss takes 30 seconds until it is noticed, and the pause after it."""
    losses, attempt, seconds = Losses(), 0, 0
    while True:
        seconds += 30 + losses.add()
        if losses.end_it(attempt, retries):
            break
        attempt += 1
    assert seconds >= 600
    assert attempt >= retries
    assert "lost" in losses.error("it sent no heartbeats").message


def test_pauses_grow_until_a_step_is_finished() -> None:
    losses = Losses()
    assert [losses.add() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    losses.reset()
    assert losses.add() == 1
    assert not losses.end_it(attempt=0, retries=0)
