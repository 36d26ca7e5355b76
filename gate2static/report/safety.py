"""What a report says about networks and single-task networks: paired tests, and how a network was made safe."""

from collections.abc import Sequence

from gate2static.report.content import TaskColumn
from gate2static.tasks import PairedTest
from gate2static.train.results import ResultRow
from gate2static.train.safety.outcome import Safety, SafetyRound

_OWN = "own encoder"


def against_single(row: ResultRow, columns: Sequence[TaskColumn]) -> tuple[str, ...]:
    """Returns a row's gain in each task's main metric, with its interval and p-value; empty where nothing was tested.

    Args:
        row: A network of a run.
        columns: The run's tasks.
    """
    if not row.tests and row.safety is None:
        return ()
    own = () if row.safety is None else row.safety.opened
    cells = []
    for column in columns:
        test = row.tests.get(column.task, {}).get(column.metric)
        cells.append(_cell(test) if test is not None else _OWN if column.task in own else "–")
    return tuple(cells)


def safety_sentences(row: ResultRow) -> tuple[str, ...]:
    """Returns how a network was made safe, what that cost, and which tasks are not; empty for other networks."""
    safety = row.safety
    if safety is None:
        return ()
    allowed = f"of up to {100 * safety.margin:g} % " if safety.margin else ""
    passed = [task for task in safety.rounds[-1].tests if task not in (*safety.opened, *safety.unsafe)]
    sentences = [
        f"round {number}: own encoder for {_named(one.opened, one)}"
        for number, one in enumerate(safety.rounds, start=1)
        if one.opened is not None
    ]
    if passed:
        by_main = safety.metrics == "main"
        shown = ", ".join(_named(task, safety.rounds[-1], by_main=by_main) for task in passed)
        sentences.append(f"no loss {allowed}on the validation split at p < {safety.significance:g}: {shown}")
    if safety.unsafe:
        sentences.append(_unsafe(safety))
    before, after = safety.macs_before / 1e6, safety.macs_after / 1e6
    sentences.append(f"MACs: {before:.2f} M before, {after:.2f} M after ({100 * (after / before - 1):+.0f} %)")
    if passed and safety.further_epochs:
        sentences.append(f"{', '.join(passed)} trained for {safety.epochs} epochs more behind each round")
    return tuple(f"{row.name}: {sentence}" for sentence in sentences)


def _unsafe(safety: Safety) -> str:
    """Returns the sentence about the tasks that are not shown to be safe."""
    last = safety.rounds[-1]
    why = {
        "budget": "the budget allows them no encoder of their own",
        "rounds": f"safe.rounds allows no more than {len(safety.rounds) - 1} changes",
    }
    tasks = ", ".join(_named(task, last) for task in safety.unsafe)
    return f"NOT shown to be as good as single-task networks: {tasks}; {why[safety.stopped]}"


def _named(task: str, one: SafetyRound, *, by_main: bool = False) -> str:
    """Returns a task with its main metric, or with the one that says least for it, in one check."""
    tests = one.tests[task]
    if not tests:
        return task
    main = next(iter(tests))
    metric = main if by_main else max(tests, key=lambda name: tests[name].p_value)
    return f"{task} ({metric} {100 * tests[metric].gain:+.2f} %, p {tests[metric].p_value:.2g})"


def _cell(test: PairedTest) -> str:
    interval = "" if test.low is None or test.high is None else f" [{100 * test.low:+.2f}, {100 * test.high:+.2f}]"
    return f"{100 * test.gain:+.2f}{interval}, p {test.p_value:.2g}"
