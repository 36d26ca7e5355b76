"""Writes `report.html` and its pictures into a run folder."""

from dataclasses import dataclass
from pathlib import Path

from gate2static.errors import Gate2StaticError
from gate2static.files import write_atomically
from gate2static.report.content import Content
from gate2static.report.page import conflict_pictures, pattern_pictures, render_page, trade_off_pictures
from gate2static.report.run_folder import read_content


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


def write_report(run_dir: str | Path) -> WrittenReport:
    """Writes `report.html` and its pictures into a run folder.

    Networks that are not pruned, not verified or not timed yet are shown with the values that exist. The page names the
    missing parts and the commands that make them.

    Args:
        run_dir: A folder that `train`, `sweep` or `demo` wrote.

    Raises:
        Gate2StaticError: The folder holds no run, or a file in it is not one of ours.
    """
    run_dir = Path(run_dir)
    content = read_content(run_dir)
    trade_offs = list(trade_off_pictures(content))
    patterns = list(pattern_pictures(content))
    conflicts = list(conflict_pictures(content))
    files = {run_dir / f"{picture.name}.png": picture.png for picture in (*trade_offs, *patterns, *conflicts)}
    for path, png in files.items():
        write_atomically(path, png, error=Gate2StaticError)
    html = run_dir / "report.html"
    write_atomically(html, render_page(content, trade_offs, patterns, conflicts).encode(), error=Gate2StaticError)
    return WrittenReport(html=html, pictures=tuple(files), content=content)
