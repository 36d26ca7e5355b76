"""Strips of predictions: the file that training writes, the pictures, and files that are not ours."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from torch import nn

from gate2static.data import describe_data, load_data
from gate2static.errors import CheckpointError
from gate2static.recipe import DataRecipe, TaskRecipe
from gate2static.report.figures.predictions import FILE, predictions_figure, read_predictions
from gate2static.tasks import build_tasks
from gate2static.train.sample_predictions import write_predictions

DATA = DataRecipe(name="scenes", options={"size": 32, "train_images": 2, "val_images": 2, "test_images": 5})
KINDS = {"semantic": "semantic", "depth": "depth", "normals": "normals", "edges": "edges"}


class Right(nn.Module):
    """Predicts the labels of the images that it is given, in the form of a network's raw outputs."""

    def __init__(self, samples, classes):
        super().__init__()
        self.samples = samples
        self.classes = classes

    def forward(self, images):
        targets = [next(t for image, t in self.samples if torch.equal(image, one)) for one in images]
        labels = {name: torch.stack([target[name] for target in targets]) for name in KINDS}
        classes = labels["semantic"].clamp(max=self.classes - 1)
        semantic = nn.functional.one_hot(classes, self.classes).permute(0, 3, 1, 2).float()
        edges = torch.where(labels["edges"] == 1, 20.0, -20.0)
        return {"semantic": semantic, "depth": labels["depth"], "normals": 3 * labels["normals"], "edges": edges}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("row")
    test = load_data(DATA, list(KINDS)).test
    spec = describe_data(DATA)
    tasks = build_tasks([TaskRecipe(name=name, kind=kind) for name, kind in KINDS.items()], spec)
    classes = next(task.channels for task in tasks if task.name == "semantic")
    write_predictions(folder, Right([test[i] for i in range(5)], classes), test, tasks)
    return folder / FILE


def test_predictions_are_in_the_form_of_the_labels(written):
    predictions = read_predictions(written, "right")
    assert predictions.images.shape[0] == 3
    for task in KINDS:
        label, output = predictions.labels[task], predictions.outputs[task]
        known = (label >= 0) if task == "semantic" else np.isfinite(label)
        assert known.any()
        np.testing.assert_allclose(output[known], label[known], atol=2e-3, err_msg=task)


def test_a_right_prediction_looks_like_its_label_and_a_wrong_one_does_not(written):
    right = read_predictions(written, "right")
    for task in KINDS:
        panels = predictions_figure([right], task).axes
        assert [axes.get_title() for axes in panels[:3]] == ["image", "label", "right"]
        label, output = (panels[i].images[0].get_array() for i in (1, 2))
        same = np.isclose(label, output, atol=0.02).all(axis=-1)
        grey = np.isclose(label, 0.8).all(axis=-1)
        assert (same | grey).all(), task
    flipped = {task: values[..., ::-1, :] for task, values in right.outputs.items()}
    wrong = type(right)(name="wrong", images=right.images, labels=right.labels, outputs=flipped)
    panels = predictions_figure([wrong], "semantic").axes
    assert not np.allclose(panels[1].images[0].get_array(), panels[2].images[0].get_array())


def test_large_images_are_thinned(tmp_path):
    spec = describe_data(DATA)
    (task,) = build_tasks([TaskRecipe(name="depth", kind="depth")], spec)
    large = [(torch.zeros(3, 400, 170), {"depth": torch.ones(1, 400, 170)})]

    class Ones(nn.Module):
        def forward(self, images):
            return {"depth": torch.ones(len(images), 1, 400, 170)}

    write_predictions(tmp_path, Ones(), large, [task])
    assert read_predictions(tmp_path / FILE, "ones").images.shape == (1, 3, 134, 57)


IMAGE = np.zeros((2, 3, 4, 4), np.float16)
MAPS = np.zeros((2, 1, 4, 4), np.float16)


@pytest.mark.parametrize(
    "arrays",
    [
        {"label/a": MAPS, "output/a": MAPS},
        {"image": IMAGE, "label/a": MAPS},
        {"image": IMAGE, "label/a": MAPS, "output/a": MAPS[:1]},
        {"image": IMAGE, "label/a": MAPS, "output/a": MAPS[:, :, :0]},
        {"image": IMAGE, "label/a": MAPS, "output/a": np.zeros((2, 9, 4, 4), np.float16)},
        {"image": IMAGE, "label/a": MAPS, "output/a": np.full((2, 4, 4), 9999, np.int16)},
        {"image": np.zeros((2, 3, 4, 600), np.float16), "label/a": MAPS, "output/a": MAPS},
    ],
    ids=["no image", "no output", "other count", "empty", "channels", "class", "large"],
)
def test_a_file_that_does_not_fit_is_named(arrays, tmp_path):
    (tmp_path / FILE).write_bytes(save(arrays))
    match = r"predictions\.safetensors: (no file|its labels).*remove it, or train again"
    with pytest.raises(CheckpointError, match=match):
        read_predictions(tmp_path / FILE, "row")


def test_a_file_of_something_else_is_named(tmp_path):
    (tmp_path / FILE).write_bytes(b"\x00" * 20)
    with pytest.raises(CheckpointError, match="no file of predictions"):
        read_predictions(tmp_path / FILE, "row")


def test_a_label_without_any_known_pixel_is_drawn_in_grey():
    nothing = np.full((1, 3, 4, 4), np.nan, np.float16)
    row = type("Row", (), {"name": "x", "images": IMAGE[:1], "labels": {"a": nothing}, "outputs": {"a": nothing}})
    panels = predictions_figure([row], "a").axes
    assert np.allclose(panels[1].images[0].get_array(), 0.8)
