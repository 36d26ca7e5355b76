"""A log without a terminal gets one line per epoch, with a time stamp and the time left of the run."""

import re
import time

import pytest

from gate2static.train.loop.progress import TrainingProgress


def test_every_epoch_is_one_line_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress(enabled=True, total_cost=8) as progress:
        progress.start_network("shared", steps=4, done=0, cost=1)
        for epoch in (1, 2):
            for _ in range(2):
                time.sleep(0.002)
                progress.advance(cost=1)
            progress.note(f"epoch {epoch}: depth 0.{epoch}00")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for epoch, line in enumerate(lines, 1):
        stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d"
        assert re.fullmatch(rf"{stamp} shared: epoch {epoch}: depth 0\.{epoch}00, \d+:\d\d:\d\d left", line)


def test_nothing_is_printed_when_progress_is_switched_off(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress(enabled=False, total_cost=1) as progress:
        progress.start_network("shared", steps=1, done=0, cost=1)
        progress.note("epoch 1: depth 0.1")
    assert capsys.readouterr().err == ""


def test_networks_that_a_checkpoint_spares_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress(enabled=True, total_cost=4) as progress:
        progress.start_network("shared", steps=4, done=4, cost=1)
    assert " shared: trained before" in capsys.readouterr().err
