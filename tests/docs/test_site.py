"""The documentation builds without a warning, its pages are whole, and it loads nothing from other hosts."""

import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest

import gate2static as g2s
from gate2static.cli.commands import app
from gate2static.recipe import Recipe

pytestmark = pytest.mark.slow


def build(settings: Path, folder: Path) -> None:
    """Builds a site as `make docs` does; a warning, such as of a link that leads nowhere, is an error."""
    commands = pytest.importorskip("mkdocs.commands.build")
    pytest.importorskip("mkdocstrings_handlers.python")
    from mkdocs.config import load_config

    config = load_config(str(settings), strict=True, site_dir=str(folder))
    config.plugins.on_startup(command="build", dirty=False)
    commands.build(config)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built documentation."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        build(Path("mkdocs.yml").absolute(), folder)
    return folder


class _Page(HTMLParser):
    """Text outside of code, and what a page loads."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.words: list[str] = []
        self.skipped = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.loads.append(values.get("src") or "")
        if tag == "link" and values.get("rel") not in ("canonical", "prev", "next", "alternate"):
            self.loads.append(values.get("href") or "")
        self.skipped += tag in ("script", "style", "pre", "code")

    def handle_endtag(self, tag: str) -> None:
        self.skipped -= tag in ("script", "style", "pre", "code")

    def handle_data(self, data: str) -> None:
        if not self.skipped:
            self.words.append(data)


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    for path in site.rglob("*.html"):
        page = _Page(path.read_text(encoding="utf-8"))
        assert [url for url in page.loads if "//" in url] == [], path
    assert all("//fonts." not in path.read_text(encoding="utf-8") for path in site.rglob("*.css"))


def test_no_code_or_table_is_broken(site: Path) -> None:
    for path in site.rglob("*.html"):
        html = path.read_text(encoding="utf-8")
        # GitHub wants a bar in code in a table escaped, and mkdocs shows the escape.
        assert re.findall(r"<code>[^<]*\\\|[^<]*</code>", html) == [], path
        text = "".join(_Page(html).words)
        assert "```" not in text, path
        # A row of a table that was not read as one shows its bars.
        assert re.findall(r"^\|.*\|$", text, re.MULTILINE) == [], path


def test_the_reference_has_every_public_name_command_and_key(site: Path) -> None:
    python = (site / "reference" / "python.html").read_text(encoding="utf-8")
    for name in g2s.__all__:
        value = getattr(g2s, name)
        assert f'id="{value.__module__}.{value.__qualname__}"' in python, name
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    names = [(command.name or command.callback.__name__).replace("_", "-") for command in app.registered_commands]
    assert all(f'id="{name}"' in commands for name in names), names
    recipe = (site / "reference" / "recipe.html").read_text(encoding="utf-8")
    assert all(f"<code>{key}</code>" in recipe for key in Recipe.model_fields)


def test_every_page_is_in_the_navigation(site: Path) -> None:
    home = (site / "index.html").read_text(encoding="utf-8")
    pages = [path.with_suffix(".html").name for path in Path("docs").glob("*.md")]
    assert [page for page in pages if f'href="{page}"' not in home] == []


def test_the_navigation_names_no_page_twice() -> None:
    named = re.findall(r": (\S+\.md)$", Path("mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(named) == len(set(named))


def test_the_home_page_is_the_readme(site: Path) -> None:
    home = (site / "index.html").read_text(encoding="utf-8")
    assert "gate2static demo" in home
    assert 'src="pipeline.svg"' in home


def test_a_link_that_leads_nowhere_stops_the_build(tmp_path: Path) -> None:
    """The same settings of validation, on a page with a dead link."""
    exceptions = pytest.importorskip("mkdocs.exceptions")
    settings = Path("mkdocs.yml").read_text(encoding="utf-8")
    validation = settings[settings.index("validation:") : settings.index("# README.md is the page")]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Home\n\n[gone](nothing.md)\n")
    (tmp_path / "mkdocs.yml").write_text(f"site_name: x\n{validation}")
    with pytest.raises(exceptions.Abort, match="1 warnings in strict mode"):
        build(tmp_path / "mkdocs.yml", tmp_path / "site")


def test_the_page_on_installing_has_every_extra() -> None:
    extras = tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"^\| `([\w-]+)` \|", Path("docs/install.md").read_text(), re.MULTILINE)) == set(extras)


def test_the_dialog_of_the_search_has_a_name(site: Path) -> None:
    (dialog,) = re.findall(r'<div[^>]* role="dialog"[^>]*>', (site / "index.html").read_text(encoding="utf-8"))
    assert 'aria-label="Search"' in dialog
