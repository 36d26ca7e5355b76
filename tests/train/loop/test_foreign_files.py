"""Files of other tools in the place of a checkpoint get the advice that fits them, and none of their code runs."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from gate2static.errors import CheckpointError
from gate2static.gates import gate
from gate2static.train.loop.checkpoints import load_checkpoint


def network() -> nn.Module:
    heads = {"a": nn.Conv2d(4, 1, 1)}
    return gate(nn.Conv2d(3, 4, 3), tasks=["a"], example_inputs=(torch.randn(2, 3, 8, 8),), heads=heads)


class Callback:
    """What a logger or a callback leaves in a file of Lightning."""


def lightning(path: Path, **more: Any) -> None:
    state = {f"net.{name}": value for name, value in network().state_dict().items()}
    torch.save({"pytorch-lightning_version": "2.6", "epoch": 3, "state_dict": state, **more}, path)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a state dict": (
        lambda path: torch.save(network().state_dict(), path),
        r"a bare state dict, of a gated network; build that in Python, .*load_state_dict.*save_checkpoint\(gated",
    ),
    "a state dict of a wrapper": (
        lambda path: torch.save(nn.DataParallel(network()).state_dict(), path),
        "a bare state dict, of a gated network",
    ),
    "a state dict without gates": (
        lambda path: torch.save(nn.Conv2d(3, 4, 3).state_dict(), path),
        r"a bare state dict, of a network without gates; load it into your backbone, then gate that",
    ),
    "a dict of a training loop": (
        lambda path: torch.save({"epoch": 3, "net": network().state_dict()}, path),
        "a dict with a state dict under 'net', of a gated network",
    ),
    "a dict of numbers": (lambda path: torch.save({"epoch": 3}, path), "a dict without weights"),
    "a tensor": (lambda path: torch.save(torch.zeros(3), path), "torch can read it: a Tensor; give a checkpoint"),
    "Lightning": (lightning, r"a checkpoint of Lightning; read it in Python with YourModule\.load_from_checkpoint"),
    "Lightning with callbacks": (
        lambda path: lightning(path, callbacks={"early": Callback()}),
        r"nothing of it was loaded: a checkpoint of Lightning; .*save_checkpoint",
    ),
    "safetensors": (
        lambda path: safetensors.torch.save_file(network().state_dict(), path),
        r"a safetensors file, which holds tensors alone; .*load_file\(path\)\), then write it",
    ),
    "a pickled module": (
        lambda path: torch.save(nn.Sequential(nn.Conv2d(3, 4, 3)), path),
        r"nothing of it was loaded: a whole pickled module, and reading it would run code .*weights_only=False",
    ),
    "a pickle of Python": (
        lambda path: path.write_bytes(pickle.dumps({"a": 1})),
        "a pickle file, and reading it would run code",
    ),
    "an older file of torch": (
        lambda path: torch.save({"a": 1}, path, _use_new_zipfile_serialization=False),
        "a pickle file, and reading it would run code",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_tool_gets_the_advice_that_fits(name: str, tmp_path: Path) -> None:
    write, advice = FILES[name]
    write(tmp_path / "theirs")
    with pytest.raises(CheckpointError, match=advice) as error:
        load_checkpoint(tmp_path / "theirs")
    assert "\n" not in str(error.value)
    assert "[...]" not in str(error.value), "the advice is cut"
