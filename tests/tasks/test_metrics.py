"""What all kinds have in common: batches, processes, and what cannot be measured."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from torch.nn import functional as F

from gate2static.errors import DataError, TrainingError
from gate2static.tasks import KINDS, Task, TaskMetrics

CHANNELS = {
    "classification": 5,
    "attributes": 3,
    "semantic": 5,
    "normals": 3,
    "normals_cosine": 3,
    "instance_offsets": 2,
}
TASKS = [Task(name=name, kind=kind, channels=CHANNELS.get(name, 1)) for name, kind in KINDS.items()]
DENSE = [task for task in TASKS if task.kind.dense]
IMAGES = 5

each = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
each_with_invalid = pytest.mark.parametrize("task", DENSE, ids=lambda task: task.name)


def batch(task: Task, *, valid: bool = True) -> tuple[Tensor, Tensor]:
    """An output and a target of 5 images; maps have invalid pixels, more in the first image than in the others."""
    generator = torch.Generator().manual_seed(1)
    size = (6, 6) if task.kind.dense else ()
    output = torch.randn(IMAGES, task.channels, *size, generator=generator)
    noise = torch.rand(output.shape, generator=generator)
    invalid: float = 255
    if task.kind.labelled:
        target = (noise[:, 0] * task.channels).long()
    elif task.name in ("depth", "keypoints"):
        target, invalid = noise + 0.5, 0 if task.name == "depth" else -1
    elif task.name == "instance_offsets":
        target = noise - 0.5
    elif task.name.startswith("normals"):
        target, invalid = F.normalize(noise - 0.5, dim=1), 0
    else:
        target = (noise > 0.6).float()
    if task in DENSE:
        target[0, ..., :4, :] = invalid
        target[1:, ..., :1, :] = invalid
        if not valid:
            target[:] = invalid
    return output, target


def scores(task: Task, *parts: slice) -> dict[str, float]:
    output, target = batch(task)
    metrics = TaskMetrics(task)
    for part in parts:
        metrics.update(output[part], target[part])
    return metrics.compute()


@each
def test_the_main_metric_comes_first(task: Task) -> None:
    assert next(iter(scores(task, slice(0, IMAGES)))) == task.kind.metric_name


@each
def test_a_short_last_batch_weighs_what_it_holds(task: Task) -> None:
    assert scores(task, slice(0, 4), slice(4, 5)) == pytest.approx(scores(task, slice(0, 5)))


@each
def test_the_loss_has_a_gradient(task: Task) -> None:
    output, target = batch(task)
    output.requires_grad_()
    task.loss(output, target).backward()
    assert output.grad is not None
    assert output.grad.isfinite().all()
    assert output.grad.any()


@each
def test_the_loss_of_half_precision_outputs_is_taken_in_float32(task: Task) -> None:
    output, target = batch(task)
    output = output.bfloat16()
    loss = task.loss(output, target)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, task.loss(output.float(), target))


@each_with_invalid
def test_invalid_pixels_get_no_gradient(task: Task) -> None:
    output, target = batch(task)
    output.requires_grad_()
    task.loss(output, target).backward()
    assert output.grad is not None
    assert not output.grad[1:, :, :1].any()
    assert output.grad[1:, :, 1:].any()


@each_with_invalid
def test_a_batch_without_a_valid_pixel_has_a_loss_of_zero_with_a_graph(task: Task) -> None:
    output, target = batch(task, valid=False)
    output.requires_grad_()
    loss = task.loss(output, target)
    loss.backward()
    assert loss.item() == 0
    assert output.grad is not None
    assert not output.grad.any()


@each_with_invalid
def test_a_batch_without_a_valid_pixel_changes_no_metric(task: Task) -> None:
    metrics = TaskMetrics(task)
    metrics.update(*batch(task))
    before = metrics.compute()
    metrics.update(*batch(task, valid=False))
    assert metrics.compute() == before


@each_with_invalid
def test_a_split_without_a_valid_pixel_is_an_error(task: Task) -> None:
    metrics = TaskMetrics(task)
    metrics.update(*batch(task, valid=False))
    with pytest.raises(DataError, match=f"{task.name}: the evaluated split holds no valid value.*check its labels"):
        metrics.compute()


@each
def test_an_output_that_is_not_finite_is_an_error(task: Task) -> None:
    output, target = batch(task)
    output[-1] = torch.nan
    with pytest.raises(TrainingError, match=f"{task.name}: the network's output is not finite"):
        TaskMetrics(task).update(output, target)


@each
def test_a_target_of_another_shape_is_an_error(task: Task) -> None:
    output, target = batch(task)
    with pytest.raises(DataError, match=rf"{task.name}: targets are \(5,.*needs .*one size"):
        task.loss(output, target[..., None])
    with pytest.raises(DataError, match=f"{task.name}: targets are"):
        TaskMetrics(task).update(output, target[..., None])


@pytest.mark.parametrize(("name", "ignored"), [("classification", ""), ("semantic", " and 255 for pixels to ignore")])
@pytest.mark.parametrize("wrong", [5, -1])
def test_a_class_that_does_not_exist_is_an_error(name: str, ignored: str, wrong: int) -> None:
    task = next(task for task in TASKS if task.name == name)
    output, target = batch(task)
    target[-1] = wrong
    message = f"{name}: targets hold class {wrong}; allowed are 0 to 4{ignored}; correct"
    with pytest.raises(DataError, match=message):
        task.loss(output, target)
    with pytest.raises(DataError, match=message):
        TaskMetrics(task).update(output, target)


def test_255_is_a_class_like_any_other_where_nothing_is_ignored() -> None:
    task = TASKS[0]
    output, target = batch(task)
    target[-1] = 255
    with pytest.raises(DataError, match="targets hold class 255; allowed are 0 to 4; correct"):
        task.loss(output, target)


def test_counting_does_not_stop_where_float32_would() -> None:
    task = next(task for task in TASKS if task.name == "edges")
    metrics = TaskMetrics(task)
    metrics.update(*batch(task))
    for metric in metrics._metrics.values():
        metric.weight += 2.0**25
    before = float(metrics._metrics["loss"].weight)
    metrics.update(*(x[1:2, :, 1:2, :1] for x in batch(task)))
    assert float(metrics._metrics["loss"].weight) == before + 1


SHARES = {
    "uneven": (slice(0, 1), slice(1, 5)),
    "one is empty": (slice(0, 5), slice(5, 5)),
}


def _measure_share(rank: int, folder: str) -> None:
    """Run by each of two processes: the metrics of all tasks, for every way to share the images."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    found: dict[str, Any] = {}
    for name, shares in SHARES.items():
        for task in TASKS:
            output, target = batch(task)
            metrics = TaskMetrics(task)
            for index in range(IMAGES)[shares[rank]]:
                metrics.update(output[index : index + 1], target[index : index + 1])
            found[f"{name}/{task.name}"] = metrics.compute()
    depth = next(task for task in TASKS if task.name == "depth")
    with pytest.raises(DataError, match="no valid value"):
        TaskMetrics(depth).compute()
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_measure_what_one_would(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_measure_share, args=(rank, str(tmp_path)), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    expected = {f"{name}/{task.name}": scores(task, slice(0, 5)) for name in SHARES for task in TASKS}
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found.keys() == expected.keys()
        for key, value in found.items():
            assert value == pytest.approx(expected[key], rel=1e-6), key
