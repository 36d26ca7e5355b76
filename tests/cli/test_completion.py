"""Shells complete commands and options."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("words", "offered"), [("pr", "prune\nprofile\npredict\n"), ("prune --bud", "--budget\n")])
def test_bash_completes(words: str, offered: str) -> None:
    line = f"gate2static {words}"
    asked = {"_GATE2STATIC_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    command = [sys.executable, "-m", "gate2static"]
    finished = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, check=True)
    assert finished.stdout == offered
