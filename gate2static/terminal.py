"""What is printed passes through here: names from strangers' files, and terminals that show only ASCII.

A name may hold escape sequences that retitle or rewrite a terminal, characters that reverse the direction of text, or
the markup of rich. So everything that cannot be printed is written as an escape, and no text is read as markup.
"""

import codecs
import io
import json
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from gate2static.messages import printable

_ASCII = {
    "×": "x",
    "–": "-",
    "…": "...",
    "Δ": "Delta",
    "λ": "lambda",
    "τ": "tau",
    "α": "alpha",
    "β": "beta",
    "↑": "(higher is better)",
    "↓": "(lower is better)",
    "≥": ">=",
    "≤": "<=",
    "·": "*",
    "→": "->",
}
"""What stands for characters of our own texts where a terminal's encoding lacks them."""
_ERRORS = "gate2static"


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Writes characters that an encoding lacks in ASCII; an error handler of `codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_ASCII.get(c) or c.encode("unicode_escape").decode() for c in lacking), error.end


codecs.register_error(_ERRORS, _replace)


def degrade_gracefully() -> None:
    """Lets stdout and stderr replace characters that their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def styled(text: str, style: str) -> Text:
    """Returns a text in a style of rich, such as `green`."""
    return Text(printable(text), style=style)


def lines(texts: Iterable[str]) -> Text:
    """Returns several lines for a caption."""
    return Text("\n".join(map(printable, texts)))


class _PlainConsole(Console):
    """A console that reads no markup and prints no control characters of its texts."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Returns a text as it is printed; rich calls this for every string, those in the cells of tables included."""
        # Replaced before rich measures it, so that columns stay aligned.
        encodable = printable(text).encode(self.encoding, _ERRORS).decode(self.encoding)
        return super().render_str(encodable, **options)


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Returns a console for text that may hold anything.

    Args:
        stderr: Whether it prints on stderr.
        width: Its columns; None takes the terminal's.
    """
    return _PlainConsole(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def show(content: RenderableType) -> None:
    """Prints a table."""
    console().print(content)


def say(text: str, *, error: bool = False) -> None:
    """Prints one line on stdout, or on stderr for an error.

    Args:
        text: The line, without its end.
        error: Whether the line is for stderr.
    """
    stream = sys.stderr if error else sys.stdout
    # A process that was started without the stream has nobody to tell.
    if stream is not None:
        stream.write(f"{printable(text)}\n")
        stream.flush()


def say_json(content: object) -> None:
    """Prints plain values as JSON, in ASCII."""
    if sys.stdout is not None:
        sys.stdout.write(as_json(content))
        sys.stdout.flush()


def as_json(content: object) -> str:
    """Returns plain values as JSON, in ASCII: every terminal shows it, and no character of it controls one."""
    return json.dumps(content, indent=1) + "\n"
