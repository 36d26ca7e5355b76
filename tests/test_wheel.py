"""Command lines of README.md and docs/install.md work in an empty folder, from a package laid out as in a wheel."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

QUICK = " --rounds 1 --duration 0"
ELSEWHERE = {"demo", "sweep"}
"""What tests/test_demo.py runs: they take long, and find their recipes as `train` does."""
RUN = """
import shlex
import sys

sys.path.insert(0, sys.argv[1])
import gate2static
from gate2static import delivering
from gate2static.cli import main

assert gate2static.__file__.startswith(sys.argv[1]), gate2static.__file__
benchmark = delivering.benchmark
delivering.benchmark = lambda targets, **_: benchmark(targets, rounds=1, duration_s=0, warmup_s=0)
for line in sys.argv[2:]:
    sys.argv = shlex.split(line)
    try:
        main()
    except SystemExit as end:
        if end.code:
            sys.exit(f"{line}: status {end.code}")
"""


def command_lines(page: str) -> list[str]:
    """Returns the lines of a page's blocks for a shell that run gate2static, without their comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", Path(page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("gate2static ")]
    return [line.partition(" #")[0].rstrip() for line in lines]


@pytest.mark.slow
def test_the_command_lines_of_the_readme_work_from_a_wheel(tmp_path: Path) -> None:
    wheel, elsewhere = tmp_path / "site-packages", tmp_path / "elsewhere"
    settings = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    skip = shutil.ignore_patterns("__pycache__")
    for package in settings["packages"]:
        shutil.copytree(package, wheel / package, ignore=skip)
    for source, target in settings["force-include"].items():
        shutil.copytree(source, wheel / target)
    elsewhere.mkdir()
    lines = dict.fromkeys(command_lines("README.md") + command_lines("docs/install.md"))
    commands = [line + QUICK if " bench " in line else line for line in lines if line.split()[1] not in ELSEWHERE]
    assert {"train", "deliver", "prune", "export", "bench", "report"} <= {line.split()[1] for line in commands}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(wheel), *commands],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for file in ("runs/digits-tiny/report.html", "exports/static/model.onnx", "latency.json"):
        assert (elsewhere / file).is_file()
