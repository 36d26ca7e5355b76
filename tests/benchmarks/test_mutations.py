"""Sixty mutated files, read in this process: each loads as it was, or is refused in one short line.

The two thousand of `benchmarks/robustness/mutations.py` go through the commands, in processes of their own.
"""

import io
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
import yaml
from safetensors.torch import load, save

from benchmarks.robustness import mutating
from gate2static.errors import Gate2StaticError
from gate2static.recipe import load_recipe
from gate2static.static import load_static
from gate2static.static.folder import digest
from gate2static.train.loop.checkpoint_archive import seal
from gate2static.train.loop.checkpoints import load_checkpoint

ROOT = Path(__file__).parents[2]
OLDER = ROOT / "tests" / "fixtures" / "written_by_0_1"


def _static(folder: Path, random: Random) -> Callable[[], object]:
    static = Path(shutil.copytree(OLDER / "static", folder / "static"))
    graph, weights, manifest = (static / name for name in ("graph.json", "weights.safetensors", "manifest.json"))
    kind = random.choice(["bytes", "graph", "graph", "tensors", "manifest"])
    if kind == "bytes":
        path = random.choice([graph, weights])
        path.write_bytes(mutating.any_bytes(path.read_bytes(), random)[0])
    elif kind == "graph":
        graph.write_text(json.dumps(mutating.graph(json.loads(graph.read_text()), random)[0]))
    elif kind == "tensors":
        weights.write_bytes(save(mutating.tensors(load(weights.read_bytes()), random)[0]))
    content = json.loads(manifest.read_text())
    if kind == "manifest":
        content = mutating.json_value(content, random)[0]
    elif kind != "bytes":
        content["digest"] = digest(graph.read_bytes(), weights.read_bytes())
    manifest.write_text(json.dumps(content))
    return lambda: load_static(static)


def _checkpoint(folder: Path, random: Random) -> Callable[[], object]:
    whole = (OLDER / "ckpt.pt").read_bytes()
    kind = random.choice(["bytes", "archive", "content"])
    if kind == "content":
        content = torch.load(io.BytesIO(whole), weights_only=True)
        part = random.choice(["recipe", "position", "identity"])
        content[part] = mutating.json_value(content[part], random)[0]
        buffer = io.BytesIO()
        torch.save(content, buffer)
        seal(buffer)
        whole = buffer.getvalue()
    else:
        whole = (mutating.any_bytes if kind == "bytes" else mutating.archive)(whole, random)[0]
    (folder / "ckpt.pt").write_bytes(whole)
    return lambda: load_checkpoint(folder / "ckpt.pt")


def _recipe(folder: Path, random: Random) -> Callable[[], object]:
    whole = (ROOT / "recipes" / "digits_tiny.yaml").read_bytes()
    if random.random() < 0.5:
        content = mutating.any_bytes(whole, random)[0]
    else:
        content = yaml.safe_dump(mutating.json_value(yaml.safe_load(whole), random)[0]).encode()
    (folder / "recipe.yaml").write_bytes(content)
    return lambda: load_recipe(folder / "recipe.yaml")


@pytest.mark.parametrize("number", range(60))
def test_a_mutated_file_is_whole_or_refused(number: int, tmp_path: Path) -> None:
    read = (_static, _checkpoint, _recipe)[number % 3](tmp_path, Random(number))
    start = time.process_time()
    try:
        read()
    except Gate2StaticError as error:
        message = str(error).replace(str(tmp_path), "")
        assert "\n" not in message
        assert len(message) < 700
    assert time.process_time() - start < 5
