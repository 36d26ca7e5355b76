"""The notebook of the tutorial as a page, with the outputs that are stored in it."""

import base64
from pathlib import Path, PurePosixPath
from typing import Any

import nbformat


def as_files(path: Path, uri: str) -> dict[str, str | bytes]:
    """Returns a notebook as a page and its pictures, by their place in the site.

    Args:
        path: The notebook.
        uri: The page's place in the site, without a suffix.
    """
    parts: list[str] = []
    files: dict[str, str | bytes] = {}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif cell.source.strip():
            parts.append(_block("python", cell.source))
            parts += [_output(output, files, uri) for output in cell.outputs]
    parts.append(f"[Download this page as a notebook]({path.name}).")
    files[f"{uri}.md"] = "\n\n".join(part for part in parts if part) + "\n"
    return files


def _output(output: Any, files: dict[str, str | bytes], uri: str) -> str:
    """Returns what a cell showed, and adds its picture to the files."""
    if output.output_type == "stream":
        return _block("text", output.text)
    data = output.get("data", {})
    if "image/png" in data:
        name = f"{uri}_{len(files)}.png"
        files[name] = base64.b64decode(data["image/png"])
        return f"![{data.get('text/plain', 'A figure')}]({PurePosixPath(name).name})"
    return _block("text", data["text/plain"]) if "text/plain" in data else ""


def _block(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"
