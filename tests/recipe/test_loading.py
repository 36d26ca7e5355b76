"""Recipes from YAML with overrides; what is wrong is named in one line."""

import time
from pathlib import Path

import pytest

from gate2static.errors import RecipeError
from gate2static.recipe import Recipe, load_recipe, parse
from gate2static.recipe.plain_yaml import read_yaml

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
            r"unknown key training\.gated\.epoch; did you mean epochs\? allowed: balancing, batch_size, epo",
        ),
        ("tasks.0.wieght=3", r"unknown key tasks\.0\.wieght; did you mean weight\? "),
        ("lamda=1", r"unknown key lamda; .*allowed: architectures, budget, data, gating, model"),
        ("training.gated.epochs=many", r"training\.gated\.epochs: found 'many'; input should be a valid integer"),
        ("training.gated.epochs=0", r"training\.gated\.epochs: found 0; .*greater than or equal to 1"),
        ("training.gated.epochs=true", r"training\.gated\.epochs: found True; .*valid integer"),
        ("training.gated.epochs=1.5", r"training\.gated\.epochs: found 1\.5; .*valid integer"),
        ("sparsity_weight=.nan", r"sparsity_weight: found .*finite"),
        ("training.single.weights.schedule.kind=cosine", r"found 'cosine'; .*'constant', 'step' or 'poly'"),
        ("data.options={a: [[1]]}", r"data\.options\.a: found \[\[1\]\]; allowed: a number, text, .* by name$"),
        ("data.options={a: {b: c}}", r"data\.options\.a: found \{'b': 'c'\}; allowed: .* or whole numbers by name$"),
        ("tasks=[]", r"tasks: found \[\]; .*at least 1"),
        ("tasks.0.name=../left", r"tasks\.0\.name: found '\.\./left'"),
        ("name=null", r"name: found None; .*valid string"),
        ("training={compile: true, gated: {settle_steps: 5}}", "remove compile, or gated.settle_steps"),
        (
            "training={strategy: fsdp, conflict_steps: 5, gated: {settle_steps: 5, balancing: mgda}}",
            r"strategy: fsdp does not go with gated\.settle_steps, gated\.balancing, conflict_steps; remove either",
        ),
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


ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1, y: 2}\n" + "".join(
    f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 9)}]}}\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE = {
    "aliases": ALIASES,
    "merges": MERGES,
    "an alias of itself": "a: &a [*a]\n" + MINIMAL,
    "depth": "a: " + "[" * 5000 + "]" * 5000,
    "length": MINIMAL + "# " + "x" * 10**6,
    "a long key": MINIMAL + "k" * 30_000 + ": 1\n",
    "a long value": MINIMAL + "seed: " + "v" * 30_000,
    "a long number": MINIMAL + "seed: " + "9" * 5_000,
    "an octal number": MINIMAL + "seed: 0" + "7" * 5_000,
    "a date that does not exist": MINIMAL + "seed: 2001-99-99",
    "base 60": MINIMAL + "seed: " + ":".join(["1"] * 400) + ".5",
    "a key that is a list": "? [a, b]\n: 1\n",
    "a key that is a number": MINIMAL + "1: 2\n",
    "control characters": MINIMAL + 'kind: "\\e]0;title\\a\\e[2J"\n',
    "a large group": MINIMAL + "gating: {group_size: 1000000000000000000}\n",
    "many tasks": MINIMAL.replace("tasks: [", "tasks: [" + "{name: a, kind: mask}, " * 300),
    "many targets": MINIMAL + f"sweep_targets: [{', '.join(str(i / 1000) for i in range(900))}]\n"
    "sweep: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]\n",
    "many workers": MINIMAL + "training: {workers: 1000000000}\n",
    "binary": MINIMAL + "seed: !!binary '####'\n",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_recipe_ends_in_one_short_line_at_once(tmp_path: Path, kind: str) -> None:
    """Some hung for minutes, some ended in a traceback, and some were printed in 10,000 characters."""
    path = tmp_path / "r.yaml"
    path.write_text(HOSTILE[kind])
    start = time.process_time()
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    message = str(error.value).replace(str(path), "")
    assert time.process_time() - start < 5  # deep recursion takes long in a process with much garbage
    assert message.isprintable()
    assert len(message) < 500


@pytest.mark.parametrize(
    "override", ["tasks.²=1", "tasks." + "9" * 5000 + "=1", ".".join("a" * 50) + "=1", "x" * 30_000, "seed=" + ALIASES]
)
def test_a_hostile_override_ends_in_one_short_line(recipe_file: Path, override: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(recipe_file, [override])
    assert len(str(error.value).replace(str(recipe_file), "")) < 500


@pytest.mark.parametrize("where", ["/dev/urandom", "/proc/self/mem", "/tmp", "a\0b"])
def test_what_is_no_file_is_no_recipe(where: str) -> None:
    with pytest.raises(RecipeError, match="cannot be read as a recipe|not YAML"):
        load_recipe(where)


def test_plain_values_that_expand_are_refused() -> None:
    """The recipe inside a checkpoint may hold one list many times over."""
    values: list[object] = ["x"] * 9
    for _ in range(9):
        values = [values] * 9
    cycle: list[object] = []
    cycle.append(cycle)
    for hostile in (values, cycle, {"a": 10**400}, "x" * 10**6):
        with pytest.raises(RecipeError, match="more than 10,000 values|deeper than 16|a number of|a text of"):
            parse(Recipe, {"name": hostile}, where="the recipe inside")


def test_aliases_and_merging_stay(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(MINIMAL + "training: {single: &s {epochs: 7}, shared: *s, gated: {<<: *s, batch_size: 8}}\n")
    training = load_recipe(path).training
    assert (training.shared.epochs, training.gated.epochs, training.gated.batch_size) == (7, 7, 8)


def test_a_key_that_stands_twice_is_refused() -> None:
    """YAML takes the last one in silence."""
    with pytest.raises(ValueError, match="the key 'name' stands twice, at line 2 again"):
        read_yaml("name: a\nname: b\n")


def test_a_preset_fills_in_what_the_recipe_does_not_give() -> None:
    budget = "budget={macs: 0.6}"
    filled = load_recipe("recipes/digits_tiny.yaml", ["gating={preset: deploy, group_size: 4}", budget])
    assert filled.gating.group_size == 4
    assert (filled.gating.mixing, filled.gating.decisions, filled.gating.branch_init) == ("hard", "saliency", "initial")
    assert filled.training.gated.freeze_at == 0.0
    plain = load_recipe("recipes/digits_tiny.yaml")
    assert filled.training.gated.epochs == plain.training.gated.epochs
    assert parse(Recipe, filled.model_dump(mode="json"), where="again") == filled
    assert load_recipe("recipes/digits_tiny.yaml", ["gating.preset=paper"]) == plain


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("gating={preset: [deploy]}", "gating.preset: found"),
        ("gating={preset: fast}", "gating.preset: found 'fast'; input should be 'paper' or 'deploy'"),
        ("gating={preset: deploy}", "gating.decisions: saliency needs a budget"),
    ],
)
def test_a_preset_that_does_not_fit_is_refused(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("recipes/digits_tiny.yaml", [override])
