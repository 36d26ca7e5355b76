"""Recipes from YAML with overrides; what is wrong is named in one line."""

from pathlib import Path

import pytest

from gate2static.errors import RecipeError
from gate2static.recipe import Recipe, load_recipe, parse

MINIMAL = """
name: small
data: {name: digits}
tasks: [{name: left, kind: classification}]
model: {name: resnet20}
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(MINIMAL)
    return path


def test_defaults_are_the_papers(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    gated = recipe.training.gated
    assert (gated.weights.lr, gated.weights.weight_decay, gated.batch_size) == (1e-3, 1e-4, 128)
    assert (gated.weights.schedule.kind, gated.weights.schedule.step_epochs) == ("step", 20)
    assert gated.weights.schedule.factor == pytest.approx(1 / 3)
    assert gated.gates.lr == 0.1
    assert recipe.sweep == (0.01, 0.03, 0.05, 0.07, 0.1)


def test_overrides_reach_nested_keys_and_list_items(recipe_file: Path) -> None:
    recipe = load_recipe(
        recipe_file, ["training.gated.weights.lr=1e-2", "tasks.0.weight=2", "sweep=[1, 2]", "model.options.width=0.5"]
    )
    assert recipe.training.gated.weights.lr == 0.01
    assert recipe.tasks[0].weight == 2
    assert recipe.sweep == (1, 2)
    assert recipe.model.options == {"width": 0.5}


def test_plain_values_and_back_are_the_same_recipe(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, ["model.options.sizes=[1, 2]"])
    assert parse(Recipe, recipe.model_dump(mode="json"), where="test") == recipe


def test_a_recipe_cannot_be_changed(recipe_file: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_recipe(recipe_file).seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "training.gated.epoch=3",
            r"unknown key training\.gated\.epoch; did you mean epochs\? allowed: batch_size, epo",
        ),
        ("tasks.0.wieght=3", r"unknown key tasks\.0\.wieght; did you mean weight\? "),
        ("lamda=1", r"unknown key lamda; .*allowed: budget, data, gating, model"),
        ("training.gated.epochs=many", r"training\.gated\.epochs: found 'many'; input should be a valid integer"),
        ("training.gated.epochs=0", r"training\.gated\.epochs: found 0; .*greater than or equal to 1"),
        ("training.gated.epochs=true", r"training\.gated\.epochs: found True; .*valid integer"),
        ("training.gated.epochs=1.5", r"training\.gated\.epochs: found 1\.5; .*valid integer"),
        ("sparsity_weight=.nan", r"sparsity_weight: found .*finite"),
        ("training.single.weights.schedule.kind=cosine", r"found 'cosine'; .*'constant', 'step' or 'poly'"),
        ("data.options={a: [[1]]}", r"data\.options\.a: found \[\[1\]\]; allowed: a number, text, .* by name$"),
        ("data.options={a: {b: c}}", r"data\.options\.a: found \{'b': 'c'\}; allowed: .* or lists of text by name$"),
        ("tasks=[]", r"tasks: found \[\]; .*at least 1"),
        ("tasks.0.name=../left", r"tasks\.0\.name: found '\.\./left'"),
        ("name=null", r"name: found None; .*valid string"),
        ("training={compile: true, gated: {settle_steps: 5}}", "remove compile, or gated.settle_steps"),
        ("sweep=[0.5, 0.5]", r"sweep must hold different values, found 0\.5, 0\.5"),
        ("tasks.1.weight=2", r"--set tasks\.1\.weight=2: found item 1, allowed: 0 to 0"),
        ("seed.low=1", r"--set seed\.low=1: .*seed is 3, which has no keys below it"),
        ("epochs", r"--set epochs: expected key\.sub=value"),
        ("seed=[", r"--set seed=\[: the value is not YAML"),
    ],
)
def test_a_wrong_value_ends_in_one_line_that_names_it(recipe_file: Path, override: str, message: str) -> None:
    recipe_file.write_text(MINIMAL + "seed: 3\n")
    with pytest.raises(RecipeError, match=message) as error:
        load_recipe(recipe_file, [override])
    assert "\n" not in str(error.value)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(MINIMAL.replace("data: {name: digits}\n", ""))
    with pytest.raises(RecipeError, match=r"r\.yaml: missing key data$"):
        load_recipe(path)


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(MINIMAL.replace("[{", "[{name: left, kind: mask}, {"))
    with pytest.raises(RecipeError, match="tasks must have different names, found left, left"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [unclosed", "not YAML: .*line 1"),
        (b"- just\n- a list", "a recipe is a mapping of keys to values, found list"),
        (b"\xff\xfe\x00", "cannot be read as a recipe|not YAML"),
        (b"", "found NoneType"),
        (b"!!python/object/apply:os.system ['false']", "not YAML: could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=message) as error:
        load_recipe(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml: no such recipe"):
        load_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", sorted(Path("recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_loads(path: Path) -> None:
    assert load_recipe(path).name.replace("-", "_") == path.stem
