"""Examples that run an exported network without gate2static, in Python and in C++."""

from pathlib import Path

from gate2static.files import write_atomically
from gate2static.static import StaticModel
from gate2static.static.meaning import Ends

PYTHON_FILE = "example.py"
CPP_FILE = "example.cpp"

_PYTHON = '''"""Runs model.onnx: python example.py [PICTURE.npy]. Needs numpy and onnxruntime, and no gate2static."""
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

folder = Path(__file__).parent
model = json.loads((folder / "model.json").read_text())
session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
random = np.random.default_rng(0)
feeds = {}
if sys.argv[1:] and not any(spec["picture"] for spec in model["inputs"]):
    sys.exit("model.json does not say how a picture becomes the network's input; prepare the input yourself")
for spec in model["inputs"]:
    shape = spec["example_shape"]
    if spec["picture"]:  # bytes (height, width, colours)
        height, width, channels = shape[1:] if spec["layout"] == "NHWC" else (*shape[2:], shape[1])
        picture = random.integers(0, 256, (height, width, channels))
        if sys.argv[1:]:
            picture = np.load(sys.argv[1], allow_pickle=False).reshape(height, width, channels)
        numbers = picture[None]
        if spec["layout"] == "NCHW":  # made to numbers (1, colours, height, width) here, and not by the network
            numbers = ((numbers / 255 - spec["picture"]["mean"]) / spec["picture"]["std"]).transpose(0, 3, 1, 2)
    else:
        low, high = spec["value_range"] or (0, 1)
        numbers = random.uniform(low, high, shape)
    feeds[spec["name"]] = numbers.astype(spec["dtype"])
for spec, output in zip(model["outputs"], session.run(None, feeds)):
    if spec["activation"] == "softmax":
        output = output.argmax(1)
    elif spec["activation"] == "sigmoid":
        output = output > 0  # where the probability is above 0.5
    elif spec["activation"] == "unit length":
        output = output / np.linalg.norm(output, axis=1, keepdims=True)
    print(spec["name"], output.shape, spec["unit"] or "", output.ravel()[:5])
'''

_CPP = """\
// Runs model.onnx with ONNX Runtime's C++ interface (1.13 and newer), and nothing of gate2static.
// g++ -std=c++17 example.cpp -I ONNXRUNTIME/include -L ONNXRUNTIME/lib -lonnxruntime -o example && ./example
#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <cstdio>
#include <vector>
@PREPROCESS@
int main() {
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "example");
  Ort::Session session(env, ORT_TSTR("model.onnx"), Ort::SessionOptions{});
  Ort::AllocatorWithDefaultOptions allocator;
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);

  std::vector<std::uint8_t> picture(@SIZE@, 128);  // here goes the camera's picture: height, width, colours
@FEED@
  auto input_name = session.GetInputNameAllocated(0, allocator);
  std::vector<Ort::AllocatedStringPtr> owned;
  std::vector<const char*> output_names;
  for (std::size_t i = 0; i < session.GetOutputCount(); ++i) {
    owned.push_back(session.GetOutputNameAllocated(i, allocator));
    output_names.push_back(owned.back().get());
  }
  const char* input_names[] = {input_name.get()};
  const std::size_t count = output_names.size();
  auto outputs = session.Run(Ort::RunOptions{nullptr}, input_names, &input, 1, output_names.data(), count);
  for (std::size_t i = 0; i < count; ++i) {
    std::printf("%s (", output_names[i]);
    const auto info = outputs[i].GetTensorTypeAndShapeInfo();
    for (std::int64_t size : info.GetShape()) std::printf("%lld, ", static_cast<long long>(size));
    const bool is_class = info.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    const double first = is_class ? outputs[i].GetTensorData<std::int32_t>()[0] : outputs[i].GetTensorData<float>()[0];
    std::printf(") %.6g ...\\n", first);
  }
}
"""

_PREPROCESS = """
// (byte / 255 - MEAN) / STD, colour by colour, as model.json says it.
const std::vector<float> MEAN = {@MEAN@};
const std::vector<float> STD = {@STD@};

// Makes a picture of bytes (height, width, colours) the numbers that the network takes, (colours, height, width).
std::vector<float> preprocess(const std::vector<std::uint8_t>& bytes, std::size_t colours) {
  const std::size_t area = bytes.size() / colours;
  std::vector<float> numbers(bytes.size());
  for (std::size_t pixel = 0; pixel < area; ++pixel)
    for (std::size_t colour = 0; colour < colours; ++colour)
      numbers[colour * area + pixel] = (bytes[pixel * colours + colour] / 255.0f - MEAN[colour]) / STD[colour];
  return numbers;
}
"""
_FEED_NUMBERS = """\
  const std::vector<std::int64_t> shape = {1, @COLOURS@, @HEIGHT@, @WIDTH@};
  std::vector<float> numbers = preprocess(picture, @COLOURS@);
  Ort::Value input =
      Ort::Value::CreateTensor<float>(memory, numbers.data(), numbers.size(), shape.data(), shape.size());
"""
_FEED_BYTES = """\
  const std::vector<std::int64_t> shape = {1, @HEIGHT@, @WIDTH@, @COLOURS@};
  Ort::Value input =
      Ort::Value::CreateTensor<std::uint8_t>(memory, picture.data(), picture.size(), shape.data(), shape.size());
"""


def write_examples(folder: Path, static: StaticModel, ends: Ends) -> tuple[str, ...]:
    """Writes `example.py`, and `example.cpp` where the network's only input is a picture; returns their names.

    Args:
        folder: The export folder, which holds `model.onnx` and `model.json`.
        static: The network.
        ends: What the ONNX files do besides the network.

    Raises:
        ExportError: A file cannot be written.
    """
    write_atomically(folder / PYTHON_FILE, _PYTHON.encode())
    cpp = cpp_example(static, ends)
    if cpp is None:
        # One that an older network left here would describe that network.
        (folder / CPP_FILE).unlink(missing_ok=True)
        return (PYTHON_FILE,)
    write_atomically(folder / CPP_FILE, cpp.encode())
    return (PYTHON_FILE, CPP_FILE)


def cpp_example(static: StaticModel, ends: Ends) -> str | None:
    """Returns the C++ example for a network; None for one that takes anything else than one picture.

    Only numbers of the manifest become part of the code, since a static network may be a stranger's.
    """
    first = static.manifest.inputs[0]
    if len(static.manifest.inputs) > 1 or len(first.shape) != 3 or not first.dtype.startswith(("float", "bfloat")):
        return None
    colours, height, width = first.shape
    meaning = static.manifest.meaning
    picture = None if meaning is None else meaning.inputs.get(first.name)
    is_bytes = first.name in ends.pictures
    values = {
        "PREPROCESS": "" if is_bytes else _PREPROCESS,
        "FEED": _FEED_BYTES if is_bytes else _FEED_NUMBERS,
        # Nothing is known of the normalisation: colours in [0, 1].
        "MEAN": _numbers((0.0,) * colours if picture is None else picture.mean),
        "STD": _numbers((1.0,) * colours if picture is None else picture.std),
        "SIZE": str(colours * height * width),
        "COLOURS": str(colours),
        "HEIGHT": str(height),
        "WIDTH": str(width),
    }
    code = _CPP
    for name, value in values.items():
        code = code.replace(f"@{name}@", value)
    return code


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{float(value)!r}f" for value in values)
