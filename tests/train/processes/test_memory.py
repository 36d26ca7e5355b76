"""Freed memory stays with the process where that is asked for."""

import platform
import subprocess
import sys

import pytest

_FAULTS = """
import resource, torch
from gate2static.train.processes.memory import keep_freed_memory
def faults():
    torch.ones(2**25)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def faults_of_a_repetition():
    before = [faults() for _ in range(3)][-1]
    return faults() - before
print(faults_of_a_repetition())
keep_freed_memory()
print(faults_of_a_repetition())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_memory_that_was_used_before_costs_no_page_faults() -> None:
    run = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True, check=True)
    given_back, kept = map(int, run.stdout.split())
    assert kept < 100 < given_back
