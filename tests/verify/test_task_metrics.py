"""Task metrics of one network in several forms, on the data of its recipe."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from gate2static.errors import ArtefactError, DataError, ExportError, VerificationError
from gate2static.export import export_onnx, quantize_onnx
from gate2static.export.task_subset import for_tasks
from gate2static.files import write_atomically
from gate2static.prune import prune
from gate2static.recipe import load_recipe
from gate2static.report.tables.evaluation_table import evaluation_table
from gate2static.static import StaticModel
from gate2static.terminal import console
from gate2static.train import RunResult, evaluate
from gate2static.train.meaning import meaning
from gate2static.train.networks import build_untrained
from gate2static.verify import task_metrics
from gate2static.verify.task_metrics import evaluate_files, relative_drop

RECIPE = load_recipe(Path("recipes/digits_tiny.yaml"))


@pytest.fixture(scope="module")
def static() -> StaticModel:
    torch.manual_seed(0)
    return prune(build_untrained(RECIPE).eval())


@pytest.fixture(scope="module")
def forms(static: StaticModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The network as a folder and as ONNX files, in a run's folder."""
    run_dir = tmp_path_factory.mktemp("runs") / "tiny"
    row = run_dir / "gated-60"
    static.save(row / "static")
    export_onnx(static, row / "exported" / "model.onnx")
    export_onnx(static, row / "exported" / "model.fp16.onnx", precision="fp16")
    export_onnx(for_tasks(static, ["mask"]), row / "mask.onnx", batch_size=7)
    noise = np.random.default_rng(0).standard_normal((8, 1, 32, 32), dtype=np.float32)
    quantize_onnx(row / "exported" / "model.onnx", row / "exported" / "model.int8.onnx", [noise])
    RunResult(recipe=RECIPE.model_dump(mode="json"), tasks=()).save(run_dir)
    return {"static": row / "static", "exported": row / "exported", "mask": row / "mask.onnx"}


def test_all_forms_stand_side_by_side_and_the_first_one_is_the_reference(forms: dict[str, Path]) -> None:
    found = evaluate_files([forms["static"], forms["exported"]])
    assert [network.form for network in found.networks] == ["static float32", "onnx fp32", "onnx fp16", "onnx int8"]
    assert found.images == 40
    first, exact, *_ = found.networks
    assert set(first.drops.values()) == {0.0}
    assert exact.scores["left"] == pytest.approx(first.scores["left"])
    assert exact.scores["mask"] == pytest.approx(first.scores["mask"], abs=1e-4)
    assert json.loads(json.dumps(found.as_json()))["networks"][3]["form"] == "onnx int8"
    printer = console(width=200)
    with printer.capture() as capture:
        printer.print(evaluation_table(found))
    assert "left: accuracy ↑" in capture.get()
    assert "40 images of the test split" in capture.get()


def test_the_metrics_are_those_of_training(forms: dict[str, Path], static: StaticModel) -> None:
    from gate2static.data import describe_data, load_data
    from gate2static.tasks import build_tasks
    from gate2static.train.loop.batches import evaluation_loader

    data = load_data(RECIPE.data).test
    truth = evaluate(static, evaluation_loader(data, 8), build_tasks(RECIPE.tasks, describe_data(RECIPE.data)))
    (found,) = evaluate_files([forms["static"]]).networks
    assert {task: dict(values) for task, values in found.scores.items()} == truth


def test_a_part_of_the_tasks_at_a_fixed_batch_size_is_measured_on_each_image_once(forms: dict[str, Path]) -> None:
    found = evaluate_files([forms["static"], forms["mask"]], images=10)
    assert found.images == 10
    assert set(found.networks[1].scores) == {"mask"}
    assert found.networks[1].scores["mask"] == pytest.approx(found.networks[0].scores["mask"], abs=1e-4)


def test_a_file_with_preprocessing_and_argmax_inside_has_the_metrics_of_the_plain_one(
    forms: dict[str, Path], static: StaticModel, tmp_path: Path
) -> None:
    manifest = static.manifest.model_copy(update={"meaning": meaning(RECIPE, static.manifest)})
    described = StaticModel(static.network, manifest)
    export_onnx(described, tmp_path / "ends.onnx", preprocess=True, argmax=True)
    plain, ends = evaluate_files([forms["exported"] / "model.onnx", tmp_path / "ends.onnx"], recipe=RECIPE).networks
    for task, scores in ends.scores.items():  # the digits' images are no bytes, and are rounded to some
        assert dict(scores) == pytest.approx(plain.scores[task], abs=2e-3)
    proto = onnx.load(tmp_path / "ends.onnx")
    onnx.helper.set_model_props(proto, {"gate2static.ends": '{"classes": {"left": -1}}'})
    onnx.save(proto, tmp_path / "ends.onnx")
    with pytest.raises(ExportError, match="says wrongly what it does besides its network"):
        evaluate_files([tmp_path / "ends.onnx"], recipe=RECIPE)


@pytest.mark.parametrize(
    ("before", "after", "higher", "drop"),
    [
        (0.5, 0.4, True, 0.2),
        (0.5, 0.6, True, -0.2),
        (2.0, 2.5, False, 0.25),
        (0.0, 0.1, True, None),
        (0.0, 0.0, True, 0),
    ],
)
def test_a_drop_is_relative_and_knows_which_direction_is_better(before, after, higher, drop) -> None:
    found = relative_drop(before, after, higher_is_better=higher)
    assert found == (None if drop is None else pytest.approx(drop))


def test_a_drop_above_what_is_allowed_names_task_and_network(forms: dict[str, Path], monkeypatch) -> None:
    found = evaluate_files([forms["static"], forms["exported"]])
    found.require(1.0)
    scores = found.networks[0].scores
    same = dict.fromkeys(found.metrics, 0.0)

    def with_drops(drops: dict[str, float]) -> task_metrics.Evaluation:
        other = task_metrics.Measured(name="x.onnx", form="onnx int8", scores=scores, drops=drops)
        return task_metrics.Evaluation(**{**vars(found), "networks": (found.networks[0], other)})

    changed = with_drops({**same, "left": 0.03})
    changed.require(0.03)
    with pytest.raises(VerificationError, match=r"x.onnx: accuracy of left drops by 3.00 % .*allowed is 1 %"):
        changed.require(0.01)
    with pytest.raises(VerificationError, match=r"x.onnx: accuracy of left drops by nan %"):
        with_drops({**same, "left": float("nan")}).require(0.01)
    with pytest.raises(VerificationError, match=r"x.onnx has none of the tasks of "):
        with_drops({}).require(0.01)
    partial = with_drops({task: drop for task, drop in same.items() if task != "left"})
    partial.require(0.01)
    assert partial.cautions() == ("x.onnx lacks left, of which nothing is measured",)


def test_networks_that_do_not_say_their_data_need_a_recipe(forms: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="--recipe RECIPE"):
        evaluate_files([forms["mask"]])
    assert evaluate_files([forms["mask"]], recipe=RECIPE, images=3).images == 3
    other = load_recipe(Path("recipes/digits_tiny.yaml"), ["tasks=[{name: left, kind: classification}]"])
    with pytest.raises(VerificationError, match="has the outputs mask, and the recipe digits-tiny the tasks left"):
        evaluate_files([forms["mask"]], recipe=other)


def test_what_is_no_network_is_refused(tmp_path: Path) -> None:
    write_atomically(tmp_path / "broken.onnx", b"nonsense")
    with pytest.raises(ExportError, match="not a complete ONNX model"):
        evaluate_files([tmp_path / "broken.onnx"], recipe=RECIPE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtefactError, match="is not a static model"):
        evaluate_files([tmp_path / "empty"], recipe=RECIPE)


def test_the_command_exits_with_1_where_a_task_drops_too_much(run, forms, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(task_metrics, "relative_drop", lambda before, after, higher_is_better: 0.02)
    run("evaluate", forms["static"], forms["mask"], "--images", "4", "--max-drop", "2%", "--json", tmp_path / "e.json")
    assert json.loads((tmp_path / "e.json").read_text())["images"] == 4
    result = run("evaluate", forms["static"], forms["mask"], "--images", "4", "--max-drop", "0.019", code=1)
    assert "IoU of mask drops by 2.00 %" in result.stderr
    for wrong in ("x", "-1", "150%", "nan"):
        assert "--max-drop" in run("evaluate", forms["mask"], "--max-drop", wrong, code=2).stderr
    assert "--recipe" in run("evaluate", forms["mask"], "--set", "seed=1", code=2).stderr


def test_an_empty_split_is_refused(forms, monkeypatch) -> None:
    monkeypatch.setattr(task_metrics, "length", lambda data: 0)
    with pytest.raises(DataError, match="holds no image"):
        evaluate_files([forms["static"]])


def test_an_export_whose_tasks_drop_too_much_leaves_nothing_behind(run, forms, tmp_path, monkeypatch) -> None:
    command = ("export", forms["static"], "-o", tmp_path / "net", "--fp16", "--images", "4", "--max-drop", "1%")
    monkeypatch.setattr(task_metrics, "relative_drop", lambda before, after, higher_is_better: 0.02)
    result = run(*command, code=1)
    assert "model.fp16.onnx: accuracy of left drops by 2.00 %" in result.stderr
    assert "Task metrics" in result.stdout
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    run(*command)
    names = ["example.cpp", "example.py", "model.fp16.onnx", "model.json", "model.onnx"]
    assert [path.name for path in sorted((tmp_path / "net").iterdir())] == names
    # A file of an earlier export is not lost with the new ones.
    (tmp_path / "net" / "model.fp16.onnx").write_bytes(b"earlier")
    monkeypatch.setattr(task_metrics, "relative_drop", lambda before, after, higher_is_better: 0.02)
    run(*command, code=1)
    assert (tmp_path / "net" / "model.fp16.onnx").read_bytes() == b"earlier"


def test_what_a_drop_is_measured_on_needs_a_drop(run, forms) -> None:
    assert "add --max-drop 1%" in run("export", forms["static"], "--images", "4", code=2).stderr
