"""The page of the benchmark: tables, the verdict on the paper's claim, costs, and the pictures of conflict."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.methods.cost import Cost
from benchmarks.methods.networks import (
    CLAIMED,
    CONTROL,
    MEASURES,
    OF_PAPER,
    PLAIN,
    SAME_AT_ANY_SCALE,
    Result,
    candidates,
)
from benchmarks.methods.summaries import (
    DELTA,
    Summary,
    differs,
    higher_is_better,
    is_better,
    rank,
    score_name,
    similarities,
    standard_error,
    summarise,
)
from gate2static.balance import ranking_similarity
from gate2static.data import describe_data
from gate2static.recipe import Recipe
from gate2static.report.figures import style
from gate2static.report.figures.conflict import ConflictCurves, conflict_figure
from gate2static.tasks import Task, build_tasks

_HEAD = """# Multi-task optimisation methods: what was measured

[methods.md](methods.md) says what each method does. `python -m benchmarks.methods` makes this page.
"""
_IN_PICTURE = (
    "mean", "graddrop", "cosreg", "pcgrad", "mgda", "cagrad", "aligned", "nash", "imtl", "gradvac", "uncertainty",
    "famo", "rlw", "gradnorm",
)  # fmt: skip


def write_page(path: Path, recipe: Recipe, results: Sequence[Result], costs: Sequence[Cost]) -> None:
    """Writes the section of a recipe and that of the costs, and leaves others.

    Args:
        path: The Markdown file; the picture lies beside it, with the same stem and the recipe's name.
        recipe: What was trained.
        results: All networks of all seeds.
        costs: What the steps cost.
    """
    tasks = build_tasks(recipe.tasks, describe_data(recipe.data))
    everything = summarise(results, tasks)
    most = _seeds_of_most(everything)
    summaries = {name: summary for name, summary in everything.items() if summary.trained >= most}
    wanted = [candidate.name for candidate in candidates(len(tasks))]
    left_out = [name for name in wanted if name not in summaries]
    picture = path.with_name(f"{path.stem}_{recipe.name}.png")
    names = [name for name in _IN_PICTURE if name in summaries and summaries[name].count(DELTA)]
    seeds = {result.seed for result in results if result.name in names}
    paired = [result for result in results if result.seed in seeds]  # `sum` has more seeds than the others
    curves = [_curves(paired, name) for name in names]
    title = "Conflict over that of plain training"
    picture.write_bytes(style.png_bytes(conflict_figure(curves, title, baseline=_curves(paired, PLAIN))))
    _replace_section(path, recipe.name, list(_section(recipe, tasks, summaries, left_out, picture.name)))
    _replace_section(path, "The cost of a step", list(_costs(costs)))


def _section(
    recipe: Recipe, tasks: Sequence[Task], summaries: dict[str, Summary], left_out: Sequence[str], picture: str
) -> Iterator[str]:
    main = [DELTA, *(score_name(task.name, task.kind.metric_name) for task in tasks)]
    further = [score for score in summaries[PLAIN].values if score not in (*main, *MEASURES)]
    yield from _what_was_run(recipe, summaries, left_out)
    yield from _noise_floor(summaries[PLAIN], main)
    yield from _verdict(summaries, main)
    yield "### Main metrics"
    yield ""
    yield from _table(summaries, main, with_scale=True)
    yield "### All other metrics"
    yield ""
    yield from _table(summaries, further, with_scale=False)
    yield "### Conflict in training, and whether it says which method is good"
    yield ""
    yield f"![Conflict of the tasks in training, one line per method]({picture})"
    yield ""
    yield (
        "Each line is a method at parameters and its own scale: the mean over seeds, minus that of `sum`, as a moving "
        "average over a tenth of the training."
    )
    yield ""
    yield from _table(summaries, MEASURES, with_scale=False)
    yield from _rankings(summaries, [*main, *further])


def _what_was_run(recipe: Recipe, summaries: dict[str, Summary], left_out: Sequence[str]) -> Iterator[str]:
    shared = recipe.training.shared
    weights = shared.weights
    images = recipe.data.options.get("train_images", "all")
    most = _seeds_of_most(summaries)
    yield (
        f"`{recipe.model.name}` ({_words(recipe.model.options)}) on `{recipe.data.name}` "
        f"({_words(recipe.data.options)}); "
        f"{shared.epochs} epochs of {images} images, batches of {shared.batch_size}, {weights.kind} with learning rate "
        f"{weights.lr:g}. {most} seeds per network ({summaries[PLAIN].count(DELTA)} for `sum`); the seed changes first "
        "weights and the order of images, not the data."
    )
    yield ""
    yield "- ± is the standard deviation over seeds. Δ_MTL is against separate networks of the same seed and settings."
    yield "- `-features` is the method at features."
    yield (
        "- `-sum-scale` is the method at equal scale: the shared gradient has the length of plain training's, or the "
        "losses' weights add up to T."
    )
    yield f"- `{CONTROL}` is plain training at T times the learning rate; `mean` is plain training at 1/T of it."
    yield ""
    if left_out:
        yield f"Not trained yet with as many seeds, and left out: {', '.join(f'`{name}`' for name in left_out)}."
        yield ""


def _seeds_of_most(summaries: Mapping[str, Summary]) -> int:
    return max(summary.trained for name, summary in summaries.items() if name != PLAIN)


def _words(options: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in options.items() if key != "root")


def _noise_floor(plain: Summary, main: Sequence[str]) -> Iterator[str]:
    floors = ", ".join(f"{plain.spread(score):.3g} ({score})" for score in main)
    yield (
        f"**Noise floor**: `sum` alone has a standard deviation of {floors} over {plain.count(DELTA)} seeds. A number "
        "is marked with * if it differs from `sum`'s by more than two standard errors; a method's own spread counts as "
        "the floor at least. Of numbers without any difference about one in twenty would be marked, more with so few "
        "seeds."
    )
    yield ""


def _verdict(summaries: dict[str, Summary], main: Sequence[str]) -> Iterator[str]:
    """Yields what became of the paper's claim."""
    yield "### Are GradDrop and CosReg best?"
    yield ""
    yield (
        "Robust Analysis finds these two best on all three of its data sets. There, methods have the scales of their "
        "code: the baseline is the mean of the losses, GradDrop and CosReg work on sums. The table has the places of "
        "the paper's methods at parameters, and their places at equal scale; 1 is the best."
    )
    yield ""
    own = [summaries[name] for name in OF_PAPER if name in summaries]
    equal_names = [name if name in SAME_AT_ANY_SCALE else f"{name}-sum-scale" for name in OF_PAPER if name != "mean"]
    equal = [summaries[name] for name in equal_names if name in summaries]
    yield f"| | {' | '.join(main)} |"
    yield f"|---|{'---:|' * len(main)}"
    for name in CLAIMED:
        for label, among, member in (
            ("own scale", own, name),
            ("equal scale", equal, name if name in SAME_AT_ANY_SCALE else f"{name}-sum-scale"),
        ):
            if member in summaries:
                cells = [f"{rank(member, among, score)} of {len(among)}" for score in main]
                yield f"| {name}, {label} | {' | '.join(cells)} |"
    control = summaries.get(CONTROL)
    if control is not None:
        cells = [f"{rank(CONTROL, [*own, control], score)} of {len(own) + 1}" for score in main]
        yield f"| `{CONTROL}` among those at own scale | {' | '.join(cells)} |"
    yield ""
    pairs = [(name, other) for name in CLAIMED for other in ("mean", PLAIN, CONTROL) if other in summaries]
    pairs += [(f"{name}-sum-scale", PLAIN) for name in CLAIMED]
    for name, other in pairs:
        if name in summaries and other in summaries:
            comparison = _comparison(summaries[name], summaries[other], summaries[PLAIN], main)
            yield f"- `{name}` against `{other}`: {comparison}."
    yield ""
    for label, is_equal in (("own scale", False), ("equal scale", True)):
        yield _who_differs(
            label, [s for s in summaries.values() if s.name.endswith("-sum-scale") == is_equal], summaries
        )
    yield _scale_and_gain([s for s in summaries.values() if not s.name.endswith("-sum-scale") and s.name != CONTROL])
    yield ""


def _scale_and_gain(members: Sequence[Summary]) -> str:
    """Returns how alike networks rank by the length of their gradient and by Δ_MTL."""
    scales = {s.name: 1.0 if s.name == PLAIN else s.scale for s in members if s.count(DELTA)}
    judged = [s for s in members if scales.get(s.name) is not None]
    lengths = [scale for scale in scales.values() if scale is not None]
    if len(judged) < 3:
        return ""
    alike = ranking_similarity(lengths, [s.mean(DELTA) for s in judged])
    return (
        f"- Of {len(judged)} networks at own scale (`sum` and `mean` among them), those with the longer gradient have "
        f"the better Δ_MTL in {100 * alike.similarity:.0f} % of all pairs (p = {alike.p_value:.4f})."
    )


def _who_differs(label: str, members: Sequence[Summary], summaries: dict[str, Summary]) -> str:
    """Returns which methods' Δ_MTL is marked."""
    plain = summaries[PLAIN]
    judged = [s for s in members if s.name not in (PLAIN, "mean", CONTROL) and s.count(DELTA)]
    marked = [s for s in judged if differs(s, plain, DELTA)]
    better = ", ".join(f"`{s.name}`" for s in marked if is_better(s, plain, DELTA))
    worse = ", ".join(f"`{s.name}`" for s in marked if not is_better(s, plain, DELTA))
    return (
        f"- Of {len(judged)} networks at {label}, Δ_MTL is better than `sum`'s for {better or 'none'}; worse for "
        f"{worse or 'none'}."
    )


def _comparison(method: Summary, other: Summary, plain: Summary, main: Sequence[str]) -> str:
    words = []
    for score in main:
        error = standard_error(method, other, score, floor=plain.spread(score))
        difference = method.mean(score) - other.mean(score)
        verdict = "better" if is_better(method, other, score) else "worse"
        if abs(difference) <= 2 * error:
            verdict = "not significant"
        words.append(f"{score} {difference:+.3g} ({verdict})")
    return "; ".join(words)


def _table(summaries: dict[str, Summary], scores: Sequence[str], *, with_scale: bool) -> Iterator[str]:
    plain = summaries[PLAIN]
    titles = [
        f"{score} {'↑' if higher_is_better(score) else '↓'}" if score not in MEASURES else score.upper()
        for score in scores
    ]
    scale = [" scale |", "---:|"] if with_scale else ["", ""]
    yield f"| network | seeds | {' | '.join(titles)} |{scale[0]}"
    yield f"|---|---:|{'---:|' * len(scores)}{scale[1]}"
    ordered = sorted(
        summaries.values(),
        key=lambda s: (s.name not in (PLAIN, "mean", CONTROL), -np.nan_to_num(s.mean(DELTA), nan=-np.inf)),
    )
    marked = 0
    for summary in ordered:
        cells = []
        for score in scores:
            star = summary is not plain and summary.count(score) > 0 and differs(summary, plain, score)
            marked += star
            cells.append(_cell(summary, score) + ("*" if star else ""))
        seeds = f"{summary.count(DELTA)}" + (f" ({summary.failed} diverged)" if summary.failed else "")
        scale_cell = "" if not with_scale else f" {'–' if summary.scale is None else f'{summary.scale:.2f}'} |"
        yield f"| {summary.name} | {seeds} | {' | '.join(cells)} |{scale_cell}"
    yield ""
    total = (len(summaries) - 1) * len(scores)
    yield f"{marked} of {total} numbers are marked."
    if with_scale:
        yield (
            "`scale` is the mean over the training of the direction's length over that of the sum of the gradients "
            "that it is made of; for methods that weigh losses, of their mean weight. At features, the gradients are "
            "those of the features."
        )
    yield ""


def _cell(summary: Summary, score: str) -> str:
    if not summary.count(score):
        return "–"
    spread = f" ± {summary.spread(score):.2g}" if summary.count(score) > 1 else ""
    return f"{summary.mean(score):.4g}{spread}"


def _rankings(summaries: dict[str, Summary], scores: Sequence[str]) -> Iterator[str]:
    methods = [summary for summary in summaries.values() if summary.name != CONTROL]
    found = similarities(methods, scores)
    if not found:
        return  # fewer than three networks
    (first, *_) = found.values()
    yield (
        f"Ranking similarity (eq. 9) of the {first.count} networks by the mean conflict in the second half of the "
        "training and by the final scores: at 1 a higher measure goes with a better score, at 0 with a worse one, and "
        f"at ½ with neither. The paper prints the larger of S and 1 - S, which is {first.chance:.2f} on average for "
        "random rankings of as many networks. In brackets the probability of as extreme a value by chance; with "
        f"{len(found)} values, some {0.05 * len(found):.1f} below 0.05 are to be expected. The networks are no random "
        "sample either: most are variants of each other."
    )
    yield ""
    yield f"| score | {' | '.join(measure.upper() for measure in MEASURES)} |"
    yield f"|---|{'---:|' * len(MEASURES)}"
    for score in scores:
        of_score = [found[measure, score] for measure in MEASURES]
        cells = [f"{one.similarity:.2f} ({one.p_value:.3f})" for one in of_score]
        yield f"| {score} | {' | '.join(cells)} |"
    yield ""


def _costs(costs: Sequence[Cost]) -> Iterator[str]:
    yield (
        "CPU time of a step (forward, backward, Adam) over that of a plain step of the same network, in turns in one "
        "process with one thread: the median over rounds, and the quartiles. ResNet-20 with T = 3 (two labels, a "
        "mask), batches of 16 images of 32×32. In a gated network methods act on the shared branch ψ, and the plain "
        "step is that of the gated network. Methods that are not named differ from `mgda` or `pcgrad`, and those of "
        "losses from `dwa`, by a problem of T numbers."
    )
    yield ""
    settings = ["losses", "features", "parameters", "gated, losses", "gated, parameters"]
    yield f"| method | {' | '.join(settings)} |"
    yield f"|---|{'---:|' * len(settings)}"
    for method in dict.fromkeys(cost.method for cost in sorted(costs, key=lambda cost: cost.method)):
        of_method = {cost.setting: cost for cost in costs if cost.method == method}
        cells = [
            f"{one.ratio:.2f} ({one.low:.2f} to {one.high:.2f})" if (one := of_method.get(setting)) else ""
            for setting in settings
        ]
        yield f"| {method} | {' | '.join(cells)} |"


def _curves(results: Sequence[Result], name: str) -> ConflictCurves:
    """Returns the mean over seeds of a network's curves."""
    members = [result for result in results if result.name == name and result.steps and not result.failed]
    measured = [measure for measure in MEASURES if all(measure in result.curves for result in members)]
    values = {measure: np.mean([result.curves[measure] for result in members], axis=0) for measure in measured}
    return ConflictCurves(name=name, steps=np.array(members[0].steps, dtype=float), values=values)


def _replace_section(path: Path, name: str, lines: Sequence[str]) -> None:
    """Writes one section of the page and leaves the others."""
    text = path.read_text() if path.exists() else _HEAD
    head, *sections = text.split("\n## ")
    kept = [section for section in sections if section.partition("\n")[0] != name]
    body = "\n".join([name, "", *lines])
    path.write_text("\n## ".join([head.rstrip("\n") + "\n", *(s.rstrip("\n") + "\n" for s in [*kept, body])]))
