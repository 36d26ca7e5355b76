"""No module of the package imports itself by a detour, not even for its annotations."""

import ast
from collections.abc import Iterator
from pathlib import Path

import gate2static

PACKAGE = Path(gate2static.__file__).parent


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """Yields the nodes that run, or would for a type checker, when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from outside_functions(child)


def imported_modules(source: str, modules: set[str]) -> set[str]:
    """Returns which of `modules` the source names in an import, `if TYPE_CHECKING:` included."""
    imports = set()
    for node in outside_functions(ast.parse(source)):
        if isinstance(node, ast.Import):
            imports.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "the package has no relative imports"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            imports.update(name if name in modules else str(node.module) for name in inside)
    return imports & modules


def import_graph() -> dict[str, set[str]]:
    paths = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    modules = set(paths)
    return {name: imported_modules(path.read_text(encoding="utf-8"), modules) for name, path in paths.items()}


def circles(graph: dict[str, set[str]]) -> set[str]:
    """Returns the nodes that lie on a circle or between two: what is left without dead ends and sources."""
    left = set(graph)
    while True:
        imported = {target for name in left for target in graph[name]}
        kept = {name for name in left & imported if graph[name] & left}
        if kept == left:
            return left
        left = kept


def test_no_module_imports_itself_by_a_detour() -> None:
    assert circles(import_graph()) == set()


def test_a_circle_is_noticed_even_where_only_annotations_close_it() -> None:
    lazy = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from package.a import A\n"
    later = "def build():\n    from package.a import A\n"
    modules = {"package.a", "package.b"}

    def graph(b: str) -> dict[str, set[str]]:
        return {"package.a": {"package.b"}, "package.b": imported_modules(b, modules)}

    assert circles(graph(lazy)) == modules
    assert circles(graph(later)) == set()
