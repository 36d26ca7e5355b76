"""Mutated files through every command that reads them: nothing may crash, hang, fill the memory or change a number.

    python -m benchmarks.robustness.mutations --count 2000            # goes on where it was interrupted
    python -m benchmarks.robustness.mutations --only 17 18            # single mutations again, with what they print

Every mutation has a number, which seeds it. A command runs in a copy of this process, so that signals, hangs and its
peak memory are seen. The files of a mutation are made anew, under `runs/robustness/`, and rows are added to a file
there; the summary goes to `benchmarks/results/robustness/mutations.json`.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors

import gate2static as g2s
from benchmarks.robustness import mutating
from gate2static.bench.environment import describe_environment
from gate2static.bench.report import LatencyReport, TargetLatency, TimingProtocol
from gate2static.cli.commands import app
from gate2static.export.engine_sidecar import EngineSidecar, sidecar_path
from gate2static.files import sha256_of
from gate2static.latency import LatencyTable
from gate2static.latency.grid import Grid
from gate2static.latency.kernels import lower
from gate2static.latency.operators import record
from gate2static.static.folder import digest
from gate2static.train.loop import checkpoint_archive, checkpoints
from gate2static.train.results import ResultRow, RunResult, TaskInfo
from tests import zoo

ROOT = Path(__file__).parents[2]
OLDER = ROOT / "tests" / "fixtures" / "written_by_0_1"
RESULT = ROOT / "benchmarks" / "results" / "robustness" / "mutations.json"
LONGEST_CPU_S = 30.0
_LONGEST_WALL_S = 120.0
_MOST_MEMORY_BYTES = 2 * 10**9
_LIMIT_BYTES = 12 * 2**30
_STATUSES = (0, 2)
"""What a command may end with; `verify` and `export` also with 1, which says that two networks differ."""

Command = tuple[str, Callable[[], str | None]]
"""A name, and what is run; what it returns says which numbers were read."""


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One mutated file and what reads it.

    Attributes:
        family: The kind of file.
        change: What was changed, in words.
        is_accident: Whether the change could have been a bad disk's, so that a digest must notice it.
        commands: What reads the file.
    """

    family: str
    change: str
    is_accident: bool
    commands: Sequence[Command]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one command.

    Attributes:
        number: The mutation.
        family: The kind of file.
        change: What was changed.
        command: The command's name.
        verdict: `accepted`, `refused`, or what is wrong: `traceback`, `hang`, `signal`, `memory`, `other numbers`.
        status: The exit status; minus the number of a signal.
        cpu_s: The processor time in seconds.
        memory_bytes: The peak resident memory.
        said: The end of what was printed.
    """

    number: int
    family: str
    change: str
    command: str
    verdict: str
    status: int
    cpu_s: float
    memory_bytes: int
    said: str


class Material:
    """Files that are whole, to be mutated in copies.

    Attributes:
        folder: Where they lie.
        statics: Name -> folder of a static network.
        numbers: Name of a file -> the digest of the numbers in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.statics = {name: folder / name for name in ("older", "many_rules", "token_rules")}
        if not (folder / "done").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._make()
            (folder / "done").touch()
        self.numbers = {name: numbers_of_static(path) for name, path in self.statics.items()}
        for name in ("older.pt", "sealed.pt"):
            self.numbers[name] = numbers_of_checkpoint(folder / name)

    def _make(self) -> None:
        shutil.copytree(OLDER / "static", self.statics["older"])
        torch.manual_seed(0)
        for name in ("many_rules", "token_rules"):
            g2s.prune(zoo.make_gated(name)[0]).save(self.statics[name])
        shutil.copy(OLDER / "ckpt.pt", self.folder / "older.pt")
        content = checkpoints.load_checkpoint(OLDER / "ckpt.pt")
        checkpoints.save_checkpoint(self.folder / "sealed.pt", content)
        shutil.copy(ROOT / "recipes" / "digits_tiny.yaml", self.folder / "recipe.yaml")
        g2s.export_onnx(g2s.load_static(self.statics["older"]), self.folder / "model.onnx")
        self._make_run(content["recipe"])
        engine = self.folder / "model.engine"
        engine.write_bytes(b"an engine")
        sidecar = EngineSidecar(
            backend="tensorrt-rtx", library_version="1", sha256=sha256_of(b"an engine"), size_bytes=9, onnx_sha256="0",
            digest=None, precision="fp32", compute_capabilities=("8.9",), batch=(1, 1, 8), inputs=(), outputs=(),
        )  # fmt: skip
        sidecar_path(engine).write_text(sidecar.model_dump_json())
        _table(g2s.load_static(self.statics["older"])).save(self.folder / "table.json")

    def _make_run(self, recipe: dict[str, Any]) -> None:
        """A run folder as training, pruning and timing leave it."""
        run = self.folder / "run"
        tasks = [task["name"] for task in recipe["tasks"]]
        rows = []
        for name, kind in (("separate", "separate"), ("shared", "shared"), ("gated-0.05", "gated")):
            shutil.copytree(OLDER / "static", run / name / "static")
            shutil.copy(self.folder / "sealed.pt", run / name / "ckpt.pt")
            rows.append(
                ResultRow(
                    name=name, kind=kind, seed=0, checkpoints=(f"{name}/ckpt.pt",), delta_mtl=0.1, macs=10,
                    parameters=10,
                    sparsity_weight=0.05 if kind == "gated" else None, metrics=dict.fromkeys(tasks, 0.5),
                    scores={task: {"accuracy": 0.5, "loss": 0.7} for task in tasks},
                )  # type: ignore[arg-type]
            )  # fmt: skip
        infos = tuple(TaskInfo(name=task, metric="accuracy", higher_is_better=True) for task in tasks)
        RunResult(recipe=recipe, tasks=infos, rows=tuple(rows)).save(run)
        LatencyReport(
            protocol=TimingProtocol(batch_size=1, rounds=2, warmup_s=0.1, duration_s=1, min_runs=2),
            environment=describe_environment(threads=1),
            targets=tuple(
                TargetLatency(name=f"{name}/static", backend="torch", precision="fp32", rounds_ms=((1.0, 2.0), (1.5,)))
                for name in ("separate", "shared", "gated-0.05")
            ),
        ).to_json(run / "latency.json")


def _table(static: g2s.StaticModel) -> LatencyTable:
    """Returns a latency table with made-up times for a network's kernels."""
    network = static.deployed()
    steps = lower(record(network, network.example_inputs()), "onnxruntime")
    sizes = {kernel.kind: len(kernel.sizes) for step in steps for kernel in step.kernels}
    grids = tuple(
        Grid(kind=kind, axes=((1, 1000),) * axes, ms=tuple(0.1 + i for i in range(2**axes)))
        for kind, axes in sizes.items()
    )
    return LatencyTable(name="made up", backend="onnxruntime", threads=1, overhead_ms=1.0, grids=grids)


def numbers_of_static(folder: Path) -> str:
    """Returns the digest of what a static network computes."""
    static = g2s.load_static(folder)
    with torch.no_grad():
        outputs = static(*static.example_inputs(2))
        static.deployed()(*static.example_inputs(1))
    return _digest(outputs.items())


def numbers_of_checkpoint(path: Path) -> str:
    """Returns the digest of a checkpoint's weights and recipe."""
    content = checkpoints.load_checkpoint(path)
    return _digest([*content["model"].items(), ("recipe", json.dumps(content["recipe"], default=str, sort_keys=True))])


def _digest(values: Iterable[tuple[str, Any]]) -> str:
    found = hashlib.sha256()
    for name, value in values:
        found.update(name.encode())
        found.update(value.numpy().tobytes() if isinstance(value, torch.Tensor) else value.encode())
    return found.hexdigest()


def _run(*arguments: object) -> Callable[[], None]:
    """Returns a command line."""

    def run() -> None:
        app([str(argument) for argument in arguments])

    return run


# One function per family: makes the mutated file in a folder, and says what reads it.


def mutated_static(material: Material, folder: Path, random: Random) -> Mutation:
    """A static folder: bytes, the graph, the manifest or the tensors; what is not bytes is signed again."""
    name = random.choice(list(material.statics))
    static = Path(shutil.copytree(material.statics[name], folder / "static"))
    kind = random.choice(["bytes", "graph", "graph", "graph", "manifest", "tensors", "text"])
    file = static / random.choice(["graph.json", "manifest.json", "weights.safetensors"])
    if kind == "bytes":
        content, what = mutating.any_bytes(file.read_bytes(), random)
        file.write_bytes(content)
    elif kind == "graph":
        nodes, what = mutating.graph(json.loads((static / "graph.json").read_text()), random)
        (static / "graph.json").write_text(json.dumps(nodes))
    elif kind == "manifest":
        manifest, what = mutating.json_value(json.loads((static / "manifest.json").read_text()), random)
        (static / "manifest.json").write_text(json.dumps(manifest))
    elif kind == "tensors":
        held, what = mutating.tensors(load_tensors((static / "weights.safetensors").read_bytes()), random)
        (static / "weights.safetensors").write_bytes(dump_tensors(held))
    else:
        file = static / random.choice(["graph.json", "manifest.json"])
        content, what = mutating.json_text(file.read_bytes(), random)
        file.write_bytes(content)
    if kind != "bytes":
        _sign(static)
    # What the manifest tells people is not part of what a network computes.
    in_network = kind == "bytes" and file.name != "manifest.json"
    commands: list[Command] = [
        ("load", lambda: numbers_of_static(static)),
        ("predict", _run("predict", static, "--latency", "a100")),
        ("bench", _run("bench", static, "--rounds", 1, "--duration", 0.01, "--threads", 1)),
        ("export", _run("export", static, "-o", folder / "out")),
    ]
    if name == "older":
        commands += [
            ("verify", _run("verify", material.folder / "sealed.pt", static)),
            ("prune", _run("prune", material.folder / "sealed.pt", "-o", static)),
        ]
    return Mutation(family="static", change=f"{name}: {what}", is_accident=in_network, commands=commands)


def _sign(static: Path) -> None:
    """Writes the digest of graph and weights into the manifest, if that can still hold one."""
    manifest = static / "manifest.json"
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        content = json.loads(manifest.read_text())
        content["digest"] = digest((static / "graph.json").read_bytes(), (static / "weights.safetensors").read_bytes())
        manifest.write_text(json.dumps(content))


def mutated_checkpoint(material: Material, folder: Path, random: Random) -> Mutation:
    """A checkpoint: bytes, the archive, or its content, which is signed again."""
    name = random.choice(["older.pt", "sealed.pt"])
    path = folder / "ckpt.pt"
    whole = (material.folder / name).read_bytes()
    kind = random.choice(["bytes", "bytes", "archive", "content", "weights"])
    if kind == "bytes":
        changed, what = mutating.any_bytes(whole, random)
    elif kind == "archive":
        changed, what = mutating.archive(whole, random)
    else:
        content = torch.load(io.BytesIO(whole), weights_only=True)
        if kind == "weights":
            content["model"], what = mutating.tensors(content["model"], random)
        else:
            part = random.choice(["recipe", "recipe", "position", "identity", "kind"])
            if isinstance(content[part], dict):
                content[part], what = mutating.json_value(content[part], random)
            else:
                content[part] = what = random.choice(mutating.ODD)
            what = f"{part}: {what}"
        buffer = io.BytesIO()
        torch.save(content, buffer)
        if random.random() < 0.8:
            checkpoint_archive.seal(buffer)
        changed = buffer.getvalue()
    path.write_bytes(changed)
    run = Path(shutil.copytree(material.folder / "run", folder / "run"))
    shutil.copy(path, run / "gated-0.05" / "ckpt.pt")
    commands: list[Command] = [
        ("load", lambda: numbers_of_checkpoint(path)),
        ("prune", _run("prune", path, "-o", folder / "out")),
        ("prune --budget", _run("prune", path, "-o", folder / "out2", "--budget", "macs=0.9", "--dry-run")),
        ("verify", _run("verify", path, material.statics["older"])),
        ("suggest-targets", _run("suggest-targets", run)),
    ]
    return Mutation(family="checkpoint", change=f"{name}: {what}", is_accident=kind == "bytes", commands=commands)


def mutated_recipe(material: Material, folder: Path, random: Random) -> Mutation:
    """A recipe: bytes, values, or aliases that expand."""
    whole = (material.folder / "recipe.yaml").read_bytes()
    path = folder / "recipe.yaml"
    kind = random.choice(["bytes", "values", "values", "values", "aliases", "override"])
    override: list[str] = []
    if kind == "bytes":
        content, what = mutating.any_bytes(whole, random)
    elif kind == "values":
        values, what = mutating.json_value(yaml.safe_load(whole), random)
        content = yaml.safe_dump(values).encode()
    elif kind == "override":
        key = random.choice(["training.gated.epochs", "gating.group_size", "model.options", "tasks.0.name", "a" * 5000])
        override = ["--set", f"{key}={random.choice([*map(str, mutating.ODD), '[' * 500, '&a [*a]'])}"]
        content, what = whole, override[1][:60]
    else:
        width, depth = random.choice([(9, 9), (2, 60), (1000, 3), (1, 2000)])
        lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, depth)]
        content, what = ("\n".join(lines) + "\n").encode() + whole, f"aliases {width} wide and {depth} deep"
    path.write_bytes(content)
    commands: list[Command] = [
        ("train", _run("train", path, "--run-dir", folder / "run", *override)),
        ("sweep", _run("sweep", path, "--run-dir", folder / "run", *override)),
    ]
    return Mutation(family="recipe", change=what, is_accident=False, commands=commands)


def mutated_onnx(material: Material, folder: Path, random: Random) -> Mutation:
    """An ONNX file: bytes, or its messages."""
    change = random.choice([mutating.any_bytes, mutating.onnx_model, mutating.onnx_model])
    content, what = change((material.folder / "model.onnx").read_bytes(), random)
    path = folder / "model.onnx"
    path.write_bytes(content)
    static = shutil.copytree(material.statics["older"], folder / "static")
    commands: list[Command] = [
        ("bench", _run("bench", path, "--rounds", 1, "--duration", 0.01, "--threads", 1)),
        ("verify --onnx", _run("verify", material.folder / "sealed.pt", static, "--onnx", path)),
    ]
    return Mutation(family="onnx", change=what, is_accident=False, commands=commands)


def mutated_json(material: Material, folder: Path, random: Random) -> Mutation:
    """A latency table, an engine's sidecar, or a file of a run folder."""
    run = Path(shutil.copytree(material.folder / "run", folder / "run"))
    for name in ("table.json", "model.engine", "model.engine.json"):
        shutil.copy(material.folder / name, folder / name)
    report: Command = ("report", _run("report", run))
    prune = ("prune", material.folder / "sealed.pt", "-o", folder / "out", "--dry-run")
    files: dict[Path, list[Command]] = {
        folder / "table.json": [
            ("predict", _run("predict", material.statics["older"], "--latency", folder / "table.json")),
            ("prune --budget", _run(*prune, "--budget", "latency=0.9", "--budget", f"device={folder / 'table.json'}")),
        ],
        folder / "model.engine.json": [("bench", _run("bench", folder / "model.engine", "--rounds", 1))],
        run / "run.json": [report, ("suggest-targets", _run("suggest-targets", run))],
        run / "latency.json": [report],
        run / "gated-0.05" / "static" / "manifest.json": [report],
    }  # fmt: skip
    path = random.choice(list(files))
    whole = path.read_bytes()
    kind = random.choice(["bytes", "text", "value", "value", "value"])
    if kind == "value":
        value, what = mutating.json_value(json.loads(whole), random)
        content = json.dumps(value).encode()
    else:
        content, what = (mutating.any_bytes if kind == "bytes" else mutating.json_text)(whole, random)
    path.write_bytes(content)
    return Mutation(family="json", change=f"{path.name}: {what}", is_accident=False, commands=files[path])


FAMILIES: Sequence[Callable[[Material, Path, Random], Mutation]] = (
    mutated_static, mutated_static, mutated_checkpoint, mutated_recipe, mutated_onnx, mutated_json,
)  # fmt: skip
"""Made in turns; half of all mutations are static folders and checkpoints."""


def outcomes_of(number: int, material: Material, folder: Path, *, shows: bool = False) -> list[Outcome]:
    """Makes a mutation and runs what reads it.

    Args:
        number: The mutation's number.
        material: Whole files.
        folder: A folder of its own; it is made and removed.
        shows: Whether to print what commands say.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        mutation = FAMILIES[number % len(FAMILIES)](material, folder, Random(number))
        whole = material.numbers.get(mutation.change.split(":")[0]) if mutation.is_accident else None
        found = []
        for name, command in mutation.commands:
            status, said, numbers, usage = _in_a_copy(command, folder / "said")
            verdict = _verdict(name, status, said, usage)
            if verdict == "accepted" and numbers and whole and numbers != whole:
                verdict = "other numbers"
            found.append(
                Outcome(
                    number=number, family=mutation.family, change=mutation.change[:200], command=name, verdict=verdict,
                    status=status, cpu_s=round(usage.ru_utime + usage.ru_stime, 1),
                    memory_bytes=usage.ru_maxrss * 1024, said=said[-400:] if verdict != "accepted" else "",
                )
            )  # fmt: skip
            if shows:
                print(mutation.change, name, verdict, status, said, sep="\n")
        return found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _verdict(name: str, status: int, said: str, usage: resource.struct_rusage) -> str:
    if status == -signal.SIGALRM or usage.ru_utime + usage.ru_stime > LONGEST_CPU_S:
        return "hang"
    if status < 0:
        return "signal"
    compares = name.startswith(("verify", "export"))
    if "Traceback (most recent" in said or status not in (*_STATUSES, *([1] if compares else [])):
        return "traceback"
    if usage.ru_maxrss * 1024 > _MOST_MEMORY_BYTES:
        return "memory"
    return "refused" if status else "accepted"


def _in_a_copy(command: Callable[[], str | None], said: Path) -> tuple[int, str, str, resource.struct_rusage]:
    """Runs a command in a copy of this process.

    Returns:
        The exit status, or minus a signal's number; what it printed; the numbers that it read; and what it used.
    """
    numbers = said.with_name("numbers")
    numbers.unlink(missing_ok=True)
    process = os.fork()
    if process == 0:
        _become(command, said, numbers)
    _, ended, usage = os.wait4(process, 0)
    text = said.read_text(errors="replace") if said.is_file() else ""
    return os.waitstatus_to_exitcode(ended), text, numbers.read_text() if numbers.is_file() else "", usage


def _become(command: Callable[[], str | None], said: Path, numbers: Path) -> None:
    """Runs a command in this process, and ends it."""
    status = 70
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (_LIMIT_BYTES, _LIMIT_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(int(_LONGEST_WALL_S))
        descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        try:
            read = command()
            if read is not None:
                numbers.write_text(read)
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0 if end.code is None else 2
        except g2s.errors.Gate2StaticError as error:
            print(error)
            status = error.exit_status
        except BaseException:  # noqa: BLE001 - what is looked for
            traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _train_nothing() -> None:
    """Ends training where it would begin: mutated recipes may train for years, and rightly so."""
    from gate2static.train import runs

    def launch(*_: Any) -> None:
        raise SystemExit(0)

    runs.launch = launch  # type: ignore[assignment]


def warm_up(material: Material, folder: Path) -> None:
    """Runs every command once on whole files, so that copies of this process need not import what it uses.

    Raises:
        RuntimeError: A command refuses a whole file.
    """
    shutil.rmtree(folder, ignore_errors=True)
    static = shutil.copytree(material.statics["older"], folder / "static")
    run = shutil.copytree(material.folder / "run", folder / "run")
    checkpoint = material.folder / "sealed.pt"
    onnx = material.folder / "model.onnx"
    table = material.folder / "table.json"
    quick = ("--rounds", 1, "--duration", 0.01, "--threads", 1)
    commands: list[tuple[object, ...]] = [
        ("prune", checkpoint, "-o", folder / "pruned"),
        ("prune", checkpoint, "-o", folder / "out", "--budget", "macs=0.9", "--dry-run"),
        ("export", static, "-o", folder / "out"),
        ("verify", checkpoint, static, "--onnx", onnx),
        ("bench", static, *quick),
        ("bench", onnx, *quick),
        ("predict", static, "--latency", table),
        ("suggest-targets", run),
        ("report", run),
        ("train", material.folder / "recipe.yaml", "--run-dir", folder / "new"),
    ]
    for arguments in commands:
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                _run(*arguments)()
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"{arguments} ended with {end.code}: {said.getvalue()}") from end
    shutil.rmtree(folder)


def summary(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """Returns the figures of all outcomes."""
    bad = ("traceback", "hang", "signal", "memory", "other numbers")
    return {
        "mutations": len({outcome.number for outcome in outcomes}),
        "commands": len(outcomes),
        "hours": round(seconds / 3600, 2),
        "torch": torch.__version__,
        "largest_memory_mb": round(max(outcome.memory_bytes for outcome in outcomes) / 1e6),
        "longest_cpu_s": max(outcome.cpu_s for outcome in outcomes),
        "longest_message": max(len(outcome.said) for outcome in outcomes if outcome.verdict == "refused"),
        "bad": {verdict: sum(outcome.verdict == verdict for outcome in outcomes) for verdict in bad},
        "by_family": {
            family: dict(Counter(outcome.verdict for outcome in outcomes if outcome.family == family))
            for family in sorted({outcome.family for outcome in outcomes})
        },
        "findings": [asdict(outcome) for outcome in outcomes if outcome.verdict in bad],
    }


def main() -> None:
    """Runs the mutations that are not done yet, and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=2000, help="how many mutations there are in all")
    parser.add_argument("--only", type=int, nargs="*", help="run these mutations, print everything, write nothing")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "robustness")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    material = Material(options.folder / "material")
    _train_nothing()
    warm_up(material, options.folder / "warm-up")
    if options.only:
        for number in options.only:
            outcomes_of(number, material, options.folder / f"mutation-{number}", shows=True)
        return
    rows = options.folder / "mutations.jsonl"
    done = [Outcome(**json.loads(line)) for line in rows.read_text().splitlines()] if rows.is_file() else []
    start = time.time()
    for number in sorted(set(range(options.count)) - {outcome.number for outcome in done}):
        new = outcomes_of(number, material, options.folder / f"mutation-{number}")
        done += new
        with rows.open("a") as file:
            file.writelines(json.dumps(asdict(outcome)) + "\n" for outcome in new)
    result = summary(done, time.time() - start)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "findings"}, indent=1))


if __name__ == "__main__":
    main()
