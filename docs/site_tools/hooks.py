"""What mkdocs does besides: pages made from README.md, the notebook and the code, and every page in the navigation."""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# mkdocs puts this folder on the path while it loads the file.
from notebook_page import as_files
from reference_pages import commands_page, python_page, recipe_page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NOTEBOOK = "tutorial/quickstart"
GUIDES = "Guides"

_LINK = re.compile(r"(!?)\[([^\]\[]*)\]\(([^)\s]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the pages that the navigation does not name to the end of the guides."""
    named = set(_files_of(config.nav))
    unnamed = [path.name for path in sorted(DOCS.glob("*.md")) if path.name not in named]
    (guides,) = (section[GUIDES] for section in config.nav if GUIDES in section)
    guides += [{_title(DOCS / name): name} for name in unnamed]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made from something else."""
    made: dict[str, str | bytes] = {
        "index.md": _beside_docs("README.md"),
        "contributing.md": _beside_docs("CONTRIBUTING.md"),
        "changelog.md": _beside_docs("CHANGELOG.md"),
        "reference/python.md": python_page(),
        "reference/commands.md": commands_page(),
        "reference/recipe.md": recipe_page(),
        **as_files(DOCS / f"{NOTEBOOK}.ipynb", NOTEBOOK),
    }
    for uri, content in made.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Leads links to the notebook to its page, and writes links to files outside the site as the files' names."""
    depth = page.file.src_uri.count("/")
    outside = "../" * (depth + 1)

    def plain(match: re.Match[str]) -> str:
        mark, text, target = match.groups()
        if target.endswith(f"{NOTEBOOK}.ipynb"):
            # The notebook is a page here; only that page offers the notebook itself.
            return f"[{text}]({target.removesuffix('.ipynb')}.md)"
        if mark or not target.startswith(outside):
            return match[0]
        path = target.removeprefix(outside)
        return text if path in text else f"{text} (`{path}`)"

    return _LINK.sub(plain, markdown)


def on_post_page(output: str, **_: Any) -> str:
    """Names the dialog of the search, which the theme leaves without a name for readers who cannot see it."""
    dialog = 'data-md-component="search" role="dialog"'
    return output.replace(dialog, f'{dialog} aria-label="Search"')


def _beside_docs(name: str) -> str:
    """Returns a page of the repository's root, with links as seen from docs/."""

    def moved(match: re.Match[str]) -> str:
        mark, text, target = match.groups()
        is_elsewhere = "://" in target or target.startswith("#")
        if is_elsewhere:
            return match[0]
        if target.startswith("docs/"):
            return f"{mark}[{text}]({target.removeprefix('docs/')})"
        pages = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "README.md": "index.md"}
        return f"{mark}[{text}]({pages.get(target, '../' + target)})"

    return _LINK.sub(moved, (ROOT / name).read_text(encoding="utf-8"))


def _files_of(nav: Any) -> list[str]:
    """Returns the files that a part of the navigation names."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [name for part in parts for name in _files_of(part)]


def _title(page: Path) -> str:
    """Returns the first heading of a page."""
    heading = re.search(r"^# (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return heading[1] if heading else page.stem
