"""The paired test: against scipy's t-test, against a bootstrap, and how often it is wrong."""

from functools import reduce

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from gate2static.tasks import KINDS, Blocks, PairedTest, Replicates, Task, TaskMetrics, paired_tests
from gate2static.tasks.blocks import MOST_BLOCKS, Measured
from gate2static.tasks.paired import _test

CLASSES = Task(name="left", kind=KINDS["classification"], channels=2)
NORMALS = Task(name="normals", kind=KINDS["normals"], channels=3)
SEMANTIC = Task(name="semantic", kind=KINDS["semantic"], channels=3)


def measured(
    task: Task, output: Tensor, target: Tensor, batch_size: int = 7, rank: int = 0, world_size: int = 1
) -> Measured:
    blocks = Blocks((task,), len(output), rank=rank, world_size=world_size)
    own_outputs, own_targets = (values[rank::world_size].split(batch_size) for values in (output, target))
    for outputs, targets in zip(own_outputs, own_targets, strict=True):
        blocks.update({task.name: outputs}, {task.name: targets})
    return blocks.measured()[task.name]


def compared(task: Task, one: Tensor, other: Tensor, target: Tensor, margin: float = 0.0) -> dict[str, PairedTest]:
    network, single = (Replicates(task, measured(task, output, target)) for output in (one, other))
    return paired_tests(network, single, task, margin=margin)


def answers(right: np.ndarray) -> Tensor:
    """Logits of two classes whose larger one is class 0 where an answer is right."""
    return torch.tensor(np.stack([right, ~right], axis=1), dtype=torch.float32)


def normals(generator: torch.Generator, images: int, pixels: int = 8) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(images, 3, pixels, pixels, generator=generator), dim=1)


def test_for_a_mean_over_images_it_is_the_paired_t_test() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.random(150) < 0.8, generator.random(150) < 0.7
    target = torch.zeros(150, dtype=torch.int64)
    test = compared(CLASSES, answers(one), answers(other), target)["accuracy"]
    # The gain is relative: a paired t-test of a - (1 + gain) b + gain b, with the second term's mean fixed.
    expected = stats.ttest_1samp(one - (one.mean() / other.mean()) * other + test.gain * other.mean(), 0.0)
    assert test.gain == pytest.approx((one.mean() - other.mean()) / other.mean())
    low, high = expected.confidence_interval() / other.mean()
    assert (test.low, test.high) == (pytest.approx(low, abs=2e-3), pytest.approx(high, abs=2e-3))
    assert test.p_value == pytest.approx(expected.pvalue / 2, rel=0.1)


def test_a_margin_is_a_share_of_the_single_task_network() -> None:
    target = torch.zeros(100, dtype=torch.int64)
    other = np.arange(100) < 80
    one = other & (np.arange(100) != 0)  # one image worse, 1.25 %
    p_values = [
        compared(CLASSES, answers(one), answers(other), target, m)["accuracy"].p_value for m in (0, 0.0125, 0.1)
    ]
    assert p_values[0] == pytest.approx(0.84, abs=0.01)
    assert p_values[1] == pytest.approx(0.5)
    assert p_values[2] < 1e-6


@pytest.mark.parametrize(("margin", "expected"), [(0.0, 1.0), (0.01, 0.99**40), (0.1, 0.9**40)])
def test_networks_that_no_image_tells_apart_are_safe_only_within_what_so_many_images_can_show(
    margin: float, expected: float
) -> None:
    target = torch.zeros(40, dtype=torch.int64)
    same = answers(np.arange(40) < 30)
    assert compared(CLASSES, same, same, target, margin)["accuracy"].p_value == pytest.approx(expected)


def test_errors_count_in_their_better_direction() -> None:
    generator = torch.Generator().manual_seed(0)
    target, noise = normals(generator, 60), torch.randn(60, 3, 8, 8, generator=generator)
    # Noise by image, so that gains differ from image to image.
    size = 0.2 + 0.2 * torch.rand(60, 1, 1, 1, generator=generator)
    for test in compared(NORMALS, target + 0.5 * size * noise, target + size * noise, target).values():
        assert test.gain > 0
        assert test.p_value < 0.05


def test_medians_and_iou_have_the_interval_of_a_bootstrap() -> None:
    generator = torch.Generator().manual_seed(1)
    target = normals(generator, 80)
    size = 0.2 + 0.3 * torch.rand(80, 1, 1, 1, generator=generator)
    outputs = [target + size * torch.randn(80, 3, 8, 8, generator=generator) for _ in range(2)]
    classes = torch.randint(3, (80, 8, 8), generator=generator)
    one_hot = torch.nn.functional.one_hot(classes, 3).permute(0, 3, 1, 2).float()
    logits = [one_hot + size * 2 * torch.randn(80, 3, 8, 8, generator=generator) for _ in range(2)]
    for task, pair, right, metric in (
        (NORMALS, outputs, target, "median"),
        (SEMANTIC, logits, classes, "mIoU"),
    ):
        test = compared(task, pair[0], pair[1], right)[metric]
        gains = []
        for seed in range(60):
            drawn = torch.randint(80, (80,), generator=torch.Generator().manual_seed(seed))
            values = []
            for output in pair:
                metrics = TaskMetrics(task)
                metrics.update(output[drawn], right[drawn])
                values.append(metrics.compute()[metric])
            gains.append((values[0] - values[1]) / values[1] * (-1 if metric in task.kind.errors else 1))
        assert test.low is not None
        assert test.high is not None
        assert (test.high - test.low) / (2 * 1.96) == pytest.approx(np.std(gains), rel=0.4)


def test_equal_networks_rarely_pass() -> None:
    """The promise: at most `significance` of all networks that are no better pass."""
    passed = 0
    for seed in range(400):
        generator = np.random.default_rng(seed)
        # The gain of a metric that is a mean over 40 images, and the same without each of them.
        of_image = generator.exponential(size=40) - 1
        without = (of_image.sum() - of_image) / 39
        passed += _test(float(of_image.mean()), without, images=40, margin=0.0).p_value < 0.05
    assert passed <= 32  # 20 are expected of normal differences; these are skewed


def test_blocks_add_up_to_the_whole_split_however_it_is_batched() -> None:
    generator = torch.Generator().manual_seed(2)
    target = normals(generator, 450, pixels=2)
    output = target + 0.3 * torch.randn(450, 3, 2, 2, generator=generator)
    metrics = TaskMetrics(NORMALS)
    metrics.update(output, target)
    for batch_size in (1, 32, 450):
        of_split = measured(NORMALS, output, target, batch_size)
        assert len(of_split.blocks) == MOST_BLOCKS
        assert of_split.images == 450
        assert Replicates(NORMALS, of_split).whole == pytest.approx(metrics.compute())


@pytest.mark.parametrize("world_size", [2, 3])
def test_a_test_does_not_depend_on_the_number_of_processes(world_size: int) -> None:
    generator = torch.Generator().manual_seed(2)
    target = normals(generator, 450, pixels=2)
    one, other = (target + 0.3 * torch.randn(450, 3, 2, 2, generator=generator) for _ in range(2))
    tests = []
    for processes in (1, world_size):
        networks = []
        for output in (one, other):
            parts = [measured(NORMALS, output, target, 7, rank, processes) for rank in range(processes)]
            networks.append(Replicates(NORMALS, reduce(Measured.with_part, parts)))
        tests.append(paired_tests(*networks, NORMALS))
    for name, test in tests[0].items():
        assert tests[1][name].model_dump() == pytest.approx(test.model_dump())


def test_images_without_a_valid_value_are_in_no_block() -> None:
    generator = torch.Generator().manual_seed(3)
    target = normals(generator, 6)
    target[:2] = 0
    of_split = measured(NORMALS, target + 0.1, target)
    assert len(of_split.blocks) == 4
    assert of_split.images == 4


def test_images_without_a_valid_value_show_nothing() -> None:
    generator = torch.Generator().manual_seed(3)
    target = normals(generator, 300)
    target[10:] = 0
    output = target + 0.1
    (test, *_) = compared(NORMALS, output, output, target, 0.01).values()
    assert test.p_value == pytest.approx(0.99**10)


def test_a_metric_that_is_missing_without_some_block_shows_nothing() -> None:
    target = torch.zeros(10, dtype=torch.int64)
    one = np.arange(10) < 1  # without this image the single-task network has an accuracy of 0
    assert compared(CLASSES, answers(~one), answers(one), target)["accuracy"].p_value == 1
