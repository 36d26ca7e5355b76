"""`gate2static recipes`: the list, a copy, the reference and the JSON schema."""

import json
from pathlib import Path

import pytest

from gate2static.recipe import bundled_recipes


def test_it_lists_every_recipe(run) -> None:
    text = run("recipes").stdout
    assert all(name in text for name in bundled_recipes())


def test_it_copies_into_the_working_folder(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("recipes", "--copy", "digits_tiny").stdout == "copied: digits_tiny.yaml\n"
    assert (tmp_path / "digits_tiny.yaml").is_file()
    run("recipes", "--copy", "digits_tiny", code=2)


def test_it_explains_every_key(run) -> None:
    assert "training.gated.gates" in run("recipes", "--explain").stdout


def test_it_prints_the_json_schema(run) -> None:
    assert json.loads(run("recipes", "--schema").stdout)["properties"]["seed"]["default"] == 0


def test_it_answers_one_question_at_a_time(run) -> None:
    assert "give one of them" in run("recipes", "--explain", "--schema", code=2).stderr


@pytest.mark.parametrize(
    ("options", "key"), [([], "digits_tiny"), (["--copy", "digits_tiny"], "copied"), (["--schema"], "properties")]
)
def test_its_answers_are_json_too(run, options, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("recipes", *options, "--json", "answer.json")
    assert key in json.loads(Path("answer.json").read_text())


def test_the_reference_is_json_too(run) -> None:
    sections = json.loads(run("recipes", "--explain", "--json", "-").stdout)
    assert sections[0]["keys"][0]["name"] == "name"
