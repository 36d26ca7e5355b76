"""Code of the user's own: a name in a file is text, and only what the user named is imported and called."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gate2static import plugins
from gate2static.balance import build_method
from gate2static.data import describe_data, load_data
from gate2static.errors import BalanceError, DataError, Gate2StaticError, RecipeError
from gate2static.models.build import find_backbone
from gate2static.recipe import DataRecipe, Recipe, TaskRecipe, load_recipe, parse
from gate2static.tasks.task import find_kind

CODE = '''
import torch
from torch import nn
from torch.nn import functional as F
from gate2static.balance import Method
from gate2static.data import DataSpec, OwnData, Splits, TargetSpec
from gate2static.plugins import backbone, dataset
from gate2static.tasks import Kind

loaded = []

@backbone
def build(image_shape, width=4, pretrained=True):
    loaded.append(pretrained)
    return Lists(nn.Conv2d(image_shape[0], width, 3))

@backbone
def flat(image_shape):
    return nn.Conv2d(image_shape[0], 4, 3)

@backbone
def nothing(image_shape): ...

@backbone
def failing(image_shape):
    return 1 / 0

def unmarked(image_shape):
    raise AssertionError("called")

class Lists(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer
    def forward(self, x):
        return [self.layer(x)]

SPEC = DataSpec(image_shape=(3, 8, 8), targets={"level": TargetSpec(kind="own_code:LEVEL", channels=1)})

def data_of(image, targets):
    part = [(image, targets)] * 4
    return OwnData(spec=SPEC, splits=lambda: Splits(train=part, val=part, test=part))

@dataset
def load(side=8, target="level"):
    return data_of(torch.zeros(3, side, side), {target: torch.zeros(1)})

@dataset
def odd():
    return SPEC

LEVEL = Kind(metric_name="m", higher_is_better=True, loss=F.l1_loss, prepare=None, metrics=None, dense=False)

class Halves(Method):
    def weights(self, losses):
        return super().weights(losses) / 2
'''


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with the module `own_code`, which nobody named yet."""
    (tmp_path / "own_code.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.setattr(plugins, "_allowed", set())
    plugins.installed.cache_clear()
    yield tmp_path
    sys.modules.pop("own_code", None)
    plugins.installed.cache_clear()


RECIPE = """
name: own
data: {name: "own_code:load"}
tasks: [{name: level, kind: "own_code:LEVEL"}]
model: {name: "own_code:build"}
training: {shared: {balancing: "own_code:Halves"}}
"""


def asked(recipe: Recipe) -> None:
    """Asks for everything that a recipe names."""
    describe_data(recipe.data)
    find_backbone(recipe.model.name)
    find_kind(recipe.tasks[0])
    build_method(recipe.training.shared.balancing.method, 2, {})


def test_a_recipe_that_the_user_passed_names_what_is_imported(here: Path) -> None:
    (here / "own.yaml").write_text(RECIPE)
    recipe = load_recipe("own.yaml")
    assert "own_code" not in sys.modules, "only what is asked for is imported"
    asked(recipe)
    assert recipe.training.shared.balancing.label == "Halves", "rows become folders"
    # Other names of the same module were not named.
    with pytest.raises(RecipeError, match="add --plugin own_code, if you trust it"):
        find_backbone("own_code:flat")


def test_a_recipe_in_a_file_of_the_user_imports_nothing(here: Path) -> None:
    (here / "own.yaml").write_text(RECIPE)
    raw = load_recipe("own.yaml").model_dump(mode="json")
    plugins._allowed.clear()
    recipe = parse(Recipe, raw, where="the recipe inside")
    calls: list[Any] = [
        lambda: describe_data(recipe.data),
        lambda: find_backbone(recipe.model.name),
        lambda: find_kind(recipe.tasks[0]),
        lambda: build_method(recipe.training.shared.balancing.method, 2, {}),
    ]
    for call in calls:
        with pytest.raises(Gate2StaticError, match="nothing is imported because a file says so; add --plugin own_code"):
            call()
    assert "own_code" not in sys.modules
    plugins.allow_plugin("own_code", what="--plugin", error=Gate2StaticError)
    asked(recipe)


@pytest.mark.parametrize("name", ["os:system", "subprocess:getoutput", "own_code:unmarked", "builtins:eval"])
def test_what_is_not_meant_for_recipes_is_never_called(name: str, here: Path) -> None:
    plugins.allow([name])
    with pytest.raises(RecipeError, match="is no backbone; mark the function with @backbone"):
        find_backbone(name)
    with pytest.raises(RecipeError, match="is no data set; mark the function with @dataset"):
        describe_data(DataRecipe(name=name, options={"cmd": "touch exploded"}))
    with pytest.raises(RecipeError, match=r"allowed is a gate2static\.tasks\.Kind"):
        find_kind(TaskRecipe(name="level", kind=name))
    with pytest.raises(BalanceError, match=r"allowed is a subclass of gate2static\.balance\.Method"):
        build_method(name, 2, {})
    assert not (here / "exploded").exists()


def test_a_package_stands_for_its_modules_and_not_for_others(here: Path) -> None:
    (here / "own_pack").mkdir()
    (here / "own_pack/__init__.py").write_text("")
    (here / "own_pack/deep.py").write_text("VALUE = 3")
    (here / "own_packs.py").write_text("VALUE = 4")
    plugins.allow(["own_pack"])
    found = plugins.find("own_pack.deep:VALUE", "tasks", where="here", error=RecipeError)
    assert found == 3
    with pytest.raises(RecipeError, match="add --plugin own_packs"):
        plugins.find("own_packs:VALUE", "tasks", where="here", error=RecipeError)
    for name in ("own_pack", "own_pack.deep"):
        sys.modules.pop(name)


def test_an_installed_package_gives_its_code_a_name(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = here / "site" / "own_things-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-things\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gate2static.backbones]\nmy_net = own_code:build\nbad = own_code\n")
    monkeypatch.syspath_prepend(str(here / "site"))
    plugins.installed.cache_clear()
    with pytest.raises(RecipeError, match="my_net is code that this file names"):
        find_backbone("my_net")
    with pytest.raises(RecipeError, match="did you mean my_net"):
        find_backbone("my_nett")
    assert "own_code" not in sys.modules
    plugins.allow(["my_net"])
    assert find_backbone("my_net").decoder == "light"


def test_weights_that_are_loaded_anyway_are_not_fetched() -> None:
    plugins.allow(["own_code"])
    own = find_backbone("own_code:build")
    assert sum(p.numel() for p in own.make((3, 8, 8), {"width": 2}, initial_weights=False).parameters()) == 56
    own.make((3, 8, 8), {}, initial_weights=True)
    assert sys.modules["own_code"].loaded == [False, True]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("own_code:build", {"widht": 2}, r"model\.options: own_code:build does not take the options \{'widht': 2\}"),
        ("own_code:flat", {}, "maps images to a Tensor; allowed is a list or tuple of feature maps"),
        ("own_code:nothing", {}, "returned None; it must return a torch.nn.Module"),
        ("own_code:failing", {}, "own_code:failing failed: ZeroDivisionError: division by zero"),
        ("own_code:biuld", {}, "did you mean own_code:build"),
        ("own_cod:build", {}, "there is no module own_cod"),
    ],
)
def test_a_backbone_that_is_none_is_one_line(name: str, options: dict[str, Any], message: str) -> None:
    plugins.allow([name])
    with pytest.raises(RecipeError, match=message):
        find_backbone(name).make((3, 8, 8), options, initial_weights=True)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("own_code:load", {"size": 8}, RecipeError, "own_code:load does not take the options"),
        ("own_code:odd", {}, RecipeError, r"returned a DataSpec; it must return a gate2static\.data\.OwnData"),
        ("own_code:load", {"side": 9}, DataError, r"is \(3, 9, 9\); its description says \(3, 8, 8\)"),
        ("own_code:load", {"target": "levels"}, DataError, "has no tensor for level, which its description names"),
        ("nowhere", {}, RecipeError, "found nowhere; .*scenes.*or your own, as package.module:load"),
    ],
)
def test_a_data_set_that_is_none_is_one_line(
    name: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    plugins.allow([name])
    with pytest.raises(error, match=message):
        load_data(DataRecipe(name=name, options=options))


def test_own_data_may_have_more_targets_than_the_tasks() -> None:
    plugins.allow(["own_code"])
    splits = load_data(DataRecipe(name="own_code:load"), targets=[])
    assert torch.equal(splits.test[0][0], torch.zeros(3, 8, 8))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own code", "--plugin is 'own code'; allowed is a module"),
        ("own_code:", "allowed is a module"),
        ("own_code:nothing_there", "has no nothing_there"),
        ("nowhere", "--plugin: there is no module nowhere"),
        ("broken", "importing broken failed: NameError: name 'undefined' is not defined"),
        ("script", r"importing script failed: SystemExit: 3; put what a script does under `if __name__"),
        ("needs", "importing needs failed: ModuleNotFoundError: No module named 'not_there'"),
    ],
)
def test_a_plugin_that_is_none_is_one_line(name: str, message: str, here: Path) -> None:
    (here / "broken.py").write_text("undefined")
    (here / "script.py").write_text("raise SystemExit(3)")
    (here / "needs.py").write_text("import not_there")
    with pytest.raises(Gate2StaticError, match=message):
        plugins.allow_plugin(name, what="--plugin", error=Gate2StaticError)
    assert name not in plugins._allowed


def test_every_command_takes_plugins(run: Any) -> None:
    assert "there is no module nowhere" in run("doctor", "--plugin", "nowhere", code=2).stderr


def test_marks_leave_functions_as_they_are() -> None:
    def build(image_shape: tuple[int, int, int]) -> nn.Module:
        return nn.Identity()

    assert plugins.backbone(build) is build
    assert plugins.is_marked(build, "backbones")
    assert not plugins.is_marked(build, "datasets")
