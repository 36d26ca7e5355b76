"""Freed memory stays with the process where that is asked for."""

import platform
import subprocess
import sys

import pytest

_FAULTS = """
import resource, torch
from gate2static.train.processes.memory import keep_freed_memory
if {keep}:
    keep_freed_memory()
def faults():
    torch.ones(2**25)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = [faults() for _ in range(3)][-1]
print(faults() - before)
"""


def page_faults(keep: bool) -> int:
    run = subprocess.run([sys.executable, "-c", _FAULTS.format(keep=keep)], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_memory_that_was_used_before_costs_no_page_faults() -> None:
    assert page_faults(keep=True) < 100 < page_faults(keep=False)
