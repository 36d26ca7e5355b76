"""Static networks as files. All are made before any is timed, so that no work disturbs the timing."""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.progress import Progress

import gate2static as g2s
from benchmarks.latency_fidelity.cases import BASELINES, LAYOUTS, OURS, Case
from gate2static.bench.backends import BACKENDS
from gate2static.bench.sources import EngineSource, TorchSource
from gate2static.static.folder import read_manifest
from gate2static.static.manifest import Costs

THREADS = 1


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Makes networks for a backend in a folder.

    Attributes:
        folder: what it holds is not made again.
        backend: a name of `gate2static bench`.
        processes: how many networks are made at a time.
    """

    folder: Path
    backend: str
    processes: int

    def make(self, wanted: Mapping[Case, Sequence[str]], bar: Progress) -> None:
        """Make the lowerings of every case, and the baselines of its network."""
        firsts = {case.network: case for case in reversed(wanted)}
        task = bar.add_task("making networks", total=len(wanted) + len(firsts))
        spawn = get_context("spawn")
        with ProcessPoolExecutor(self.processes, spawn, initializer=torch.set_num_threads, initargs=(THREADS,)) as pool:
            futures = [pool.submit(self._make, case, tuple(BASELINES)) for case in firsts.values()]
            futures += [pool.submit(self._make, case, tuple(names)) for case, names in wanted.items()]
            try:
                for future in as_completed(futures):
                    future.result()
                    bar.advance(task)
            finally:
                pool.shutdown(cancel_futures=True)

    def path(self, case: Case, name: str) -> Path:
        """What the backend times: a static folder, an ONNX file or an engine."""
        stem = self._stem(case, name)
        takes = BACKENDS[self.backend].takes
        if takes is TorchSource:
            return stem
        return stem.with_name(f"{stem.name}.{'engine' if takes is EngineSource else 'onnx'}")

    def macs(self, case: Case, name: str) -> Costs:
        """Of a network that was made."""
        return read_manifest(self._stem(case, name)).macs

    def _stem(self, case: Case, name: str) -> Path:
        of = case.network if name in BASELINES else str(case)
        return self.folder / self.backend / re.sub(r"[^\w]+", "-", f"{of} {name}")

    def _make(self, case: Case, names: Sequence[str]) -> None:
        missing = [name for name in names if not self.path(case, name).exists()]
        if not missing:
            return
        gated = case.gated()
        for name in missing:
            if name in BASELINES:
                g2s.set_gates(gated, BASELINES[name])
            target = OURS.get(self.backend, "any") if name in (*BASELINES, "ours") else LAYOUTS[name]
            static = g2s.prune(gated, target=target)
            static.save(self._stem(case, name))
            path = self.path(case, name)
            if path == self._stem(case, name):
                continue
            onnx = path.with_suffix(".onnx")
            g2s.export_onnx(static, onnx)
            if path != onnx:
                g2s.build_engine(onnx, path, backend=self.backend)
