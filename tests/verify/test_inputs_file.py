"""Inputs to verify on, from files that need not be trusted."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gate2static.errors import VerificationError
from gate2static.static import TensorSpec
from gate2static.verify.inputs_file import read_inputs

IMAGE = TensorSpec(name="image", shape=(3, 4, 4), dtype="float32")
IDS = TensorSpec(name="ids", shape=(5,), dtype="int64")


def test_an_array_is_read_batch_by_batch(tmp_path: Path) -> None:
    array = np.random.default_rng(0).standard_normal((11, 3, 4, 4))
    np.save(tmp_path / "x.npy", array)
    batches = read_inputs(tmp_path / "x.npy", [IMAGE])
    assert [len(batch[0]) for batch in batches] == [8, 3]
    assert batches[0][0].dtype == torch.float32
    torch.testing.assert_close(torch.cat([batch[0] for batch in batches]), torch.from_numpy(array).float())


def test_several_inputs_are_read_by_name_from_either_format(tmp_path: Path) -> None:
    tensors = {"ids": torch.arange(10).view(2, 5), "image": torch.randn(2, 3, 4, 4)}
    save_file(tensors, tmp_path / "x.safetensors")
    np.savez(tmp_path / "x.npz", **{name: tensor.numpy() for name, tensor in tensors.items()})
    for name in ("x.safetensors", "x.npz"):
        ((image, ids),) = read_inputs(tmp_path / name, [IMAGE, IDS])
        assert torch.equal(image, tensors["image"])
        assert torch.equal(ids, tensors["ids"])


def test_sizes_that_are_free_may_be_any(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 9, 7), np.float32))
    free = IMAGE.model_copy(update={"dynamic": (1, 2)})
    assert read_inputs(tmp_path / "x.npy", [free])[0][0].shape == (1, 3, 9, 7)
    with pytest.raises(VerificationError, match=r"float32 \(1, 3, 9, 7\); the network takes float32"):
        read_inputs(tmp_path / "x.npy", [IMAGE])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (np.zeros((0, 3, 4, 4), np.float32), "at least one"),
        (np.float32(1), "at least one"),
        (np.zeros((2, 3, 4, 4), np.int64), "int64"),
        (np.array([{"a": 1}], dtype=object), "cannot be read as inputs"),
        (b"", "cannot be read as inputs"),
        (b"PK\x03\x04 and so on", "cannot be read as inputs"),
        (b"\x93NUMPY\x01\x00v\x00", "cannot be read as inputs"),
    ],
    ids=["empty", "scalar", "integers", "objects", "nothing", "zip", "cut"],
)
def test_files_that_are_no_inputs_are_refused(tmp_path: Path, content, says: str) -> None:
    path = tmp_path / "x.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(VerificationError, match=says):
        read_inputs(path, [IMAGE])


def test_other_names_and_unequal_counts_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((1, 3, 4, 4), np.float32))
    with pytest.raises(VerificationError, match=r"holds images; the network takes image"):
        read_inputs(tmp_path / "x.npz", [IMAGE])
    np.savez(tmp_path / "y.npz", image=np.zeros((1, 3, 4, 4), np.float32), ids=np.zeros((2, 5), np.int64))
    with pytest.raises(VerificationError, match="equally many"):
        read_inputs(tmp_path / "y.npz", [IMAGE, IDS])
    np.save(tmp_path / "z.npy", np.zeros((1, 3, 4, 4), np.float32))
    with pytest.raises(VerificationError, match="one array"):
        read_inputs(tmp_path / "z.npy", [IMAGE, IDS])
    (tmp_path / "w.safetensors").write_bytes(b"nonsense")
    with pytest.raises(VerificationError, match="cannot be read as inputs"):
        read_inputs(tmp_path / "w.safetensors", [IMAGE])
    with pytest.raises(VerificationError, match="nowhere.npy cannot be read"):
        read_inputs(tmp_path / "nowhere.npy", [IMAGE])
