"""Tar files of samples, named as for WebDataset: `KEY.EXTENSION`, where the key has no dot behind its folders.

```
ROOT/train/000000.tar …     00000000.image.png 00000000.semantic.png 00000000.depth.npy 00000001.image.png …
     train/000000.tar.json  optional: the places of the members (`index_shards`)
     val/…  test/…          the same
```
Samples have the order of the tar files' names, then that of the members. Any sample can be read at any time, so
shuffling, processes and resuming are the same as for other data sets.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from gate2static.data.augmented import with_augmentation
from gate2static.data.contract import IMAGENET, SIGNED_GREY, DataSpec, Splits, TargetSpec
from gate2static.data.decoding import (
    guarded,
    read_image,
    read_image_normals,
    read_label_image,
    read_npy,
    read_npy_depth,
    read_npy_maps,
    read_npy_normals,
    whole_labels,
)
from gate2static.data.files import FileOptions, FileSamples, existing_root, wanted
from gate2static.data.shards.index import Places, read_index
from gate2static.data.shards.members import Member
from gate2static.data.transforms import FILL, Augmentation, one_of, resize
from gate2static.errors import DataError
from gate2static.recipe.parsing import suggest

KINDS_WITH_CLASSES = ("classification", "attributes", "semantic")
KINDS = (*KINDS_WITH_CLASSES, *(kind for kind in FILL if kind not in KINDS_WITH_CLASSES))
CHANNELS = {"normals": 3, "instance_offsets": 2}
"""The channels of maps that have more than one."""
PICTURES = ("png", "jpg", "jpeg", "webp")
SUFFIXES = {"image": PICTURES, "classification": ("cls", "npy"), "attributes": ("npy",)}
"""What a part may be stored as: by default a picture or an array. As in WebDataset, `cls` is a class as text."""
NOT_DIVIDED = ("image", *KINDS_WITH_CLASSES, "normals")
"""The parts whose numbers have one meaning alone."""
NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")
"""A member's name: its key and its extension; other members are no parts of samples."""

Side = Annotated[int, Field(ge=8, le=4096)]
Words = tuple[int | str, ...]
Pattern = Annotated[str, Field(pattern=r"^[^/].*\.tar$", max_length=200)]


class ShardsOptions(FileOptions):
    """The options of `shards`: what the samples are, and what the files and members are called."""

    augment: bool = False
    """Whether to zoom training images by 1, 1.2 or 1.5 at a random place, and to mirror half of them."""
    size: tuple[Side, Side]
    """The height and width that images of another size are resized to."""
    targets: Annotated[dict[str, Words], Field(min_length=1)]
    """By target, its kind, and for classes and attributes their number or their names."""
    members: dict[str, Words] = Field(default_factory=dict)
    """By part (`image`, or a target), the extensions that its members may have, and, where a number follows, what
    stored numbers are divided by. By default PART.png and so on, by the kind of part."""
    grey: bool = False
    """Whether images have one channel, from -1 to 1, instead of ImageNet's three."""
    train: Pattern = "train/*.tar"
    """The training images' files, as a pattern inside `root`."""
    val: Pattern = "val/*.tar"
    """The validation images' files."""
    test: Pattern = "test/*.tar"
    """The test images' files."""

    @field_validator("targets")
    @classmethod
    def _kinds_exist(cls, targets: dict[str, Words]) -> dict[str, Words]:
        for name, words in targets.items():
            if name == "image":
                raise ValueError("image is the name of the input; give the target another name")
            if not words or words[0] not in KINDS:
                found = str(words[0]) if words else "nothing"
                raise ValueError(f"{name}: found {found} as the kind; {suggest(found, KINDS)}")
            classes = words[1:]
            is_count = len(classes) == 1 and isinstance(classes[0], int) and classes[0] >= 1
            is_names = bool(classes) and all(isinstance(word, str) for word in classes)
            if words[0] in KINDS_WITH_CLASSES and not (is_count or is_names):
                raise ValueError(f"{name}: the kind is followed by the number of classes or by their names")
            if words[0] not in KINDS_WITH_CLASSES and classes:
                raise ValueError(f"{name}: {words[0]} has no classes; write {name}: [{words[0]}]")
        return targets

    @model_validator(mode="after")
    def _members_can_be_read(self) -> "ShardsOptions":
        kinds = {name: str(words[0]) for name, words in self.targets.items()}
        for part, words in self.members.items():
            if part not in ("image", *kinds):
                raise ValueError(f"members: found {part}; {suggest(part, ['image', *kinds])}")
            kind = kinds.get(part, "image")
            suffixes = _suffixes(kind)
            extensions = [word for word in words if isinstance(word, str)]
            if not extensions or any(word.rpartition(".")[2] not in suffixes for word in extensions):
                raise ValueError(f"members: {part}: allowed are extensions that end in {', '.join(suffixes)}")
            divisors = [word for word in words if isinstance(word, int)]
            if divisors and (kind in NOT_DIVIDED or len(divisors) > 1 or divisors[0] < 1):
                found = ", ".join(map(str, divisors))
                none_for = ", ".join(NOT_DIVIDED)
                raise ValueError(f"members: {part}: found {found}; allowed: one number from 1 on, none for {none_for}")
        return self


@dataclass(frozen=True, kw_only=True)
class _Shard:
    """The samples of one tar file.

    Attributes:
        tar: The tar file.
        keys: The N samples' keys.
        places: Of each sample's parts the number of the extension, the first byte and the size, (N, parts, 3).
    """

    tar: Path
    keys: NDArray[np.str_]
    places: NDArray[np.int64]


class _Samples(Sequence[Mapping[str, Member]]):
    """The members of all samples. They are built on access: millions of them would fill each worker's memory."""

    def __init__(self, shards: Sequence[_Shard], extensions: Mapping[str, Sequence[str]]) -> None:
        self._shards = shards
        self._extensions = extensions
        # A sample's shard is found by bisection among the shards' ends.
        self._ends = np.cumsum([len(shard.keys) for shard in shards])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Mapping[str, Member]:  # type: ignore[override] # slices are not needed
        index = range(len(self))[index]
        number = int(np.searchsorted(self._ends, index, side="right"))
        shard = self._shards[number]
        row = index - int(self._ends[number])  # counted from the shard's end
        members = {}
        for (part, extensions), place in zip(self._extensions.items(), shard.places[row].tolist(), strict=True):
            extension, offset, size_bytes = place
            name = f"{shard.keys[row]}.{extensions[extension]}"
            members[part] = Member(tar=shard.tar, name=name, offset=offset, size_bytes=size_bytes)
        return members


def describe(options: ShardsOptions) -> DataSpec:
    """Describes images with the targets that the options name."""
    targets = {}
    for name, (kind, *classes) in options.targets.items():
        names = tuple(word for word in classes if isinstance(word, str))
        count = classes[0] if classes and isinstance(classes[0], int) else len(names)
        targets[name] = TargetSpec(kind=str(kind), channels=count or CHANNELS.get(str(kind), 1), classes=names)
    return DataSpec(
        image_shape=(1 if options.grey else 3, *options.size),
        targets=targets,
        pixels=SIGNED_GREY if options.grey else IMAGENET,
    )


def load(options: ShardsOptions, spec: DataSpec) -> Splits:
    """Finds the place of every part of every sample.

    Raises:
        DataError: A split has no tar file, a tar file or its index cannot be read, or a sample lacks a part.
    """
    root = existing_root(options)
    parts = wanted(dict.fromkeys(("image", *options.targets)), spec)
    extensions = {part: _extensions(options, part) for part in parts}
    kinds = {"image": "grey" if options.grey else "colours", **spec.kinds}
    readers = {part: partial(_read, kind=kinds[part], divisor=_divisor(options, part)) for part in parts}
    to_size = partial(resize, kinds=spec.kinds, size=options.size)

    def samples(split: str) -> FileSamples:
        pattern = getattr(options, split)
        tars = sorted(root.glob(pattern))
        if not tars:
            raise DataError(f"{root}: found no {pattern}; give the {split} files' pattern as data.options.{split}")
        shards = [_shard(tar, extensions) for tar in tars]
        return FileSamples(_Samples(shards, extensions), readers, spec, prepare=to_size)

    train = samples("train")
    val = samples("val")
    test = samples("test")
    augment = Augmentation(kinds=describe(options).kinds, zoom=one_of(1.0, 1.2, 1.5), off_centre=True)
    augmented = with_augmentation(train, augment, enabled=options.augment, seed=options.seed)
    return Splits(train=augmented, val=val, test=test)


def _extensions(options: ShardsOptions, part: str) -> list[str]:
    if part in options.members:
        return [word for word in options.members[part] if isinstance(word, str)]
    kind = "image" if part == "image" else str(options.targets[part][0])
    return [f"{part}.{suffix}" for suffix in _suffixes(kind)]


def _suffixes(kind: str) -> tuple[str, ...]:
    return SUFFIXES.get(kind, (*PICTURES, "npy"))


def _divisor(options: ShardsOptions, part: str) -> int:
    return next((word for word in options.members.get(part, ()) if isinstance(word, int)), 1)


def _shard(tar: Path, extensions: Mapping[str, Sequence[str]]) -> _Shard:
    """Returns the samples of a tar file, all of which have all parts."""
    samples = _by_key(read_index(tar))
    if not samples:
        raise DataError(f"{tar}: has no members named KEY.EXTENSION; give the folder of shards as data.options.root")
    places = np.empty((len(samples), len(extensions), 3), dtype=np.int64)
    for row, (key, members) in enumerate(samples.items()):
        for column, (part, names) in enumerate(extensions.items()):
            number = next((number for number, name in enumerate(names) if name in members), None)
            if number is None:
                raise DataError(
                    f"{tar}, {key}: has no {' or '.join(names)}, only {', '.join(list(members)[:10])}; say what the "
                    f"members of {part} are called with data.options.members, or write the sample again"
                )
            places[row, column] = (number, *members[names[number]])
    return _Shard(tar=tar, keys=np.array(list(samples)), places=places)


def _by_key(places: Places) -> dict[str, Places]:
    """Returns the places of each sample's members by extension."""
    samples: dict[str, Places] = {}
    for name, place in places.items():
        if match := NAME.fullmatch(name):
            samples.setdefault(match[1], {})[match[2]] = place
    return samples


def _read(member: Member, *, kind: str, divisor: int) -> Tensor:
    """Reads one part of a sample: an image in [0, 1], or a target as described in `data.contract`."""
    is_array = member.name.endswith(".npy")
    if kind == "colours":
        return read_image(member)
    if kind == "grey":
        return read_label_image(member)[None] / 255
    if kind == "classification":
        return _read_class(member) if member.name.endswith(".cls") else whole_labels(member, read_npy(member))
    if kind == "attributes":
        return read_npy(member).float()
    if kind == "semantic":
        return whole_labels(member, read_npy(member)) if is_array else read_label_image(member)
    if kind == "normals":
        return read_npy_normals(member) if is_array else read_image_normals(member)
    if kind == "depth" and is_array:
        return read_npy_depth(member) / divisor
    return (read_npy_maps(member) if is_array else read_label_image(member)[None]) / divisor


def _read_class(member: Member) -> Tensor:
    def load() -> Tensor:
        with member.open() as file:
            return torch.tensor(int(file.read(20)))

    return guarded(member, load, "a class, which is a whole number")
