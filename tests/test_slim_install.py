"""Without the extra `train`, gated networks are pruned, verified and exported, and `train` says what to install."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gate2static.errors import MissingDependencyError
from gate2static.runtimes import optional

MODULES = {"scikit-learn": "sklearn"}
"""The modules of packages that have other names."""
NETWORK = """
import torch
from torch import nn

import gate2static as g2s


def build():
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    heads = {"a": nn.Linear(8, 2), "b": nn.Linear(8, 3)}
    return g2s.gate(backbone, tasks=list(heads), example_inputs=(torch.rand(2, 3, 8, 8),), heads=heads)
"""
# What is None in `sys.modules` cannot be imported.
COMMANDS = """
import sys

sys.modules.update(dict.fromkeys(sys.argv[1:]))
import gate2static as g2s
import gate2static.demo, gate2static.search
from gate2static.cli import main
from nets import build

g2s.save_checkpoint(build(), "own.pt", model="nets:build")
for line in (
    "--help",
    "prune own.pt -o static --model nets:build",
    "verify own.pt static --model nets:build",
    "export static -o exported",
    "train digits_tiny",
    "demo",
):
    sys.argv = ["gate2static", *line.split()]
    try:
        main()
    except SystemExit as end:
        print(f"status of {line.split()[0]}: {end.code}", flush=True)
"""


def training_modules() -> list[str]:
    """Returns the modules that only the extra `train` brings."""
    extras = tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = [re.split(r"[><=\[]", requirement)[0] for requirement in extras["train"]]
    return [MODULES.get(name, name.replace("-", "_")) for name in names]


@pytest.mark.slow
def test_networks_are_deployed_and_train_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETWORK)
    package = str(Path(optional.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {package!r})\n{COMMANDS}", *training_modules()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    statuses = dict(re.findall(r"^status of (\S+): (\d+)$", done.stdout, re.MULTILINE))
    works = dict.fromkeys(("--help", "prune", "verify", "export"), "0")
    assert statuses == {**works, "train": "2", "demo": "2"}, done.stderr
    advice = done.stderr.splitlines()
    assert len(advice) == 2
    assert all(line.endswith("install it with: pip install 'gate2static[train]'") for line in advice)


def test_whatever_the_extra_brings_is_missed_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in training_modules():
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingDependencyError, match=r"pip install 'gate2static\[train\]'"):
            optional.require(module)
