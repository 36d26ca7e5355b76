"""The examples beside an exported network run, and compute what the network computes."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gate2static.export.package.examples import cpp_example
from gate2static.export.package.folder import export_package
from gate2static.static import StaticModel
from gate2static.static.meaning import Ends

CAPI = Path(importlib.util.find_spec("onnxruntime").origin).parent / "capi"
HEADER = "onnxruntime_cxx_api.h"
INCLUDES = [Path(os.environ.get("ONNXRUNTIME_INCLUDE", "/usr/include/onnxruntime"))]
INCLUDES += [Path("/usr/local/include/onnxruntime"), Path("/usr/include/onnxruntime/core/session")]
INCLUDE = next((folder for folder in INCLUDES if (folder / HEADER).is_file()), None)
COMPILER = shutil.which("g++") or shutil.which("clang++")


def truth(described: StaticModel, picture) -> dict[str, torch.Tensor]:
    """What the network computes on a picture (height, width, colours) of bytes."""
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.5])
    numbers = (torch.from_numpy(picture) / 255 - mean) / std
    return described(numbers.permute(2, 0, 1)[None].float())


@pytest.fixture(scope="module")
def package_of_bytes(described: StaticModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network with preprocessing and argmax inside."""
    folder = tmp_path_factory.mktemp("exports") / "bytes"
    export_package(described, folder, preprocess=True, argmax=True, progress=False)
    return folder


@pytest.mark.parametrize("fixture", ["package", "package_of_bytes"])
def test_the_python_example_runs_on_a_picture_with_numpy_and_onnxruntime_alone(
    fixture: str, described: StaticModel, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    package = request.getfixturevalue(fixture)
    picture = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    np.save(tmp_path / "picture.npy", picture)
    program = (
        "import runpy, sys; sys.modules.update(gate2static=None, torch=None, onnx=None); "
        f"sys.argv[1:] = [{str(tmp_path / 'picture.npy')!r}]; runpy.run_path({str(package / 'example.py')!r})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    outputs = truth(described, picture)
    assert lines[0] == f"a (1,)  [{int(outputs['a'].argmax())}]"
    numbers = np.array(lines[1].partition("[")[2].rstrip("]").split(), dtype=float)
    assert lines[1].startswith("b (1, 1, 16, 16) m [")
    np.testing.assert_allclose(numbers, outputs["b"].ravel()[:5].numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
@pytest.mark.skipif(INCLUDE is None, reason=f"{HEADER} is not there; ONNXRUNTIME_INCLUDE names its folder")
@pytest.mark.parametrize("fixture", ["package", "package_of_bytes"])
def test_the_cpp_example_compiles_and_computes_the_same(
    fixture: str, described: StaticModel, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    package = request.getfixturevalue(fixture)
    library = next(CAPI.glob("libonnxruntime.so.*"), None)
    command = [COMPILER, "-std=c++17", "-Wall", str(package / "example.cpp"), "-I", str(INCLUDE)]
    if library is None:  # wheels for some systems have no library of its own
        subprocess.run([*command, "-fsyntax-only"], check=True)
        return
    (tmp_path / "libonnxruntime.so.1").symlink_to(library)
    subprocess.run([*command, str(library), f"-Wl,-rpath,{tmp_path}", "-o", str(tmp_path / "example")], check=True)
    lines = subprocess.run([tmp_path / "example"], cwd=package, capture_output=True, text=True, check=True).stdout
    outputs = truth(described, np.full((16, 16, 3), 128, np.uint8))
    if fixture == "package_of_bytes":
        outputs["a"] = outputs["a"].argmax(1)
    found = {line.split()[0]: float(line.split()[-2]) for line in lines.splitlines()}
    assert found == pytest.approx({task: float(value.ravel()[0]) for task, value in outputs.items()}, rel=1e-4)


def test_no_text_of_a_strangers_manifest_becomes_code(described: StaticModel) -> None:
    static = StaticModel(described.network, described.manifest)
    static.describe(
        inputs={"image": {"colours": '"; system("x"); //', "mean": [0.5] * 3, "std": [0.5] * 3}},
        outputs={"a": {"kind": "*/ evil", "classes": ["@MEAN@"] * 5}},
    )
    code = cpp_example(static, Ends())
    assert "system" not in code
    assert "evil" not in code
    assert "@" not in code


def test_networks_of_other_inputs_have_no_cpp_example(described: StaticModel) -> None:
    (image,) = described.manifest.inputs
    tokens = described.manifest.model_copy(
        update={"inputs": (image.model_copy(update={"shape": (12,), "dtype": "int64"}),), "meaning": None}
    )
    assert cpp_example(StaticModel(described.network, tokens), Ends()) is None
