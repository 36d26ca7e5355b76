"""A run folder to `report.html` and its pictures."""

from dataclasses import dataclass
from pathlib import Path

from gate2static.errors import Gate2StaticError
from gate2static.files import write_atomically
from gate2static.report.content import Content
from gate2static.report.page import pattern_pictures, render_page, trade_off_pictures
from gate2static.report.reading import read_content


@dataclass(frozen=True, kw_only=True)
class WrittenReport:
    """What `write_report` made.

    Attributes:
        html: the page.
        pictures: the PNG files beside it.
        content: what the page shows; `report.table` writes it for a terminal.
    """

    html: Path
    pictures: tuple[Path, ...]
    content: Content


def write_report(run_dir: str | Path) -> WrittenReport:
    """Writes `report.html` and its pictures into a run folder.

    A row that is not pruned, not verified or not timed yet is shown with what there is, and the page says what is
    missing and which command makes it.

    Args:
        run_dir: a folder that `train`, `sweep` or `demo` wrote.

    Raises:
        Gate2StaticError: the folder holds no run, or a file in it is not what it should be.
    """
    run_dir = Path(run_dir)
    content = read_content(run_dir)
    trade_offs, patterns = list(trade_off_pictures(content)), list(pattern_pictures(content))
    files = {run_dir / f"{picture.name}.png": picture.png for picture in (*trade_offs, *patterns)}
    for path, png in files.items():
        write_atomically(path, png, error=Gate2StaticError)
    html = run_dir / "report.html"
    write_atomically(html, render_page(content, trade_offs, patterns).encode(), error=Gate2StaticError)
    return WrittenReport(html=html, pictures=tuple(files), content=content)
