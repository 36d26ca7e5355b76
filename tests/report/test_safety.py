"""What a report says about networks against single-task networks, and about how one was made safe."""

from pathlib import Path
from typing import Any

from gate2static.recipe import load_recipe
from gate2static.report.content import TaskColumn
from gate2static.report.safety import against_single, safety_sentences
from gate2static.tasks import PairedTest
from gate2static.train.results import ResultRow, RunResult
from gate2static.train.safety.outcome import Safety, SafetyRound

GAIN = PairedTest(gain=0.012, low=-0.003, high=0.027, p_value=0.06)
LOSS = PairedTest(gain=-0.05, low=-0.09, high=-0.01, p_value=0.99)
SURE = PairedTest(gain=0.02, low=0.01, high=0.03, p_value=0.0001)
UNSAFE = (
    "gated-1-safe: NOT shown to be as good as single-task networks: a (accuracy +1.20 %, p 0.06); "
    "the budget allows them no encoder of their own"
)
COLUMNS = tuple(TaskColumn(task=task, metric="mIoU", higher_is_better=True) for task in ("a", "b", "c"))


def row(**values: Any) -> ResultRow:
    return ResultRow(
        name="gated-1-safe",
        kind="gated",
        seed=0,
        checkpoints=("gated-1-safe/ckpt.pt",),
        metrics={"a": 0.5, "b": 0.5, "c": 0.5},
        delta_mtl=0.01,
        macs=1,
        parameters=1,
        **values,
    )


def safety(**values: Any) -> Safety:
    rounds = (
        SafetyRound(
            tests={"a": {"mIoU": GAIN}, "b": {"mIoU": LOSS}, "c": {"mIoU": SURE}}, worse=("b", "a"), opened="b"
        ),
        SafetyRound(tests={"a": {"mIoU": SURE, "accuracy": GAIN}, "c": {"mIoU": SURE}}, worse=("a",), opened=None),
    )
    whole = {"margin": 0.0, "significance": 0.05, "metrics": "main", "epochs": 4, "rounds": rounds, "stopped": "budget"}
    return Safety(**{**whole, "macs_before": 10_000_000, "macs_after": 12_500_000, **values})


def test_gains_have_their_interval_and_opened_tasks_their_own_encoder() -> None:
    tests = {"a": {"mIoU": GAIN}, "c": {"mIoU": PairedTest(gain=0.0, p_value=1.0), "accuracy": SURE}}
    assert against_single(row(tests=tests, safety=safety()), COLUMNS) == (
        "+1.20 [-0.30, +2.70], p 0.06",
        "own encoder",
        "+0.00, p 1",
    )
    assert against_single(row(), COLUMNS) == ()


def test_a_network_that_could_not_be_made_safe_says_why() -> None:
    assert safety_sentences(row(safety=safety())) == (
        "gated-1-safe: round 1: own encoder for b (mIoU -5.00 %, p 0.99)",
        "gated-1-safe: no loss on the validation split at p < 0.05: c (mIoU +2.00 %, p 0.0001)",
        UNSAFE,
        "gated-1-safe: MACs: 10.00 M before, 12.50 M after (+25 %)",
        "gated-1-safe: c trained for 4 epochs more behind each round",
    )
    result = RunResult(recipe={"name": "toy"}, tasks=(), rows=(row(safety=safety(stopped="rounds")),))
    assert result.cautions() == (
        "gated-1-safe: not shown to be as good as single-task networks: a; the rounds allowed no more",
    )
    assert "safe.rounds allows no more than 1 changes" in safety_sentences(row(safety=safety(stopped="rounds")))[2]


def test_tasks_that_share_and_were_trained_for_longer_are_named() -> None:
    changes = ["training.single.epochs=6", "training.gated.epochs=6", "gating.branch_init=initial"]
    recipe = load_recipe(Path("recipes/digits_tiny.yaml"), changes).model_dump(mode="json")
    (*_, caution) = RunResult(recipe=recipe, tasks=(), rows=(row(safety=safety()),)).cautions()
    assert caution == (
        "gated-1-safe: the tasks that share are trained for 10 epochs and separate networks for 6, "
        "so a gain may be that of training longer; compare with training.single.epochs=10"
    )
    alone = SafetyRound(tests={"c": {"mIoU": GAIN}}, worse=("c",), opened="c")
    assert safety(rounds=(*safety().rounds, alone), stopped="safe").further_epochs == 0


def test_margins_are_named_and_rows_without_safety_say_nothing() -> None:
    first = safety().rounds[0].model_copy(update={"worse": (), "opened": None})
    sentences = safety_sentences(
        row(safety=safety(margin=0.01, rounds=(first,), stopped="safe", macs_after=10_000_000))
    )
    assert sentences[0].startswith("gated-1-safe: no loss of up to 1 % on the validation split at p < 0.05: a (")
    assert sentences[1:] == ("gated-1-safe: MACs: 10.00 M before, 10.00 M after (+0 %)",)
    assert safety_sentences(row()) == ()
