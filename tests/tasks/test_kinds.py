"""The kinds of tasks: losses, metrics, and tasks that a data set does not have."""

import pytest
import torch
from torch.nn import functional as F

from gate2static.data import DataSpec, TargetSpec
from gate2static.errors import RecipeError
from gate2static.recipe import TaskRecipe
from gate2static.tasks import KINDS, Task, TaskMetrics, build_tasks

SPEC = DataSpec(
    image_shape=(1, 8, 8),
    targets={
        "digit": TargetSpec(kind="classification", channels=4),
        "ink": TargetSpec(kind="mask", channels=1),
        "faces": TargetSpec(kind="normals", channels=3),
    },
)


def task(name: str) -> Task:
    return build_tasks((TaskRecipe(name=name, kind=SPEC.targets[name].kind, weight=2, target=0.25),), SPEC)[0]


def test_a_task_knows_its_outputs_weight_and_target() -> None:
    digit = task("digit")
    assert (digit.channels, digit.weight, digit.target) == (4, 2, 0.25)


def test_accuracy_weighs_images_not_batches() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(10, 4), torch.randint(4, (10,))
    metrics = TaskMetrics(task("digit"))
    for part in (slice(0, 7), slice(7, 10)):
        metrics.update(logits[part], labels[part])
    assert metrics.compute()["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))


def test_iou_counts_pixels_of_all_batches() -> None:
    torch.manual_seed(0)
    logits, mask = torch.randn(5, 1, 8, 8), (torch.rand(5, 1, 8, 8) > 0.5).float()
    metrics = TaskMetrics(task("ink"))
    for part in (slice(0, 4), slice(4, 5)):
        metrics.update(logits[part], mask[part])
    found, wanted = logits > 0, mask.bool()
    assert metrics.compute()["IoU"] == pytest.approx(float((found & wanted).sum() / (found | wanted).sum()))


def test_small_logits_are_not_taken_for_probabilities() -> None:
    # torchmetrics would take logits that all lie in [0, 1] for probabilities and cut them at 0.5.
    metrics = TaskMetrics(task("ink"))
    metrics.update(torch.full((1, 1, 2, 2), 0.25), torch.ones(1, 1, 2, 2))
    assert metrics.compute()["IoU"] == 1


def test_losses_are_the_papers() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 4), torch.randint(4, (6,))
    assert torch.equal(task("digit").loss(logits, labels), F.cross_entropy(logits, labels))
    maps, mask = torch.randn(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
    torch.testing.assert_close(task("ink").loss(maps, mask), F.binary_cross_entropy_with_logits(maps, mask))
    attributes = Task(name="face", kind=KINDS["attributes"], channels=4)
    torch.testing.assert_close(
        attributes.loss(logits, logits.round().clamp(0, 1)),
        F.binary_cross_entropy_with_logits(logits, logits.round().clamp(0, 1)),
    )
    keypoints = Task(name="keypoints", kind=KINDS["keypoints"], channels=1)
    torch.testing.assert_close(keypoints.loss(maps, mask), (maps - mask).abs().mean())


def test_offsets_are_judged_by_both_coordinates_of_instances_alone() -> None:
    target = torch.zeros(1, 2, 2, 2)
    target[..., 1] = 255
    output = torch.full((1, 2, 2, 2), 9.0)
    output[0, :, :, 0] = torch.tensor([[0.1, 0.1], [0.3, 0.3]])
    offsets = Task(name="instances", kind=KINDS["instance_offsets"], channels=2)
    assert float(offsets.loss(output, target)) == pytest.approx(0.2)
    metrics = TaskMetrics(offsets)
    metrics.update(output, target)
    assert metrics.compute() == {"L1": pytest.approx(0.2)}


def test_attributes_count_alike() -> None:
    metrics = TaskMetrics(Task(name="face", kind=KINDS["attributes"], channels=2))
    metrics.update(torch.tensor([[1.0, -1.0], [0.3, 0.2]]), torch.tensor([[1.0, 1.0], [1.0, 1.0]]))
    assert metrics.compute() == {"accuracy": 0.75}


def test_another_loss_reads_the_same_targets() -> None:
    spec = DataSpec(image_shape=(3, 8, 8), targets={"normals": TargetSpec(kind="normals", channels=3)})
    (found,) = build_tasks((TaskRecipe(name="normals", kind="normals_cosine"),), spec)
    assert found.kind is KINDS["normals_cosine"]


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("digits", "classification", r"no target digits; did you mean digit\? allowed: digit, faces, ink"),
        ("digit", "classify", r"digit is of kind classify; did you mean classification\?"),
        (
            "ink",
            "classification",
            "ink is of kind classification, but the data set's target is mask; write kind: mask$",
        ),
        ("faces", "semantic", "faces is of kind semantic, .* is normals; write kind: normals or kind: normals_cosine$"),
        ("ink", "normals_cosine", "ink is of kind normals_cosine, but .* is mask; write kind: mask$"),
    ],
)
def test_a_task_that_the_data_does_not_have_is_refused(name: str, kind: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_tasks((TaskRecipe(name=name, kind=kind),), SPEC)
