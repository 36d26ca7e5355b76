"""ONNX Runtime sessions without warnings, on exactly the requested provider."""

from pathlib import Path
from typing import Any

from gate2static.errors import ExportError, Gate2StaticError, MissingDependencyError
from gate2static.messages import brief
from gate2static.runtimes.onnx_file import read_onnx
from gate2static.runtimes.optional import require, require_gpu

_ERRORS_ONLY = 3
CPU = ("CPUExecutionProvider",)


def onnxruntime() -> Any:
    """Returns the onnxruntime module with its warnings off."""
    module = require("onnxruntime")
    # C++ writes the warnings to stderr, where Python cannot catch them.
    module.set_default_logger_severity(_ERRORS_ONLY)
    return module


def open_session(
    model: Path | bytes,
    *,
    label: str = "the ONNX model",
    threads: int | None = None,
    as_written: bool = False,
    error: type[Gate2StaticError] = ExportError,
) -> Any:
    """Opens an `onnxruntime.InferenceSession` on the CPU.

    Args:
        model: The path of a file, or its content.
        label: The name of the content in error messages.
        threads: Intra-op threads; None leaves the number to ONNX Runtime.
        as_written: Whether operators run one by one as the file has them, instead of rewritten and fused.
        error: The exception class for a model that cannot be opened.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
        Gate2StaticError: The model cannot be read, or has an operator that ONNX Runtime lacks (of type `error`).
    """
    label = str(model) if isinstance(model, Path) else label
    data = read_onnx(model, error=error) if isinstance(model, Path) else model
    options = session_options(threads=threads)
    if as_written:
        options.graph_optimization_level = onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
    return _create(data, options, list(CPU), label, error)


def open_cuda_session(
    data: bytes, *, label: str, provider_options: dict[str, str], error: type[Gate2StaticError]
) -> Any:
    """Opens an `onnxruntime.InferenceSession` on the GPU, and never falls back to the CPU silently.

    Args:
        data: The content of an ONNX file.
        label: The name of the content in error messages.
        provider_options: Options of the CUDA provider.
        error: The exception class for a model that cannot be opened.

    Raises:
        MissingDependencyError: There is no GPU, ONNX Runtime was built without CUDA, or CUDA libraries do not load.
        Gate2StaticError: The model cannot be read (of type `error`).
    """
    require_gpu("ONNX Runtime on CUDA")
    module = onnxruntime()
    if "CUDAExecutionProvider" not in module.get_available_providers():
        raise MissingDependencyError(
            f"onnxruntime {module.__version__} was built without CUDA; install the other build with: "
            "pip uninstall onnxruntime && pip install onnxruntime-gpu"
        )
    providers = [("CUDAExecutionProvider", provider_options), *CPU]
    session = _create(data, session_options(), providers, label, error)
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise MissingDependencyError(
            f"onnxruntime-gpu {module.__version__} could not load its CUDA provider and fell back to the CPU; "
            "its CUDA and cuDNN versions must match the installed ones: pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    return session


def session_options(*, threads: int | None = None) -> Any:
    """Returns `SessionOptions` without warnings.

    Spinning stays on, as it is ONNX Runtime's default and so what a deployed network gets. Benchmarks keep one session
    open at a time, so that no idle thread pool disturbs the timed one.

    Args:
        threads: Intra-op threads; None leaves the number to ONNX Runtime.
    """
    options = onnxruntime().SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def _create(data: bytes, options: Any, providers: list[Any], label: str, error: type[Gate2StaticError]) -> Any:
    try:
        return onnxruntime().InferenceSession(data, sess_options=options, providers=providers)
    except Exception as failure:  # ONNX Runtime's own exceptions have no public common root
        raise error(
            f"{label} ({len(data)} bytes) cannot be loaded by ONNX Runtime: {brief(failure)}. "
            "The file is truncated, not ONNX, or uses an operator this version lacks; export it again."
        ) from failure
