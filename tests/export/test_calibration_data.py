"""What int8 is calibrated with: arrays, pictures, or the training images of a recipe."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gate2static.data import load_data
from gate2static.errors import ExportError, RecipeError
from gate2static.export import calibration_data, export_static
from gate2static.export.calibration_data import calibration_data as batches_of
from gate2static.export.calibration_data import check_calibration
from gate2static.recipe import load_recipe
from gate2static.static import StaticModel

RECIPE = Path("recipes/digits_tiny.yaml")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        array = np.full((20, 30, 3), 51 * number, np.uint8)
        Image.fromarray(array).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def described(static: StaticModel) -> StaticModel:
    static.describe(inputs={"image": {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.25, 0.1]}})
    return static


def test_pictures_are_resized_and_normalised_as_the_network_says(static: StaticModel, pictures: Path) -> None:
    (batch,) = batches_of(pictures, described(static))
    assert batch.shape == (3, 3, 16, 16)
    assert batch.dtype == np.float32
    np.testing.assert_allclose(batch[1, :, 0, 0], [(0.2 - 0.5) / 0.5, (0.2 - 0.4) / 0.25, (0.2 - 0.3) / 0.1], atol=1e-6)


def test_many_pictures_are_taken_evenly(static: StaticModel, pictures: Path, monkeypatch) -> None:
    monkeypatch.setattr(calibration_data, "MOST_IMAGES", 2)
    (batch,) = batches_of(pictures, described(static))
    np.testing.assert_allclose(batch[:, 0, 0, 0], [-1, (0.2 - 0.5) / 0.5], atol=1e-6)


def test_int8_is_made_from_pictures(static: StaticModel, pictures: Path, tmp_path: Path) -> None:
    reports = export_static(described(static), tmp_path, precision="int8", calibration=pictures, progress=False)
    assert [report.path.name for report in reports] == ["model.onnx", "model.int8.onnx"]
    assert reports[1].samples == 3


def test_a_recipe_gives_its_training_images(static: StaticModel, monkeypatch: pytest.MonkeyPatch) -> None:
    (image,) = static.manifest.inputs
    grey = image.model_copy(update={"shape": (1, 32, 32)})
    small = StaticModel(static.network, static.manifest.model_copy(update={"inputs": (grey,)}))
    found = np.concatenate(list(batches_of(RECIPE, small)))
    train = load_data(load_recipe(RECIPE).data).train
    assert len(found) == len(train) == 64
    assert torch.equal(torch.from_numpy(found[5]), train[5][0])
    with pytest.raises(ExportError, match=r"has images \(1, 32, 32\), and the network takes \(3, 16, 16\)"):
        check_calibration(RECIPE, static)


def test_what_cannot_calibrate_is_refused_before_anything_is_made(
    static: StaticModel, pictures: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="does not say how a picture becomes its input"):
        export_static(static, tmp_path / "out", precision="int8", calibration=pictures)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ExportError, match="holds no pictures"):
        check_calibration(empty, described(static))
    with pytest.raises(RecipeError, match="no such recipe"):
        check_calibration(tmp_path / "nowhere.yaml", static)
    assert not (tmp_path / "out").exists()
