"""The task metrics of a network in any of its forms: a checkpoint, a static folder, ONNX files of any precision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.utils.data import Subset

from gate2static.data import describe_data, load_data
from gate2static.errors import DataError, ExportError, VerificationError
from gate2static.files import is_file
from gate2static.recipe import Recipe, parse
from gate2static.restore import load_checkpoint
from gate2static.runtimes.onnx_file import ENDS, load_onnx, precision_of, read_onnx
from gate2static.runtimes.onnxruntime import open_session
from gate2static.static import StaticModel, load_static
from gate2static.static.meaning import Ends, Picture
from gate2static.strict_json import first_problem
from gate2static.tasks import Task, build_tasks, main_scores
from gate2static.train.evaluation import evaluate
from gate2static.train.loop.batches import evaluation_loader, length, loaded
from gate2static.train.networks import recipe_of
from gate2static.train.results import FILE, load_result

Split = Literal["train", "val", "test"]
_BATCH_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The metrics of one network.

    Attributes:
        name: The file or folder that the network was read from.
        form: What it is: "gated", "static" or "onnx fp32", with its precision.
        scores: All metrics by task and name; only the tasks that the network has.
        drops: By task, by how much the main metric is worse than the reference's, relative to that: 0.01 is one per
            cent worse, and what is better is negative. None where the reference's is 0.
    """

    name: str
    form: str
    scores: Mapping[str, Mapping[str, float]]
    drops: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Networks side by side on one split of a data set; the first one is the reference.

    Attributes:
        split: The split.
        images: The number of images.
        metrics: By task, the main metric's name.
        higher_is_better: By task, whether a higher value of the main metric is better.
        networks: The networks, in the order in which they were given.
    """

    split: str
    images: int
    metrics: Mapping[str, str]
    higher_is_better: Mapping[str, bool]
    networks: tuple[Measured, ...]

    def require(self, most: float) -> None:
        """Refuses networks of which a task's main metric is worse than the reference's.

        Args:
            most: The largest allowed drop, relative to the reference: 0.01 is one per cent.

        Raises:
            VerificationError: A task drops by more or has no finite metric, or a network has none of the tasks.
        """
        worse = []
        for network in self.networks[1:]:
            if not network.drops:
                worse.append(f"{network.name} has none of the tasks of {self.networks[0].name}")
            for task, drop in network.drops.items():
                metric = self.metrics[task]
                before, after = (x.scores[task][metric] for x in (self.networks[0], network))
                # Written so that a metric that is no number is refused too.
                if drop is None or not drop <= most:
                    size = "from 0" if drop is None else f"by {100 * drop:.2f} %"
                    worse.append(f"{network.name}: {metric} of {task} drops {size} ({before:.4g} → {after:.4g})")
        if worse:
            raise VerificationError(
                f"{'; '.join(worse)}; allowed is {100 * most:g} %. Calibrate int8 with more images of the training "
                "split, or deploy fp16"
            )

    def cautions(self) -> tuple[str, ...]:
        """Returns a sentence for every network that lacks tasks of the reference: nothing is known of these."""
        missing = {network.name: set(self.metrics) - set(network.drops) for network in self.networks[1:]}
        return tuple(
            f"{name} lacks {', '.join(sorted(tasks))}, of which nothing is measured"
            for name, tasks in missing.items()
            if tasks
        )

    def as_json(self) -> dict[str, Any]:
        """Returns the evaluation as plain values."""
        networks = [
            {"name": x.name, "form": x.form, "scores": _plain(x.scores), "drops": dict(x.drops)} for x in self.networks
        ]
        return {
            "split": self.split,
            "images": self.images,
            "metrics": dict(self.metrics),
            "higher_is_better": dict(self.higher_is_better),
            "networks": networks,
        }


def evaluate_files(
    paths: Sequence[Path],
    *,
    recipe: Recipe | None = None,
    split: Split = "test",
    images: int | None = None,
    model: str | None = None,
) -> Evaluation:
    """Measures networks on the data of a recipe.

    Args:
        paths: Checkpoints, static folders, `.onnx` files, and export folders, which stand for all their ONNX files.
        recipe: The recipe; None takes that of the run that the networks come from.
        split: The split of the data to measure on.
        images: The number of images to measure on, the first ones of the split; None takes all.
        model: The name of the code that builds the networks of an own training loop's checkpoints.

    Raises:
        VerificationError: No recipe is known, or a network has no task of it.
        CheckpointError: A checkpoint cannot be read.
        ArtefactError: A folder holds no static network.
        ExportError: An ONNX file cannot be read.
        DataError: The data cannot be read, or holds no valid value of a task.
    """
    files = [file for path in paths for file in _files(path)]
    recipe = recipe or _recipe(files)
    splits = load_data(recipe.data, targets=[task.name for task in recipe.tasks])
    data = getattr(splits, split)
    count = length(data) if images is None else min(images, length(data))
    if not count:
        raise DataError(f"the split {split} holds no image; choose another --split")
    tasks = build_tasks(recipe.tasks, describe_data(recipe.data))
    measured: list[Measured] = []
    for path in files:
        network, form, names = _network(path, model)
        present = [task for task in tasks if task.name in names]
        if not present:
            raise VerificationError(
                f"{path} has the outputs {', '.join(names)}, and the recipe {recipe.name} the tasks "
                f"{', '.join(task.name for task in tasks)}; give the recipe that it was trained with"
            )
        loader = evaluation_loader(Subset(data, range(count)), _BATCH_SIZE)
        scores = evaluate(network, loaded(loader), present)
        reference = measured[0].scores if measured else scores
        measured.append(Measured(name=str(path), form=form, scores=scores, drops=_drops(scores, reference, present)))
    present = [task for task in tasks if task.name in measured[0].scores]
    return Evaluation(
        split=split,
        images=count,
        metrics={task.name: task.kind.metric_name for task in present},
        higher_is_better={task.name: task.kind.higher_is_better for task in present},
        networks=tuple(measured),
    )


def relative_drop(before: float, after: float, *, higher_is_better: bool) -> float | None:
    """Returns by how much a metric got worse, relative to what it was; None where it was 0 and is not any more."""
    if before == after:
        return 0.0
    if before == 0:
        return None
    worse = before - after if higher_is_better else after - before
    return worse / abs(before)


def _drops(
    scores: Mapping[str, Mapping[str, float]], reference: Mapping[str, Mapping[str, float]], tasks: Sequence[Task]
) -> dict[str, float | None]:
    common = [task for task in tasks if task.name in reference]
    before = main_scores(reference, common)
    after = main_scores(scores, common)
    return {
        task.name: relative_drop(
            before[task.name], after[task.name], higher_is_better=task.kind.higher_is_better
        )
        for task in common
    }


def _files(path: Path) -> list[Path]:
    """Returns the networks that a path stands for: the ONNX files of an export folder, or the path itself."""
    if path.is_dir() and not is_file(path / "graph.json"):
        found = sorted(islice(path.glob("*.onnx"), 64), key=lambda file: (file.name != "model.onnx", file.name))
        return found or [path]
    return [path]


def _recipe(files: Sequence[Path]) -> Recipe:
    """Returns the recipe of the first network that says where it comes from: its checkpoint, or its run's folder."""
    for path in files:
        run_dir = path.resolve().parent.parent
        if path.suffix == ".pt" and (recipe := recipe_of(path)) is not None:
            return recipe
        if path.is_dir() and is_file(run_dir / FILE):
            return parse(Recipe, load_result(run_dir).recipe, where=f"{run_dir / FILE}: the recipe")
    raise VerificationError(
        "the networks do not say which data they are for: add their checkpoint (ckpt.pt) or a static folder inside its "
        "run, or give --recipe RECIPE"
    )


def _network(path: Path, model: str | None) -> tuple[nn.Module, str, tuple[str, ...]]:
    """Returns a network that maps images to outputs by name, what it is, and the names of its outputs."""
    if path.suffix == ".onnx":
        onnx = OnnxNetwork(path)
        return onnx, f"onnx {onnx.precision}", onnx.output_names
    if path.is_dir():
        static = load_static(path)
        return _ForImages(static), f"static {static.manifest.inputs[0].dtype}", static.output_names
    gated = load_checkpoint(path, model)
    return gated, "gated", gated.tasks


class _ForImages(nn.Module):
    """A static network that takes images as data sets give them.

    Args:
        static: The network, of one input.
    """

    def __init__(self, static: StaticModel) -> None:
        super().__init__()
        self.static = static
        self.dtype = getattr(torch, static.manifest.inputs[0].dtype)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.static.outputs(images.to(self.dtype))


class OnnxNetwork(nn.Module):
    """An ONNX file of one input as a network.

    A file that takes bytes is given those that became the image. An int8 file is computed as it is written, in
    dequantised numbers: the 8-bit products of a processor may saturate, which is no property of the file.

    Args:
        path: The file.

    Attributes:
        precision: "fp32", "fp16" or "int8".
        output_names: The names of the outputs.

    Raises:
        ExportError: The file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        data = read_onnx(path)
        proto = load_onnx(data, path)
        self.precision = precision_of(proto)
        self._ends = _ends(proto, path)
        self._session = open_session(data, label=str(path), as_written=self.precision == "int8")
        self.output_names = tuple(output.name for output in self._session.get_outputs())
        (self._input, *_) = self._session.get_inputs()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Computes the outputs, by name, of any number of images."""
        fixed = self._input.shape[0]
        size = fixed if isinstance(fixed, int) else max(1, len(images))
        parts = [self._run(part, size) for part in images.split(size)]
        return {name: torch.cat([part[name] for part in parts]) for name in self.output_names}

    def _run(self, images: Tensor, size: int) -> dict[str, Tensor]:
        count = len(images)
        # A file of one batch size takes no smaller batch: the last image stands in for those that are missing.
        padded = torch.cat([images, images[-1:].expand(size - count, *images.shape[1:])])
        picture = self._ends.pictures.get(self._input.name)
        numbers = padded.float() if picture is None else _as_bytes(padded, picture)
        values = self._session.run(None, {self._input.name: numbers.numpy()})
        outputs = zip(self.output_names, map(torch.from_numpy, values), strict=True)
        return {name: _as_logits(value, self._ends.classes.get(name))[:count] for name, value in outputs}


def _ends(proto: Any, path: Path) -> Ends:
    """Returns what an ONNX file does besides its network."""
    text = next((entry.value for entry in proto.metadata_props if entry.key == ENDS), "{}")
    try:
        return Ends.model_validate_json(text)
    except ValidationError as error:
        raise ExportError(f"{path} says wrongly what it does besides its network: {first_problem(error)}") from error


def _as_bytes(images: Tensor, picture: Picture) -> Tensor:
    """Returns the bytes (N, H, W, C) that became the numbers (N, C, H, W) of a data set."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (picture.mean, picture.std))
    return ((images * std + mean) * 255).round().clamp(0, 255).byte().movedim(1, -1).contiguous()


def _as_logits(output: Tensor, classes: int | None) -> Tensor:
    """Returns outputs as tasks take them: 1 for the chosen class and 0 for the others, where a file gives its index."""
    return output if classes is None else one_hot(output.long(), classes).movedim(-1, 1).float()


def _plain(scores: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {task: dict(values) for task, values in scores.items()}
