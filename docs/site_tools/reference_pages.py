"""Pages that are made from the code: the Python names, the commands, and the keys of a recipe."""

import html
import re
from pathlib import Path
from typing import Any, get_args

import typer.main
from typer.core import TyperArgument

import gate2static as g2s
from gate2static.cli.commands import app
from gate2static.recipe import recipe_sections
from gate2static.recipe.catalogue.reference import RecipeKey, value_in_words

DOCS = Path(__file__).parents[1]

TOPICS = {
    "gates": "Gating a network",
    "budget": "Budgets and freezing",
    "recipe": "Budgets and freezing",
    "prune": "Pruning",
    "static": "Static networks",
    "verify": "Checking",
    "export": "Exporting",
    "bench": "Timing",
    "balance": "Optimisation methods and conflict",
    "architectures": "Other architectures",
}
"""Stage of the package -> heading of its names; a stage without one has its own name."""


def python_page() -> str:
    """Returns the page of all public names, which mkdocstrings fills in."""
    lines = [
        "# Python",
        "",
        "All names are attributes of the package: `import gate2static as g2s`, then `g2s.gate`.",
        "They are the public interface, to which the [version policy](../contributing.md#versions) applies.",
    ]
    by_topic: dict[str, list[str]] = {}
    for name in g2s.__all__:
        stage = g2s._STAGE_OF[name]
        by_topic.setdefault(TOPICS.get(stage, stage.capitalize()), []).append(name)
    order = list(dict.fromkeys(TOPICS.values()))
    for topic in sorted(by_topic, key=lambda topic: order.index(topic) if topic in order else len(order)):
        # Functions come before the classes that they return.
        names = sorted(by_topic[topic], key=lambda name: (name[0].isupper(), name))
        lines += ["", f"## {topic}"]
        lines += [f"\n::: {_canonical(name)}\n    options: {{heading_level: 3}}" for name in names]
    return "\n".join(lines) + "\n"


def _canonical(name: str) -> str:
    """Returns the path of a public name in the module that defines it."""
    value = getattr(g2s, name)
    return f"{value.__module__}.{value.__qualname__}"


def commands_page() -> str:
    """Returns the page of all commands with their arguments and options."""
    group: Any = typer.main.get_command(app)
    lines = [
        "# Commands",
        "",
        "`gate2static COMMAND --help` shows the same. `python -m gate2static` is the same program.",
        "Exit statuses are in [the FAQ](../faq.md#what-do-the-exit-statuses-mean).",
        "",
        "`gate2static --debug COMMAND …` shows tracebacks of errors, and what libraries say.",
    ]
    for name, command in group.commands.items():
        usage = " ".join(p.name.upper() for p in command.params if _is_argument(p))
        lines += ["", f"## {name}", "", _sentence(command.help), "", "```sh", f"gate2static {name} {usage}".rstrip()]
        lines += ["```", "", "| | default | |", "|---|---|---|"]
        lines += [_parameter_row(parameter) for parameter in command.params if parameter.name != "help"]
    return "\n".join(lines) + "\n"


def _is_argument(parameter: Any) -> bool:
    return isinstance(parameter, TyperArgument)


def _parameter_row(parameter: Any) -> str:
    """Returns an argument or option as a row of a table."""
    if _is_argument(parameter):
        names = f"`{parameter.name.upper()}`"
    else:
        value = "" if parameter.is_flag else f" {parameter.metavar or _kind(parameter)}"
        names = ", ".join(f"`{name}{value}`" for name in parameter.opts)
    has_default = parameter.default is not None and not getattr(parameter, "is_flag", False) and not parameter.required
    default = f"`{parameter.default}`" if has_default and str(parameter.default) else ""
    return f"| {names} | {default} | {_cell(parameter.help or '')} |"


def _kind(parameter: Any) -> str:
    """Returns what an option takes, as in its help."""
    annotation = parameter.type_descriptor.annotation
    choices = get_args(annotation)
    words = {Path: "PATH", int: "NUMBER", float: "NUMBER"}
    return f"{{{','.join(map(str, choices))}}}" if choices else words.get(annotation, "TEXT")


def recipe_page() -> str:
    """Returns the page of all keys of a recipe."""
    lines = [
        "# Recipes",
        "",
        "A recipe is a YAML file that describes a whole run.",
        "Unknown keys and values of a wrong type are errors before anything runs.",
        "`--set training.gated.epochs=5` changes one value on the command line.",
        "An item of a list is named by its number, as in `--set tasks.0.weight=2`.",
        "",
        "`gate2static recipes --explain` prints this page in a terminal.",
        "`gate2static recipes --schema` prints a JSON schema, by which editors complete and check recipes:",
        "write it to `recipe.schema.json`, and begin a recipe with",
        "`# yaml-language-server: $schema=recipe.schema.json`.",
    ]
    for section in recipe_sections():
        places = [place for place in section.places if place]
        title = ", ".join(f"`{place}`" for place in places) or "The recipe itself"
        lines += ["", f"## {title}", "", _cell(section.about), "", "| key | value | |", "|---|---|---|"]
        lines += [_key_row(key) for key in section.keys]
    return "\n".join(lines) + "\n"


def _key_row(key: RecipeKey) -> str:
    return f"| `{key.name}` | {_cell(value_in_words(key))} | {_cell(key.meaning)} |"


def _cell(text: str) -> str:
    """Returns text for a cell of a table, with the project's pages as links."""
    text = html.escape(text.replace("|", "\\|"), quote=False)

    def link(match: re.Match[str]) -> str:
        return f"[{match[1]}](../{match[1]}.md)" if (DOCS / f"{match[1]}.md").is_file() else match[0]

    return re.sub(r"(?<!`)docs/([a-z_]+)\.md", link, text)


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())
