"""A latency table from a machine that has trtexec alone, which a script stands in for."""

import json
import os
import stat
import subprocess
from pathlib import Path

import onnx
import pytest

from gate2static.errors import BenchError
from gate2static.latency import LatencyTable, load_latency_table, predict
from gate2static.profiling import measuring, read_kit, write_kit
from gate2static.runtimes.onnxruntime import open_session
from gate2static.static import StaticModel

TRTEXEC = """#!/bin/sh
for word in "$@"; do
  case $word in
    --onnx=*) name=$(basename "${word#--onnx=}" .onnx) ;;
    --exportTimes=*) times=${word#--exportTimes=} ;;
    --fp16) half=yes ;;
  esac
done
[ "$half" = yes ] && cp "$(dirname "$0")/answers/$name.json" "$times"
"""


def answers(kit: Path, folder: Path) -> None:
    """Writes the times of a board that takes a microsecond per node and one for the call."""
    folder.mkdir()
    for path in kit.glob("*.onnx"):
        nodes = len(onnx.load(path).graph.node)
        (folder / f"{path.stem}.json").write_text(json.dumps([{"computeMs": 1e-3 * (1 + nodes), "latencyMs": 9.0}] * 3))


@pytest.fixture(scope="module")
def kit(static: StaticModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kit with the times of a board."""
    folder = tmp_path_factory.mktemp("kit")
    static.save(folder / "static")
    with pytest.MonkeyPatch.context() as patch:
        for points in ("_POSITIONS", "_CHANNELS", "_BYTES"):
            patch.setattr(measuring, points, 2)
        count = write_kit(folder / "static", folder / "kit", progress=False)
    assert count == len(list((folder / "kit").glob("*.onnx")))
    trtexec = folder / "trtexec"
    trtexec.write_text(TRTEXEC)
    answers(folder / "kit", folder / "answers")
    trtexec.chmod(trtexec.stat().st_mode | stat.S_IXUSR)
    environment = {**os.environ, "TRTEXEC": str(trtexec)}
    done = subprocess.run(["sh", "run.sh"], cwd=folder / "kit", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "kit"


def test_a_kit_is_not_written_over_another_one(kit: Path) -> None:
    """Times of the first would pass for those of the second."""
    with pytest.raises(BenchError, match=r"is not empty, and its times would mix .*; give a new folder"):
        write_kit(kit / "network-0", kit, precision="int8", progress=False)


def test_what_is_emitted_runs(kit: Path) -> None:
    for path in sorted(kit.glob("*.onnx"))[::7]:
        onnx.checker.check_model(onnx.load(path))
        open_session(path)
    assert "--fp16" in (kit / "run.sh").read_text()


def test_the_times_of_the_board_become_a_table(kit: Path, static: StaticModel, tmp_path: Path) -> None:
    table = read_kit(kit)
    assert (table.backend, table.precision) == ("tensorrt", "fp16")
    times = [grid for grid in table.grids if grid.kind == "add"]
    assert times[0].ms == pytest.approx((1e-3,) * len(times[0].ms)), "a copy adds one node of a microsecond"
    table.save(tmp_path / "board.json")
    assert load_latency_table(tmp_path / "board.json") == table
    prediction = predict(static.deployed(), static.example_inputs(1), table, precision="fp16")
    whole = 1e-3 * (1 + len(onnx.load(kit / "network-0.onnx").graph.node))
    assert prediction.latency_ms == pytest.approx(whole, rel=0.05), "the whole network calibrates the table"
    with pytest.raises(BenchError, match="was measured in fp16, and int8 is asked for"):
        predict(static.deployed(), static.example_inputs(1), table, precision="int8")


def test_a_script_that_was_interrupted_goes_on_where_it_was(kit: Path) -> None:
    lost = kit / "kernel-00000.times.json"
    before = lost.read_bytes()
    lost.unlink()
    with pytest.raises(BenchError, match="has no times of 1 of .* such as kernel-00000"):
        read_kit(kit)
    done = subprocess.run(
        ["sh", "run.sh"],
        cwd=kit,
        env={**os.environ, "TRTEXEC": str(kit.parent / "trtexec")},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["kernel-00000"]
    assert lost.read_bytes() == before


def test_a_board_without_trtexec_is_told_so(kit: Path) -> None:
    done = subprocess.run(
        ["sh", str(kit / "run.sh")], env={**os.environ, "TRTEXEC": "/nowhere/trtexec"}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "there is no trtexec at /nowhere/trtexec" in done.stderr


@pytest.mark.parametrize("content", ["{}", "[]", "[{}]", '[{"computeMs": "x"}]', '[{"computeMs": -1}]', "nonsense"])
def test_times_that_are_none_are_refused(kit: Path, content: str) -> None:
    path = kit / "kernel-00001.times.json"
    before = path.read_bytes()
    path.write_text(content)
    try:
        with pytest.raises(BenchError, match="kernel-00001.times.json"):
            read_kit(kit)
    finally:
        path.write_bytes(before)


def test_a_damaged_kit_is_refused(kit: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="profile NETWORK --emit DIR"):
        read_kit(tmp_path)
    content = json.loads((kit / "kit.json").read_text())
    content["plan"]["add"]["axes"] = [list(range(1, 300))] * 2
    (tmp_path / "kit.json").write_text(json.dumps(content))
    with pytest.raises(BenchError, match="at most 10,000 cells"):
        read_kit(tmp_path)


def test_the_commands_write_and_read_a_kit(run, kit: Path, tmp_path: Path) -> None:
    run("profile", "--import", kit, "-o", tmp_path / "board.json")
    assert isinstance(load_latency_table(tmp_path / "board.json"), LatencyTable)
    options = ("--latency", tmp_path / "board.json", "--precision", "fp16")
    result = run("predict", kit / "network-0", *options, "--json", "-")
    assert json.loads(result.stdout)["precision"] == "fp16"
