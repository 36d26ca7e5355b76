"""Texts of others inside messages: in one line, of a bounded length, without control characters."""


def brief(value: object, longest: int = 200, *, both_ends: bool = False) -> str:
    """Returns an error's message, or any value as text, for use inside a message.

    Args:
        value: The error or value; an error without a message is named by its class.
        longest: The most characters that are kept.
        both_ends: Whether a long text loses its middle, and not its end.

    Returns:
        One line in which white space is single spaces and characters that cannot be printed are escapes.
    """
    text = printable(" ".join(str(value).split()))
    if not text and isinstance(value, BaseException):
        text = type(value).__name__
    if len(text) <= longest:
        return text
    if both_ends:
        return f"{text[: longest // 2]} [...] {text[-(longest // 2) :]}"
    return f"{text[: longest - 3]}..."


def printable(text: str) -> str:
    r"""Returns a text with everything that cannot be printed as an escape, such as `\x1b`, line breaks included."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
