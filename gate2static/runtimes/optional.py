"""Optional libraries, which are imported when first used, so that importing gate2static stays quick."""

import importlib
import os
from typing import Any

from gate2static.errors import MissingDependencyError
from gate2static.messages import brief

# By the libraries' own names, which are installed the same way wherever gate2static came from.
_TRAINING = ("lightning_fabric", "matplotlib", "sklearn", "timm", "torchjd", "torchmetrics", "torchvision")
_FIXES = {
    # pip finds the extra in what is installed, whether an index has this package or not.
    **dict.fromkeys(_TRAINING, "pip install 'gate2static[train]'"),
    "faster_coco_eval": "pip install h5py faster-coco-eval",
    "h5py": "pip install h5py faster-coco-eval",
    "lightning": "pip install lightning",
    "onnx": "pip install onnx",
    "onnx_ir": "pip install onnx-ir",
    "onnxscript": "pip install onnxscript",
    "onnxruntime": "pip install onnxruntime (or, for NVIDIA GPUs, onnxruntime-gpu)",
    "optuna": "pip install optuna",
    "openvino": "pip install openvino",
    "tensorboard": "pip install tensorboard",
    "tensorrt": "pip install tensorrt --extra-index-url https://pypi.nvidia.com",
    "tensorrt_rtx": "pip install tensorrt-rtx",
    "wandb": "pip install wandb",
}

_ENVIRONMENT = {"onnxruntime": {"ORT_DISABLE_TELEMETRY": "1"}}
"""Variables that a library reads when it is imported; without this one ONNX Runtime keeps an identifier of the device
and a data base of events in the user's cache, and looks up a server to send them to."""


def require(module: str) -> Any:
    """Imports and returns a module.

    Args:
        module: The module's name.

    Raises:
        MissingDependencyError: The module is not installed, or a shared library that it needs is missing.
    """
    distribution = module.partition(".")[0]
    for variable, value in _ENVIRONMENT.get(distribution, {}).items():
        os.environ.setdefault(variable, value)
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        fix = _FIXES.get(distribution, f"pip install {distribution}")
        raise MissingDependencyError(
            f"{module} cannot be imported ({brief(error)}); install it with: {fix}"
        ) from error


def require_gpu(purpose: str) -> None:
    """Checks that torch can use an NVIDIA GPU.

    Args:
        purpose: The start of the error message.

    Raises:
        MissingDependencyError: Torch can use no GPU.
    """
    import torch

    if not torch.cuda.is_available():
        raise MissingDependencyError(
            f"{purpose} needs an NVIDIA GPU with its driver, and torch {torch.__version__} sees none; run it on a "
            "machine with a GPU, or ask `gate2static doctor` what is missing on this one"
        )
