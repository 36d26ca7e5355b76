"""The whole road on the demo's data with as little training as runs at all, and commands on what it leaves."""

import json
import os
import shutil
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace

import pytest

from gate2static import delivering, demo
from gate2static.bench import LatencyReport
from gate2static.errors import ArtefactError, MissingDependencyError, VerificationError
from gate2static.files import sha256_of
from gate2static.recipe import bundled_recipe
from gate2static.report import slow_networks, was_verified
from gate2static.static.folder import read_manifest
from gate2static.train import load_result

pytestmark = pytest.mark.slow

ROWS = ("separate", "shared", "gated-60")


@pytest.fixture
def demo_copy(demo_dir, tmp_path):
    """A finished demo that a test may spoil; times of files are kept."""
    return Path(shutil.copytree(demo_dir, tmp_path / "demo-run"))


@pytest.fixture
def done_again(monkeypatch):
    """Counts what is done again."""
    done = []
    steps = ("prune", "verify", "export_onnx", "build_engine")
    for name in (*steps, "benchmark"):
        original = getattr(delivering, name)

        def counted(*args, original=original, name=name, **kwargs):
            done.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(delivering, name, counted)
    return done


def test_every_network_takes_the_whole_road(demo_dir):
    for row in ROWS:
        manifest = read_manifest(demo_dir / row / "static")
        assert was_verified(manifest)
        assert {check["comparison"] for check in manifest.equivalence["checks"]} >= {"static / ONNX Runtime"}
        assert (demo_dir / row / "model.onnx").is_file()
        assert (demo_dir / row / "model.trt-rtx.engine").stat().st_size > 10_000
    latency = LatencyReport.from_json(demo_dir / "latency.json")
    assert {target.name for target in latency.targets} == set(ROWS)
    assert latency.targets[0].name == "shared", "what the others are compared with"
    assert (demo_dir / "report.html").stat().st_size > 50_000


def test_baselines_collapse_to_exactly_one_and_exactly_t_backbones(demo_dir):
    for row in ("separate", "shared"):
        manifest = read_manifest(demo_dir / row / "static")
        assert manifest.macs.static == manifest.macs[row]
        assert manifest.parameters.static == manifest.parameters[row]


def test_a_finished_demo_does_nothing_again(demo_copy, done_again, tiny):
    demo.run_demo(demo_copy, overrides=tiny)
    assert done_again == []


def test_what_was_made_from_an_older_file_is_made_again(demo_copy, done_again, tiny, monkeypatch):
    quick = delivering.benchmark
    options = {"rounds": 1, "duration_s": 0, "warmup_s": 0}
    monkeypatch.setattr(delivering, "benchmark", lambda targets, **_: quick(targets, **options))
    (demo_copy / "shared" / "model.onnx").unlink()
    os.utime(demo_copy / "gated-60" / "ckpt.pt")
    demo.run_demo(demo_copy, overrides=tiny)
    # The engines stay: the ONNX files are what they were, to the last byte.
    assert sorted(done_again) == sorted(["prune", "verify", "export_onnx", "export_onnx", "benchmark"])


def test_a_library_that_only_engines_need_costs_a_line_and_no_more(demo_copy, tiny, monkeypatch, capsys):
    def missing(*args, **kwargs):
        raise MissingDependencyError("tensorrt_rtx cannot be imported; pip install tensorrt-rtx")

    monkeypatch.setattr(delivering, "build_engine", missing)
    (demo_copy / "shared" / "model.trt-rtx.engine").unlink()
    demo.run_demo(demo_copy, overrides=tiny)
    said = " ".join(capsys.readouterr().err.split())
    assert "shared: cannot build an engine for compute capability 8.9: tensorrt_rtx cannot" in said


def test_a_library_that_every_network_needs_ends_the_delivery(demo_copy, monkeypatch):
    def missing(*args, **kwargs):
        raise MissingDependencyError("onnxruntime cannot be imported; pip install onnxruntime")

    monkeypatch.setattr(delivering, "export_onnx", missing)
    (demo_copy / "shared" / "model.onnx").unlink()
    with pytest.raises(MissingDependencyError, match="pip install onnxruntime"):
        delivering.deliver(demo_copy)


def test_a_static_network_that_differs_stops_the_demo_and_says_so_in_its_manifest(demo_copy, tiny, monkeypatch):
    shutil.rmtree(demo_copy / "gated-60" / "static")
    right = delivering.prune

    def wrong(gated):
        static = right(gated)
        next(iter(static.parameters())).data.view(-1)[0] += 0.5
        return static

    monkeypatch.setattr(delivering, "prune", wrong)
    with pytest.raises(VerificationError, match="does not compute what the gated one does"):
        demo.run_demo(demo_copy, overrides=tiny)
    assert not was_verified(read_manifest(demo_copy / "gated-60" / "static"))


def test_prune_verify_export_bench_in_a_build_pipeline(run, demo_dir, tmp_path):
    ckpt, static = demo_dir / "gated-60" / "ckpt.pt", tmp_path / "static"
    assert "M MACs" in run("prune", ckpt, "-o", static, "--json", tmp_path / "pruned.json").stdout
    pruned = json.loads((tmp_path / "pruned.json").read_text())
    assert pruned["manifest"]["digest"] == read_manifest(static).digest
    assert pruned["folder"] == str(static)
    out = tmp_path / "out"
    run("export", static, "-o", out, "--pt2", "--trt-rtx", "--compute-capability", "8.9", "--fp16")
    assert {path.name for path in out.iterdir()} == {
        *("model.onnx", "model.fp16.onnx", "model.pt2", "model.fp16.trt-rtx.engine", "model.fp16.trt-rtx.engine.json"),
        *("model.json", "example.py", "example.cpp"),
    }  # fmt: skip
    run("export", static, "-o", tmp_path, "--json", tmp_path / "exported.json")
    exported = json.loads((tmp_path / "exported.json").read_text())
    assert exported["inputs"][0]["picture"]["colours"] == "grey", "the recipe says it"
    assert [output["activation"] for output in exported["outputs"]] == ["softmax", "sigmoid"]
    (file,) = exported["files"]
    assert file["sha256"] == sha256_of((tmp_path / "model.onnx").read_bytes())
    written = (static / "manifest.json").read_bytes()
    verify = ("verify", ckpt, static, "--onnx", tmp_path / "model.onnx")
    run(*verify, "--json", tmp_path / "verified.json")
    assert json.loads((tmp_path / "verified.json").read_text())["passed"]
    assert (static / "manifest.json").read_bytes() == written, "it was not asked to record"
    run(*verify, "--record")
    assert was_verified(read_manifest(static))
    options = ("--rounds", "1", "--duration", "0", "--against", tmp_path / "model.onnx")
    run("bench", static, tmp_path / "model.onnx", *options, "--json", tmp_path / "latency.json")
    latency = json.loads((tmp_path / "latency.json").read_text())
    assert [target["name"].split("/")[-1] for target in latency["targets"]] == ["model.onnx", "static"]


def test_an_exported_network_of_a_run_knows_its_measured_latency(run, demo_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("export", demo_dir / "gated-60" / "static", "--batch", "1")
    run("export", demo_dir / "gated-60" / "static", "--tasks", "mask")
    part = json.loads((tmp_path / "exports" / "demo-run-gated-60-mask" / "model.json").read_text())
    assert part["tasks"] == ["mask"]
    assert part["latencies"] == [], "those of the whole network are not its own"
    exported = json.loads((tmp_path / "exports" / "demo-run-gated-60" / "model.json").read_text())
    (latency,) = exported["latencies"]
    (timed,) = (x for x in LatencyReport.from_json(demo_dir / "latency.json").targets if x.name == "gated-60")
    assert latency["p50_ms"] == timed.median_ms
    assert latency["batch_size"] == 1
    assert exported["files"][0]["batch_size"] == 1


def test_a_run_folder_can_be_timed_row_by_row_and_reported(run, demo_dir, tmp_path):
    run_dir = Path(shutil.copytree(demo_dir, tmp_path / "run"))
    folders = sorted(run_dir.glob("*/static"))
    run("bench", *folders, "--rounds", "1", "--duration", "0", "--json", run_dir / "latency.json")
    result = run("report", run_dir)
    assert "latency / shared" in result.stdout
    assert "–" not in result.stdout, "every row of the run found its latency"


def test_a_trained_run_is_delivered_by_one_command(run, demo_dir, tiny, tmp_path, monkeypatch):
    timed = delivering.benchmark
    options = {"rounds": 1, "duration_s": 0, "warmup_s": 0}
    monkeypatch.setattr(delivering, "benchmark", lambda targets, **_: timed(targets, **options))
    run_dir = Path(shutil.copytree(demo_dir, tmp_path / "run"))
    overrides = [word for override in tiny for word in ("--set", override)]
    outputs = ("*/static", "*/model.*", "latency.json", "report.html")
    for made in [path for pattern in outputs for path in run_dir.glob(pattern)]:
        shutil.rmtree(made) if made.is_dir() else made.unlink()
    # All is trained already, so this is what a sweep ends with.
    recipe = bundled_recipe(demo.RECIPE)
    swept = run("sweep", recipe, *overrides, "--run-dir", run_dir, "--resume", "--deliver")
    assert swept.stdout.splitlines() == [f"trained: {run_dir}", f"report: {run_dir / 'report.html'}"]
    result = run("deliver", run_dir, "--threads", "1")
    assert f"report: {run_dir / 'report.html'}" in result.stdout
    for row in ROWS:
        assert was_verified(read_manifest(run_dir / row / "static"))
        assert (run_dir / row / "model.onnx").is_file()
        assert not list((run_dir / row).glob("*.engine")), "engines are built on request"
    assert "–" not in result.stdout


def test_runs_of_several_seeds_have_one_report(run, tiny, tmp_path):
    overrides = [word for override in tiny for word in ("--set", override)]
    recipe = bundled_recipe(demo.RECIPE)
    said = run("sweep", recipe, "--seeds", "0,1", *overrides, "--run-dir", tmp_path / "runs").stdout
    folders = [tmp_path / "runs" / f"seed-{seed}" for seed in (0, 1)]
    assert said.splitlines() == [f"trained: {folder}" for folder in folders]
    content = json.loads(run("report", *folders, "-o", tmp_path / "page", "--json", "-").stdout)
    assert content["report"] == str(tmp_path / "page" / "report.html")
    page = (tmp_path / "page" / "report.html").read_text()
    assert "seeds</dt><dd>0, 1" in page
    runs = [json.loads((folder / "run.json").read_text()) for folder in folders]
    first, second = (run["rows"][0]["metrics"] for run in runs)
    assert first != second
    for task in first:
        values = (first[task], second[task])
        assert f"{mean(values):#.4g} ± {stdev(values):#.4g}" in page
        assert content["networks"][0]["metrics"][task] == mean(values)
        assert content["networks"][0]["standard_deviations"]["metrics"][task] == stdev(values)


@pytest.mark.parametrize(("share", "words"), [(1.5, ["gated-60: about 1.50 times the latency"]), (0.9, [])])
def test_networks_that_will_be_slow_are_named_after_the_training(share, words, demo_dir, monkeypatch):
    monkeypatch.setattr("gate2static.report.expected_latency.estimated_latency", lambda plan: share)
    sentences = slow_networks(demo_dir, load_result(demo_dir))
    assert [sentence[:37] for sentence in sentences] == [word[:37] for word in words]


def test_a_folder_without_a_run_cannot_be_delivered(run, tmp_path):
    assert "is not a folder that `train` or `sweep` wrote" in run("deliver", tmp_path, code=2).stderr


def test_verify_without_an_onnx_file_does_not_ask_what_one_may_lose(run, demo_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("gate2static.pipeline.onnx_tolerances", lambda _: pytest.fail("asked"))
    static = shutil.copytree(demo_dir / "gated-60" / "static", tmp_path / "static")
    run("verify", demo_dir / "gated-60" / "ckpt.pt", static)


def test_verify_notices_the_wrong_network(run, demo_dir, tmp_path):
    shutil.copytree(demo_dir / "gated-60" / "static", tmp_path / "static")
    result = run("verify", demo_dir / "shared" / "ckpt.pt", tmp_path / "static", "--record", code=1)
    assert "does not compute what the gated one does" in result.stderr
    assert not was_verified(read_manifest(tmp_path / "static"))


def test_dry_run_shows_the_plan_and_writes_nothing(run, demo_dir, tmp_path):
    before = sorted(demo_dir.rglob("*"))
    shown = run("prune", demo_dir / "gated-60" / "ckpt.pt", "-o", tmp_path / "static", "--dry-run").stdout
    assert "stage3_0_conv2" in shown
    assert "MACs per sample before" in shown
    assert not (tmp_path / "static").exists()
    assert sorted(demo_dir.rglob("*")) == before


@pytest.mark.parametrize("row", ["separate", "shared/ckpt.pt"])
def test_baselines_can_be_pruned_too(run, demo_dir, tmp_path, row):
    said = run("prune", demo_dir / row, "-o", tmp_path / "static", "--dtype", "float64", "--explain").stdout
    macs = read_manifest(tmp_path / "static").macs
    assert macs.static == macs[row.partition("/")[0]]
    assert "Channels that stay" in said


@pytest.mark.parametrize("linked", [("shared",), ("shared", "static")])
def test_a_networks_folder_that_links_out_of_the_run_is_refused(linked, tmp_path):
    """Files of a stranger's choice were written where a link in a stranger's run folder led."""
    run_dir, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = run_dir.joinpath(*linked)
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere, target_is_directory=True)
    row = SimpleNamespace(name="shared", kind="shared", checkpoints=("shared/ckpt.pt",))
    with pytest.raises(ArtefactError, match="is a link that leads out of the run's folder, to .*elsewhere, where"):
        delivering.delivery(run_dir, row, engines=True)
    (run_dir / "inside").mkdir()
    link.unlink()
    link.symlink_to(run_dir / "inside", target_is_directory=True)
    assert len(delivering.delivery(run_dir, row, engines=True)) == 4
