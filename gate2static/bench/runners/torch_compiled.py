"""The runner of torch on the CPU with `torch.compile`."""

import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from gate2static.bench.runners.runner import Runner
from gate2static.bench.sources import TorchSource
from gate2static.bench.timing import host_timer
from gate2static.errors import BenchError, MissingDependencyError


def compiler() -> str:
    """Returns the path of the C++ compiler that torch uses.

    Raises:
        MissingDependencyError: No C++ compiler is installed.
    """
    from torch._inductor import config  # slow to import, and only this backend needs it

    configured = config.cpp.cxx
    names = [name for name in (configured if isinstance(configured, (tuple, list)) else (configured,)) if name]
    path = next((path for name in [*names, "g++", "clang++"] if (path := shutil.which(name))), None)
    if path is None:
        raise MissingDependencyError(
            f"torch.compile needs a C++ compiler, and none of {', '.join([*names, 'g++', 'clang++'])} is installed; "
            "install one (Debian and Ubuntu: apt install g++; macOS: xcode-select --install) or set CXX"
        )
    return path


@contextmanager
def open_torch_compiled(source: TorchSource, *, batch_size: int, threads: int) -> Iterator[Runner]:
    """Compiles a network and opens it in inference mode on `threads` intra-op threads; compiling is not timed.

    Raises:
        MissingDependencyError: There is no C++ compiler, or Python was installed without its headers.
        BenchError: The network cannot be compiled.
    """
    compiler()
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        raise MissingDependencyError(
            "torch.compile needs Python's headers, and Python.h is missing; install them (Debian and Ubuntu: "
            "apt install python3-dev)"
        )
    inputs = source.inputs(batch_size)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            network = torch.compile(source.network.eval(), dynamic=False)
            # The first call compiles.
            try:
                network(*inputs)
            except torch._dynamo.exc.TorchDynamoException as failure:
                reason = (str(failure).strip().splitlines() or [type(failure).__name__])[0]
                raise BenchError(f"torch.compile failed: {reason}; time it with the torch backend") from failure
            yield Runner(run=host_timer(lambda: network(*inputs)))
    finally:
        torch.set_num_threads(before)
        # Compiled code and its guards would otherwise stay for the life of the process.
        torch._dynamo.reset()
