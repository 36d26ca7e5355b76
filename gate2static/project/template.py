"""The template of a project: its files, and what they are called where it is written."""

import keyword
import re
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from gate2static.arguments import described
from gate2static.errors import Gate2StaticError

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_PLACEHOLDER = "my_project"
_FILES = {
    "README.md": "README.md",
    "recipe.yaml": "recipe.yaml",
    "train.py": "train.py",
    "init.py": f"{_PLACEHOLDER}/__init__.py",
    "discs.py": f"{_PLACEHOLDER}/discs.py",
    "network.py": f"{_PLACEHOLDER}/network.py",
    "points.py": f"{_PLACEHOLDER}/points.py",
}
"""A file of the template -> its path in a project."""


def write_project(name: str, parent: Path) -> Path:
    """Writes a project, whole or not at all.

    Args:
        name: The name of the project, of its folder and of its package.
        parent: The folder that it is written into.

    Returns:
        The project's folder.

    Raises:
        Gate2StaticError: The name is none of a package, or is taken, or the folder cannot be written.
    """
    _check_name(name)
    folder = parent / name
    if folder.exists() or folder.is_symlink():
        raise Gate2StaticError(f"{folder} exists; choose another name, or go to another folder")
    templates = Path(__file__).parent / "files"
    try:
        # Renamed when it is whole.
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{name}.") as temporary:
            root = Path(temporary) / name
            for source, target in _FILES.items():
                path = root / target.replace(_PLACEHOLDER, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                text = (templates / f"{source}.template").read_text(encoding="utf-8")
                path.write_text(text.replace(_PLACEHOLDER, name), encoding="utf-8")
            shutil.move(root, folder)
    except OSError as error:
        raise Gate2StaticError(f"cannot write {folder}: {error.strerror or error}; choose another folder") from error
    return folder


def _check_name(name: str) -> None:
    """Raises a Gate2StaticError unless a package may have the name, and none has it."""
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise Gate2StaticError(
            f"the project's name is {described(name)}; allowed are a letter and then letters, digits and underscores, "
            "all lower case, at most 40"
        )
    if name in sys.stdlib_module_names or find_spec(name) is not None:
        raise Gate2StaticError(f"there is a package {name} already, which the project would hide; choose another name")
