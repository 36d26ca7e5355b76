"""What a static network's numbers mean is checked, kept with the network, and read back."""

import json

import pytest
import torch
from torch import nn

from gate2static.errors import ArtefactError
from gate2static.gates import gate
from gate2static.prune import prune
from gate2static.static import StaticModel, load_static

PICTURE = {"mean": [0.5, 0.5, 0.5], "std": [1, 1, 1]}


@pytest.fixture
def static() -> StaticModel:
    gated = gate(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()),
        tasks=["a", "b"],
        example_inputs=(torch.randn(2, 3, 4, 4),),
        heads={"a": nn.Conv2d(4, 2, 1), "b": nn.Conv2d(4, 1, 1)},
    )
    return prune(gated.eval())


def test_a_description_is_saved_and_loaded_and_added_to(static: StaticModel, tmp_path) -> None:
    (name,) = (spec.name for spec in static.manifest.inputs)
    static.describe(inputs={name: PICTURE}, outputs={"a": {"kind": "semantic", "classes": ["sky", "road"]}})
    static.describe(outputs={"b": {"kind": "depth", "unit": "m"}})
    static.save(tmp_path / "net")
    meaning = load_static(tmp_path / "net").manifest.meaning
    assert meaning == static.manifest.meaning
    assert meaning.outputs["a"].classes == ("sky", "road")
    assert meaning.outputs["b"].unit == "m"
    assert meaning.inputs[name].value_range == (-0.5, 0.5)


@pytest.mark.parametrize(
    ("description", "says"),
    [
        ({"outputs": {"c": {"kind": "depth"}}}, "there is no output 'c', but a, b"),
        ({"inputs": {"nothing": PICTURE}}, "there is no input 'nothing'"),
        ({"outputs": {"a": {"kind": "semantic", "classes": ["sky"]}}}, r"the output a \(2, 4, 4\) has not 1 classes"),
        ({"outputs": {"a": {"kind": "semantic", "activation": "tanh"}}}, "meaning.outputs.a.activation"),
        ({"outputs": {"a": {"colour": "red"}}}, "meaning.outputs.a"),
        ({"inputs": {"INPUT": {"mean": [0.5], "std": [1]}}}, "is no picture of 1 channels"),
        ({"inputs": {"INPUT": {"mean": [0.5] * 3, "std": [1, 1, 0]}}}, "a std is not above 0"),
        ({"inputs": {"INPUT": {"mean": [float("nan")] * 3, "std": [1] * 3}}}, "one finite number per channel"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(static: StaticModel, description, says) -> None:
    name = static.manifest.inputs[0].name
    description = json.loads(json.dumps(description).replace("INPUT", name))
    with pytest.raises(ArtefactError, match=says):
        static.describe(**description)
    assert static.manifest.meaning is None
