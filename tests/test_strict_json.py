"""JSON from strangers: what two readers could take for different things, or what takes long, is one short line."""

import os
import time
from pathlib import Path

import pytest

from gate2static.errors import BenchError
from gate2static.strict_json import parse_json, read_json


def test_plain_json_comes_back() -> None:
    text = '{"a": [1, -2.5e3, true, null, "é"], "b": {"c": 10000000000000000000000}}'
    value = parse_json(text.encode(), where="here", error=BenchError)
    assert value == {"a": [1, -2500.0, True, None, "é"], "b": {"c": 10**22}}


HOSTILE = {
    '{"a": 1, "a": 2}': "the key 'a' occurs twice",
    "[NaN]": "NaN is no number of JSON",
    "[-Infinity]": "-Infinity is no number of JSON",
    "[1e999]": "the number 1e999 is too large",
    "[" + "9" * 5000 + "]": "a number of 5000 digits",
    "[" * 40 + "]" * 40: "nested deeper than 32",
    "[" * 10**5 + "]" * 10**5: "nested too deep",
    '{"a": ': "cannot be read as JSON: Expecting value: line 1 column 7",
    "": "cannot be read as JSON",
}


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:12])
def test_anything_else_is_refused(text: str) -> None:
    start = time.process_time()
    with pytest.raises(BenchError) as error:
        parse_json(text.encode(), where="here", error=BenchError)
    assert HOSTILE[text] in str(error.value)
    assert "\n" not in str(error.value)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("where", ["/dev/urandom", "/proc/self/mem", "/tmp", "/dev/tty", "a\0b", "nowhere"])
def test_what_is_no_file_is_named(where: str) -> None:
    """`/dev/zero` used to be read until the memory was full."""
    with pytest.raises(BenchError, match="cannot (be )?read"):
        read_json(Path(where), what="report", error=BenchError)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "report.json")
    with pytest.raises(BenchError, match="cannot read the report .*: it is not a regular file"):
        read_json(tmp_path / "report.json", what="report", error=BenchError)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "report.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(BenchError, match=r"it has 1,099,511,627,776 bytes, more than 67,108,864"):
        read_json(tmp_path / "report.json", what="report", error=BenchError)
