"""Warnings about networks that will probably be slower than separate ones, before anything is timed."""

from pathlib import Path

from gate2static.progress import progress_bar
from gate2static.prune import Plan, estimated_latency, plan
from gate2static.train import RunResult, load_gated

_SLOWER = 1.02
"""The estimated share of separate networks' latency from which a network counts as slower."""


def expected_to_be_slow(plan: Plan) -> tuple[str, ...]:
    """Returns a sentence where the planned network will probably be slower than separate networks; else none."""
    share = estimated_latency(plan)
    if share < _SLOWER:
        return ()
    sentence = (
        f"about {share:.2f} times the latency of separate networks is to be expected on a CPU: channels that change "
        "between streams one by one take longer than the multiplications that they save; use larger groups and hard "
        "mixing (gating.preset: deploy), or a budget"
    )
    return (sentence,)


def slow_networks(run_dir: Path, result: RunResult) -> tuple[str, ...]:
    """Returns a sentence for each gated network of a run that will probably be slower than separate networks.

    Args:
        run_dir: The run's folder.
        result: The content of its `run.json`.

    Raises:
        Gate2StaticError: A checkpoint cannot be read, or its network cannot be pruned.
    """
    rows = [row for row in result.rows if row.kind == "gated"]
    sentences = []
    with progress_bar(visible=True) as bar:
        for row in bar.track(rows, description="estimating latencies"):
            gated = load_gated(run_dir / row.checkpoints[0])[0]
            sentences += [f"{row.name}: {sentence}" for sentence in expected_to_be_slow(plan(gated))]
    return tuple(sentences)
