"""Evaluation on one split."""

import pytest
import torch
from torch import Tensor, nn

from gate2static.errors import DataError
from gate2static.tasks import KINDS, Task
from gate2static.train import evaluate
from gate2static.train.loop.batches import evaluation_loader as in_order

TASK = Task(name="digit", kind=KINDS["classification"], channels=3)


class Data(torch.utils.data.Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Seven images that a linear model gets right five times; the two it gets wrong fill the short last batch."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        label = torch.tensor(index % 3)
        image = nn.functional.one_hot(label, 3).float()
        return image, {"digit": label if index < 5 else (label + 1) % 3}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.9)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"digit": self.drop(x), "other": x}


def test_a_short_last_batch_counts_for_what_it_holds() -> None:
    assert evaluate(Model(), in_order(Data(), 5), (TASK,)) == {"digit": {"accuracy": pytest.approx(5 / 7)}}


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_in_the_mode_it_came_in(training: bool) -> None:
    model = Model().train(training)
    evaluate(model, in_order(Data(), 4), (TASK,))
    assert model.training is training


def test_a_loader_without_images_is_an_error() -> None:
    with pytest.raises(DataError, match="digit: the evaluated split holds no valid value"):
        evaluate(Model(), [], (TASK,))
