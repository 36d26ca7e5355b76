"""Kill commands, fill the disk, share folders and take the terminal away, and see what is left.

Run:  nice -n 15 python -m benchmarks.robustness.chaos --page docs/robustness.md
Allowed: no half file, nothing of anybody else changed, one line for every error, and a rerun whose result equals that
of an undisturbed run. 100 kills and 100 full disks at random file operations of train, prune, export, int8, profile and
report; 8 pairs of trainings on one folder; every command on a read-only folder, without HOME, and with ASCII output.

Every trial is a fork of this process, which has imported everything, or a process of its own where the environment
matters. Trials that were made are kept in the results' file, so a run goes on where it was interrupted.
"""

import argparse
import errno
import filecmp
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from gate2static import files, profiling
from gate2static.cli import main as main_of_commands
from gate2static.cli.commands import app
from gate2static.latency import LatencyTable
from gate2static.latency.grid import Grid
from gate2static.static import load_static
from gate2static.train import load_result
from gate2static.train.loop.checkpoints import load_checkpoint

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "robustness" / "chaos.json"
RECIPE = ROOT / "recipes" / "digits_tiny.yaml"
QUICK = (
    "data.options={train_images: 48, val_images: 10, test_images: 20}",
    "tasks=[{name: left, kind: classification, target: 0.2}, {name: mask, kind: mask}]",
    "training.single={epochs: 1, batch_size: 16}",
    "training.shared={epochs: 1, batch_size: 16}",
    "training.gated={epochs: 2, batch_size: 16}",
)
CHECKPOINT = "run/gated-60/ckpt.pt"
STATIC = "run/gated-60/static"
MODEL = "run/gated-60/model.onnx"
SETS = [word for change in QUICK for word in ("--set", change)]
COMMANDS = {
    "train": ["train", str(RECIPE), *SETS, "--run-dir", "run", "--resume"],
    "prune": ["prune", CHECKPOINT, "-o", STATIC],
    "export": ["export", STATIC, "-o", "run/gated-60"],
    "int8": ["export", STATIC, "-o", "run/gated-60", "--int8", "--calibration", "calibration.npy"],
    "profile": ["profile", STATIC],
    "report": ["report", "run"],
}
BEFORE = {"train": (), "prune": ("train",), "export": ("train", "prune")} | dict.fromkeys(
    ("int8", "profile", "report"), ("train", "prune")
)
"""What must have run before a command."""
TITLE = "## Killed, full, shared"
ENVIRONMENTS = ("read-only", "no HOME", "C locale")
_STARTED = "from benchmarks.robustness.chaos import command_line; command_line()"
SHARES = {"train": 25, "prune": 20, "export": 15, "int8": 15, "profile": 10, "report": 15}
"""Of 100 trials, those of each command."""


class Disk:
    """Counts the file operations of this process that change something, and can end it or fail at one of them.

    Args:
        point: The number of the operation at which something happens; 0 only counts.
        kind: `kill` ends the process in the middle of the operation, `full` lets it and all later ones fail.
    """

    def __init__(self, point: int, kind: str) -> None:
        self.count = 0
        self._point = point
        self._kind = kind
        self._write = os.write

    def install(self) -> None:
        """Replaces what writes, and listens to what opens, renames and removes."""
        sync = os.fsync
        os.write = self._written
        os.fsync = lambda descriptor: (self._meet(grows=True), sync(descriptor))[1]
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if changes and not str(path).startswith(("/dev/", "/proc/")):
                self._meet(grows=bool(flags & os.O_CREAT))
        elif event in ("os.rename", "os.mkdir", "os.link", "os.symlink"):
            self._meet(grows=True)
        elif event in ("os.remove", "os.rmdir"):
            self._meet(grows=False)

    def _written(self, descriptor: int, data: Any) -> int:
        if descriptor <= 2:
            return self._write(descriptor, data)
        content = memoryview(data).cast("B")
        # Half of it arrives, as when a disk is full or a machine loses its power.
        self._meet(grows=True, half=lambda: self._write(descriptor, content[: len(content) // 2]))
        return self._write(descriptor, data)

    def _meet(self, *, grows: bool, half: Callable[[], object] = lambda: None) -> None:
        self.count += 1
        if self._kind == "kill" and self.count == self._point:
            half()
            os.kill(os.getpid(), signal.SIGKILL)
        if self._kind == "full" and 0 < self._point <= self.count and grows:
            half()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def run_in_fork(folder: Path, words: list[str], *, prepare: Callable[[], Any] = lambda: None) -> tuple[int, str, int]:
    """Runs a command in a fork of this process.

    Args:
        folder: The folder to run in.
        words: The command line.
        prepare: Is called in the fork first; what it returns may have a `count`.

    Returns:
        The exit status, or minus a signal; what was said on stderr; the number of file operations.
    """
    said = folder.parent / "said"
    counted = folder.parent / "counted"
    counted.write_text("0")
    process = os.fork()
    if process == 0:
        status = 70
        try:
            os.chdir(folder)
            sys.dont_write_bytecode = True  # whatever is imported for the first time
            with said.open("w") as stream:
                os.dup2(stream.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.stderr = io.TextIOWrapper(io.FileIO(2, "w"), encoding="utf-8", line_buffering=True)
            sys.stdout = io.TextIOWrapper(io.FileIO(1, "w"), encoding="utf-8")
            signal.alarm(1800)
            disk = prepare()
            try:
                app(words)
            except SystemExit as end:
                status = int(end.code or 0)
            if disk is not None:
                counted.write_text(str(disk.count))
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return status, said.read_text(errors="replace"), int(counted.read_text() or 0)


def disturbed(point: int, kind: str) -> Callable[[], Disk | None]:
    """Returns what prepares a fork for a disturbance."""

    def prepare() -> Disk | None:
        if kind == "limit":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (point, point))
            return None
        disk = Disk(point, kind)
        disk.install()
        return disk

    return prepare


def plant(folder: Path) -> dict[str, str]:
    """Puts files of somebody else into a folder and beside the files that commands write; returns their digests."""
    outside = folder.parent / "outside"
    outside.write_text("theirs")
    for place in (folder, folder / "run", folder / "run" / "gated-60"):
        place.mkdir(parents=True, exist_ok=True)
        (place / "notes.txt").write_text("theirs")
        (place / ".model.onnx.tmp").write_text("theirs")
        (place / "link").symlink_to(outside)
    return digests_of_others(folder)


def digests_of_others(folder: Path) -> dict[str, str]:
    """Returns the digests of what `plant` made."""
    found = {"outside": (folder.parent / "outside").read_text()}
    for place in (folder, folder / "run", folder / "run" / "gated-60"):
        for name in ("notes.txt", ".model.onnx.tmp", "link"):
            path = place / name
            found[str(path.relative_to(folder))] = f"{path.is_symlink()} {path.read_text()}"
    return found


def half_files(folder: Path) -> list[str]:
    """Returns the files with final names that cannot be read."""
    readers: dict[str, Callable[[Path], object]] = {
        "ckpt.pt": load_checkpoint,
        "ckpt-best.pt": load_checkpoint,
        "run.json": lambda path: load_result(path.parent),
        "manifest.json": lambda path: load_static(path.parent),
        "profile.json": lambda path: json.loads(path.read_text()),
        "model.onnx": lambda path: onnx.checker.check_model(onnx.load(path)),
        "model.int8.onnx": lambda path: onnx.checker.check_model(onnx.load(path)),
        "report.html": lambda path: _ends_with(path, b"</html>\n"),
        "log.csv": lambda path: _ends_with(path, b"\n"),
    }
    bad = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        reader = readers.get(path.name, _read_picture if path.suffix == ".png" else Path.read_bytes)
        if hidden or path.is_symlink() or not path.is_file():
            continue
        try:
            reader(path)
        except Exception as error:  # noqa: BLE001 - whatever a half file does to its reader
            bad.append(f"{path.relative_to(folder)}: {error}"[:200])
    return bad


def _read_picture(path: Path) -> None:
    _ends_with(path, b"IEND\xaeB`\x82")


def _ends_with(path: Path, end: bytes) -> None:
    if not path.read_bytes().rstrip(b"\n").endswith(end.rstrip(b"\n")):
        raise ValueError("it has no end")


def differences(folder: Path, undisturbed: Path) -> list[str]:
    """Returns the files of one folder that differ from another's or that only one of them has."""
    names = {str(p.relative_to(place)) for place in (folder, undisturbed) for p in place.rglob("*") if p.is_file()}
    different = []
    for name in sorted(names):
        one = folder / name
        other = undisturbed / name
        if not (one.is_file() and other.is_file()):
            different.append(f"{name}: only in {'the rerun' if one.is_file() else 'the undisturbed run'}")
        elif not (filecmp.cmp(one, other, shallow=False) or _same_content(one, other)):
            different.append(name)
    return different


def _same_content(one: Path, other: Path) -> bool:
    """Compares what two files say, where their bytes may differ."""
    if one.suffix == ".pt":
        return _equal(load_checkpoint(one), load_checkpoint(other))
    return False


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)


class Chaos:
    """The trials, with the undisturbed run that they are compared with.

    Args:
        folder: A folder for everything.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.operations: dict[str, int] = {}
        for name in COMMANDS:
            place = self._fresh(f"undisturbed-{name}", name)
            status, said, self.operations[name] = run_in_fork(place, COMMANDS[name], prepare=disturbed(0, "count"))
            if status:
                raise SystemExit(f"{name} fails undisturbed with status {status}: {said}")

    def _fresh(self, name: str, command: str) -> Path:
        """Makes a folder in which a command can run, with somebody else's files in it."""
        place = self.folder / name / "work"
        shutil.rmtree(place.parent, ignore_errors=True)
        before = BEFORE[command]
        if before:
            shutil.copytree(self.folder / f"undisturbed-{before[-1]}" / "work", place, symlinks=True)
            (place.parent / "outside").write_text("theirs")
            for link in place.rglob("link"):
                link.unlink()
                link.symlink_to(place.parent / "outside")
        else:
            place.mkdir(parents=True)
            plant(place)
            noise = np.random.default_rng(0).standard_normal((8, 1, 32, 32)).astype(np.float32)
            np.save(place / "calibration.npy", noise)
        return place

    def disturb(self, command: str, kind: str, point: int) -> dict[str, Any]:
        """Disturbs a command, runs it again, and returns what was found."""
        place = self._fresh("trial", command)
        others = digests_of_others(place)
        status, said, _ = run_in_fork(place, COMMANDS[command], prepare=disturbed(point, kind))
        faults = [f"half: {name}" for name in half_files(place)]
        lines = [line for line in said.splitlines() if "━" not in line and line.strip()]
        if "Traceback" in said or (kind != "kill" and status not in (0, 2)) or (status == 2 and len(lines) != 1):
            faults.append(f"status {status}: {said[-300:]}")
        again, said, _ = run_in_fork(place, COMMANDS[command])
        if again:
            faults.append(f"rerun: status {again}: {said[-300:]}")
        faults += differences(place, self.folder / f"undisturbed-{command}" / "work")
        if digests_of_others(place) != others:
            faults.append("somebody else's files were changed")
        return {"status": status, "faults": faults}

    def pair(self, number: int) -> dict[str, Any]:
        """Starts two trainings on one folder."""
        place = self._fresh("trial", "train")
        command = [sys.executable, "-m", "gate2static", *COMMANDS["train"]]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        first = subprocess.Popen(command, cwd=place, env=environment, stderr=subprocess.PIPE, text=True)
        time.sleep(0.2 * number)
        second = subprocess.Popen(command, cwd=place, env=environment, stderr=subprocess.PIPE, text=True)
        said = [process.communicate()[1] for process in (first, second)]
        statuses = [first.returncode, second.returncode]
        is_refused = sorted(statuses) == [0, 2] and "is in use by" in "".join(said)
        faults = [] if is_refused else [f"{statuses}: {said}"[-400:]]
        faults += differences(place, self.folder / "undisturbed-train" / "work")
        return {"status": statuses, "faults": faults}

    def environment(self, command: str, kind: str) -> dict[str, Any]:
        """Runs a command where something is missing."""
        place = self._fresh("trial", command)
        others = digests_of_others(place)
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        words = [sys.executable, "-c", _STARTED, *COMMANDS[command]]
        if kind == "C locale":
            environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TERM": "dumb"}
        if kind == "read-only":
            # Without its capabilities root is bound by permissions too.
            words = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", *words]
            _set_writable(place, writable=False)
        try:
            with (place.parent / "out").open("w") as out:
                process = subprocess.run(
                    words, cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE
                )
        finally:
            _set_writable(place, writable=True)
        said = process.stderr.decode(errors="replace")
        # Bars, and what is said of a result that is not as good as it could be, are no errors.
        is_none = ("━", "---", "caution: ")
        lines = [line for line in said.splitlines() if line.strip() and not any(mark in line for mark in is_none)]
        expected = 2 if kind == "read-only" else 0
        is_as_expected = process.returncode == expected and len(lines) == (1 if expected else 0)
        faults = [] if is_as_expected else [f"status {process.returncode}: {said[-300:]}"]
        if expected:
            if BEFORE[command]:
                faults += differences(place, self.folder / f"undisturbed-{BEFORE[command][-1]}" / "work")
        else:
            faults += differences(place, self.folder / f"undisturbed-{command}" / "work")
        if digests_of_others(place) != others:
            faults.append("somebody else's files were changed")
        return {"status": process.returncode, "faults": faults}


def _set_writable(folder: Path, *, writable: bool) -> None:
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod((0o755 if writable else 0o555) if path.is_dir() else (0o644 if writable else 0o444))


def trials(count: int, seed: int, operations: dict[str, int]) -> Iterator[tuple[str, str, str, int]]:
    """Yields a name, a command, a kind and a point for every disturbance, in random order."""
    generator = random.Random(seed)
    planned = []
    for kind in ("kill", "full"):
        for command, share in SHARES.items():
            for number in range(max(1, round(share * count / 100))):
                # Every fourth full disk is a limit on the size of a file, which the kernel keeps.
                by_size = kind == "full" and number % 4 == 3
                point = generator.randint(1, 100_000) if by_size else generator.randint(1, max(1, operations[command]))
                planned.append((f"{kind} {command} {number}", command, "limit" if by_size else kind, point))
    generator.shuffle(planned)
    yield from planned


def recorded(*_: Any, **__: Any) -> LatencyTable:
    """Stands for the measurement of `profile`, which takes minutes and gives other times at every run."""
    grid = Grid(kind="add", axes=((1, 2),), ms=(0.5, 1.0))
    return LatencyTable(name="a recorded table", backend="onnxruntime", threads=1, overhead_ms=0.1, grids=(grid,))


def command_line() -> None:
    """Runs the command line with the recorded profile."""
    profiling.profile_for = recorded
    main_of_commands()


def run(count: int, seed: int, results: dict[str, Any], keep: Callable[[], None]) -> None:
    """Makes the trials that the results lack.

    Args:
        count: The number of kills, and of full disks.
        seed: The seed of the points and of their order.
        results: By name, what was found; trials are added.
        keep: Is called after every trial.
    """
    profiling.profile_for = recorded
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        chaos = Chaos(Path(folder))
        planned: list[tuple[str, Callable[[], dict[str, Any]]]] = [
            (f"pair {number}", partial(chaos.pair, number)) for number in range(max(1, round(0.08 * count)))
        ]
        planned += [
            (f"{kind} {command}", partial(chaos.environment, command, kind))
            for kind in ENVIRONMENTS
            for command in COMMANDS
        ]
        planned += [
            (name, partial(chaos.disturb, command, kind, point))
            for name, command, kind, point in trials(count, seed, chaos.operations)
        ]
        for name, trial in planned:
            if name not in results:
                results[name] = trial()
                keep()
                print(f"{name}: {'; '.join(results[name]['faults']) or 'ok'}", flush=True)


def page(results: dict[str, Any]) -> str:
    """Returns the section for `docs/robustness.md`."""
    kinds = {
        "kill": "killed in the middle of a random file operation",
        "full": "disk full from a random file operation on, or files limited to a random size",
        "pair": "two trainings on one folder, started 0 to 1.4 s apart: one goes on, one is refused",
        "read-only": "a folder that cannot be written: one line, status 2",
        "no HOME": "no HOME, no terminal, an almost empty environment",
        "C locale": "the same with ASCII output and a dumb terminal",
    }
    rows = []
    for kind, words in kinds.items():
        found = [result for name, result in results.items() if name.startswith(kind)]
        faults = sum(bool(result["faults"]) for result in found)
        rows.append(f"| {words} | {len(found)} | {faults} |")
    return "\n".join(
        [
            TITLE,
            "",
            "`python -m benchmarks.robustness.chaos --page docs/robustness.md` disturbs train, prune, export, int8,",
            "profile and report of a small run, and then runs them again. A fault is one of these: a half file under",
            "a final name; a changed file of somebody else; more than one line of error; a rerun that fails; a file of",
            "the rerun, or one left over, that an undisturbed run does not have. Checkpoints are compared number by",
            "number, other files byte by byte. Profiles are recorded, since measured times are never equal.",
            "",
            "| disturbance | trials | faults |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def write_section(path: Path, section: str) -> None:
    """Puts the section into a page, in the place of an older one of the same title."""
    text = path.read_text(encoding="utf-8") if path.is_file() else "# What was tried to break it\n"
    before, title, rest = text.partition(TITLE)
    after = rest[rest.find("\n## ") :] if title and "\n## " in rest else ""
    files.write_atomically(path, f"{before.rstrip()}\n\n{section}{after}".encode())


def main() -> None:
    """Makes the trials, and exits with 1 where one has a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="kills, and full disks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, help="write the section of this page")
    arguments = parser.parse_args()
    results: dict[str, Any] = json.loads(arguments.results.read_text()) if arguments.results.is_file() else {}

    def keep() -> None:
        files.write_atomically(arguments.results, json.dumps(results, indent=1).encode() + b"\n")

    run(arguments.count, arguments.seed, results, keep)
    if arguments.page:
        write_section(arguments.page, page(results))
    faults = sum(bool(result["faults"]) for result in results.values())
    print(f"{faults} of {len(results)} trials with faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
