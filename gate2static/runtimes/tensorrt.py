"""TensorRT and TensorRT-RTX: two modules with the same Python interface."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args

from gate2static.errors import ExportError
from gate2static.messages import brief
from gate2static.runtimes.optional import require

TrtBackend = Literal["tensorrt-rtx", "tensorrt"]


@dataclass(frozen=True)
class TrtLibrary:
    """One of the two modules with its logger, which the native library keeps for the life of the process.

    Attributes:
        backend: The library's name, `tensorrt` or `tensorrt-rtx`.
        module: The module, `tensorrt` or `tensorrt_rtx`.
        logger: The logger to pass to the library's objects.
        messages: Warnings and errors since `messages.clear()`, which would otherwise go to stderr.
    """

    backend: TrtBackend
    module: Any
    logger: Any
    messages: list[str] = field(default_factory=list)

    def reason(self) -> str:
        """Returns the native library's messages, one per line, for an error message."""
        return "\n".join(dict.fromkeys(self.messages)) or "no reason was given"


def trt_library(backend: str) -> TrtLibrary:
    """Imports the library of a backend.

    Args:
        backend: `tensorrt` or `tensorrt-rtx`.

    Raises:
        ExportError: The backend is unknown.
        MissingDependencyError: The library is not installed.
    """
    for known in get_args(TrtBackend):
        if backend == known:
            return _load(known)
    raise ExportError(f"unknown engine backend {backend!r}; allowed: {', '.join(get_args(TrtBackend))}")


@cache
def _load(backend: TrtBackend) -> TrtLibrary:
    module = require(backend.replace("-", "_"))
    messages: list[str] = []
    return TrtLibrary(backend, module, _collecting_logger(module, messages.append), messages)


def _collecting_logger(module: Any, collect: Callable[[str], None]) -> Any:
    serious = (module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR, module.ILogger.WARNING)

    class Collector(module.ILogger):  # type: ignore[misc]  # a base class known only at run time
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in serious:
                collect(brief(message, 400))

    return Collector()
