"""Writing of a data set as tar files that `shards` reads; equal data sets give equal bytes."""

import io
import tarfile
from collections.abc import Sized
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gate2static.data.augmented import Augmented
from gate2static.data.contract import IMAGENET, SIGNED_GREY, DataSpec, Sample, Splits
from gate2static.data.in_memory import BYTE_KINDS
from gate2static.data.shards.index import write_index
from gate2static.data.shards.shards import KINDS_WITH_CLASSES
from gate2static.errors import DataError
from gate2static.files import write_atomically
from gate2static.progress import with_bar
from gate2static.recipe import DataRecipe

SHARD_BYTES = 2**28
"""The size that a tar file may reach before the next one begins: 256 MiB."""
LARGEST_HALF = 65504
"""The largest number of float16."""


class _Encoded(Dataset[dict[str, bytes]]):
    """The bytes of each sample's members, by extension, so that processes that load encode them too."""

    def __init__(self, data: Dataset[Sample], spec: DataSpec, *, half: bool) -> None:
        self._data = data
        self._spec = spec
        self._half = half

    def __len__(self) -> int:
        return len(cast(Sized, self._data))

    def __getitem__(self, index: int) -> dict[str, bytes]:
        image, targets = self._data[index]
        members = {"image.png": _picture(_image_bytes(image, self._spec, index))}
        for name, spec in self._spec.targets.items():
            suffix, content = _encoded(spec.kind, targets[name], half=self._half)
            members[f"{name}.{suffix}"] = content
        return members


def write_shards(
    splits: Splits, spec: DataSpec, root: Path | str, *, half: bool = False, workers: int = 0
) -> DataRecipe:
    """Writes a data set as tar files, and what a recipe says to read them into `data.yaml` beside them.

    Images have 8 bits per colour, as most data sets do; label maps are exact.

    Args:
        splits: The data set, without augmentation.
        spec: The data set's description.
        root: The folder to write to; it must not have shards yet.
        half: Whether depth, normals and other maps of real numbers are rounded to float16.
        workers: Processes that read and encode samples; 0 does so in this process.

    Returns:
        The recipe's `data` part.

    Raises:
        DataError: The training images are augmented, the folder has shards, an image has values that are no bytes, or a
            file cannot be written.
    """
    root = Path(root)
    if isinstance(splits.train, Augmented):
        raise DataError("shards hold images as they are; set data.options.augment to false for the data to write")
    for split in ("train", "val", "test"):
        if any((root / split).glob("*.tar")):
            raise DataError(f"{root / split}: has shards already; give another folder, or remove them")
    recipe = DataRecipe(name="shards", options=_options(spec, root))
    for split in ("train", "val", "test"):
        encoded = _Encoded(getattr(splits, split), spec, half=half)
        _write_split(encoded, root / split, workers=workers)
    text = yaml.safe_dump({"data": recipe.model_dump(mode="json")}, sort_keys=False, default_flow_style=None)
    write_atomically(root / "data.yaml", text.encode(), error=DataError)
    return recipe


def _options(spec: DataSpec, root: Path) -> dict[str, Any]:
    if spec.pixels not in (IMAGENET, SIGNED_GREY):
        raise DataError(f"shards: found images of {spec.pixels}; allowed: ImageNet's, and grey from -1 to 1")
    targets: dict[str, tuple[int | str, ...]] = {}
    for name, target in spec.targets.items():
        classes = target.classes or (target.channels,)
        targets[name] = (target.kind, *classes) if target.kind in KINDS_WITH_CLASSES else (target.kind,)
    size = tuple(spec.image_shape[1:])
    return {"root": str(root), "size": size, "grey": spec.pixels == SIGNED_GREY, "targets": targets}


def _write_split(encoded: _Encoded, folder: Path, *, workers: int) -> None:
    # Each process encodes whole samples, and the loader keeps their order.
    samples = iter(DataLoader(encoded, batch_size=None, num_workers=workers, generator=torch.Generator()))
    count = 0
    buffer = io.BytesIO()
    for index in with_bar(range(len(encoded)), f"writing {folder}"):
        for extension, content in next(samples).items():
            _add(buffer, f"{index:08d}.{extension}", content)
        if buffer.tell() >= SHARD_BYTES or index + 1 == len(encoded):
            buffer.write(bytes(2 * tarfile.BLOCKSIZE))  # the end of a tar file
            tar = folder / f"{count:06d}.tar"
            write_atomically(tar, buffer.getbuffer(), error=DataError)
            write_index(tar)
            count += 1
            buffer = io.BytesIO()


def _add(buffer: io.BytesIO, name: str, content: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    buffer.write(header.tobuf(tarfile.USTAR_FORMAT))
    buffer.write(content)
    buffer.write(bytes(-len(content) % tarfile.BLOCKSIZE))


def _image_bytes(image: Tensor, spec: DataSpec, index: int) -> np.ndarray[Any, Any]:
    """Returns the bytes of an image (H, W, C), or (H, W) of a grey one."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.pixels.mean, spec.pixels.std))
    numbers = ((image * std + mean) * 255).round()
    low, high = (float(value) for value in numbers.aminmax())
    if not (low >= 0 and high <= 255):  # also true for NaN
        raise DataError(f"image {index}: found bytes from {low:g} to {high:g}; allowed: 0 to 255, as {spec.pixels}")
    pixels = numbers.to(torch.uint8).permute(1, 2, 0).numpy()
    return pixels[..., 0] if len(image) == 1 else pixels


def _encoded(kind: str, target: Tensor, *, half: bool) -> tuple[str, bytes]:
    """Returns how a target is stored, as the suffix of a file, and its bytes."""
    if kind == "classification":
        return "cls", str(int(target)).encode()
    values = target.numpy()
    if kind in BYTE_KINDS:
        labels = values.reshape(values.shape[-2:])
        return "png", _picture(labels.astype(np.uint8 if labels.max() < 256 else np.uint16))
    if kind != "attributes":
        values = values.transpose(1, 2, 0)  # (H, W, C)
    if half and float(np.abs(values).max()) > LARGEST_HALF:
        raise DataError(f"{kind}: found {float(np.abs(values).max()):g}, too much for float16; write with half=False")
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(values.astype(np.float16) if half else values), allow_pickle=False)
    return "npy", buffer.getvalue()


def _picture(values: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()
