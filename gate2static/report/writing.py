"""Writes `report.html` and its pictures into a run folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gate2static.errors import Gate2StaticError
from gate2static.files import write_atomically
from gate2static.report.content import Content
from gate2static.report.foreign_rows import with_foreign_rows
from gate2static.report.page import all_pictures, render_page
from gate2static.report.run_folder import read_content
from gate2static.report.several_runs import over_seeds


@dataclass(frozen=True, kw_only=True)
class WrittenReport:
    """The files of a report.

    Attributes:
        html: The path of the page.
        pictures: The paths of the PNG files beside the page.
        content: The content of the page; `report.table` formats it for a terminal.
    """

    html: Path
    pictures: tuple[Path, ...]
    content: Content


def write_report(run_dir: str | Path, foreign: Sequence[Path] = ()) -> WrittenReport:
    """Writes `report.html` and its pictures into a run folder.

    Networks that are not pruned, not verified or not timed yet are shown with the values that exist. The page names the
    missing parts and the commands that make them.

    Args:
        run_dir: A folder that `train`, `sweep` or `demo` wrote.
        foreign: Files with networks that were trained elsewhere, as of `with_foreign_rows`.

    Raises:
        Gate2StaticError: The folder holds no run, or a file in it is not one of ours.
    """
    run_dir = Path(run_dir)
    return _write(run_dir, with_foreign_rows(read_content(run_dir), foreign))


def write_report_of_runs(run_dirs: Sequence[Path], folder: Path, foreign: Sequence[Path] = ()) -> WrittenReport:
    """Writes one `report.html` for several runs that differ in their seeds: means and standard deviations.

    Args:
        run_dirs: The folders of the runs, at least two.
        folder: The folder for the page and its pictures.
        foreign: Files with networks that were trained elsewhere, as of `with_foreign_rows`.

    Raises:
        Gate2StaticError: A folder holds no run, a file in it is not one of ours, or the runs have different tasks.
    """
    contents = [read_content(run_dir) for run_dir in run_dirs]
    content = over_seeds(contents, [run_dir.name for run_dir in run_dirs])
    return _write(folder, with_foreign_rows(content, foreign))


def _write(folder: Path, content: Content) -> WrittenReport:
    pictures = all_pictures(content)
    files = {folder / f"{picture.name}.png": picture.png for section in pictures.values() for picture in section}
    for path, png in files.items():
        write_atomically(path, png, error=Gate2StaticError)
    html = folder / "report.html"
    write_atomically(html, render_page(content, pictures).encode(), error=Gate2StaticError)
    return WrittenReport(html=html, pictures=tuple(files), content=content)
