"""What data sets of files share: finding the first missing file, reading a sample's files, and holding out images."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field
from torch import Tensor
from torch.utils.data import Dataset

from gate2static.data.augmented import Augment, Augmented
from gate2static.data.checks import check_image, check_size, check_target
from gate2static.data.contract import DataSpec, Sample, Splits
from gate2static.data.decoding import Reader
from gate2static.data.transforms import normalise
from gate2static.errors import DataError
from gate2static.recipe import Strict

Part = TypeVar("Part")
Files = Mapping[str, Path]
"""The files of one sample: `image`, and one for each target."""


class FileOptions(Strict):
    """Where the files lie, and how they are used."""

    root: str
    """The data set's folder."""
    augment: bool = True
    """Change training images at random, in the way of the paper or benchmark."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the augmentation."""


class HoldOutOptions(FileOptions):
    """For data sets that come without a validation split."""

    val_images: Annotated[int, Field(ge=0)] = 0
    """So many training images, the first of the list, are validation data instead. With 0 the test images are, and
    nothing is selected on them."""


class FileSamples(Dataset[Sample]):
    """Samples read from files when they are asked for."""

    def __init__(
        self,
        files: Sequence[Files],
        readers: Mapping[str, Reader],
        spec: DataSpec,
        *,
        prepare: Callable[[Sample], Sample] | None = None,
        native: bool = False,
    ) -> None:
        """Holds the files of each sample.

        Args:
            files: For each sample the file of `image` and of every target in `spec`.
            readers: How to read them: `image` in [0, 1], targets as `data.contract` has them. Functions of a module or
                partials of them, so that workers can be started in any way.
            spec: What the samples must be.
            prepare: Brings a sample to the size that `spec` says, with `transforms.resize`.
            native: Samples keep the size of their files, which augmentation then brings to that of the spec.
        """
        self.files, self.readers, self.spec, self.prepare, self.native = files, readers, spec, prepare, native

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        files = self.files[index]
        image = self.readers["image"](files["image"])
        check_image(image, files["image"])
        height, width = image.shape[-2:]
        targets: dict[str, Tensor] = {}
        for name, spec in self.spec.targets.items():
            targets[name] = self.readers[name](files[name])
            check_target(name, targets[name], spec, files[name], (height, width))
        sample = (normalise(image), targets)
        if self.prepare is not None:
            sample = self.prepare(sample)
        if not self.native:
            check_size(sample[0], files["image"], self.spec.image_shape[1:])
        return sample


def wanted(parts: Mapping[str, Part], spec: DataSpec) -> dict[str, Part]:
    """Of what there is for `image` and for every target, what a data set with these targets needs."""
    return {name: part for name, part in parts.items() if name == "image" or name in spec.targets}


def home_path(text: str) -> Path:
    """A path of a recipe, in which `~` is a home folder; one of a user who does not exist stays as it is."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 -- pathlib's fails where there is no such user


def existing_root(options: FileOptions) -> Path:
    """The data set's folder.

    Raises:
        DataError: There is no such folder.
    """
    root = home_path(options.root)
    if not root.is_dir():
        raise DataError(f"data.options.root: found {root}, which is no folder; give the data set's folder")
    return root


def require_files(layout: str, paths: Iterable[Path]) -> None:
    """Checks that files are there; each folder is listed once, however many of its files are asked for.

    Raises:
        DataError: One is missing; the layout that was recognised and the first missing file are named.
    """
    names: dict[Path, set[str]] = {}
    for path in paths:
        folder = path.parent
        if folder not in names:
            names[folder] = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        if path.name not in names[folder]:
            raise DataError(f"{path} is missing; the folder has the {layout} layout, half unpacked: unpack it again")


def read_lines(layout: str, path: Path) -> list[str]:
    """The lines of a text file that are not empty, without surrounding blanks.

    Raises:
        DataError: The file is missing, no text, or empty.
    """
    require_files(layout, [path])
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text: {error}") from None
    if not any(lines):
        raise DataError(f"{path}: empty; unpack the data set again")
    return [line for line in lines if line]


def file_splits(
    train: Sequence[Files],
    test: Sequence[Files],
    make: Callable[[Sequence[Files]], Dataset[Sample]],
    augment: Augment,
    options: HoldOutOptions,
    *,
    make_native: Callable[[Sequence[Files]], Dataset[Sample]] | None = None,
) -> Splits:
    """Three splits of two lists of files: training data augmented, validation data held out if the options say so.

    Args:
        train: The training images' files.
        test: The test images' files.
        make: Makes a data set of files, such as a partial of `FileSamples`.
        augment: What augmentation does.
        options: Whether to augment, and how many images to hold out.
        make_native: Makes the data set that is augmented, where augmentation comes before the change of size.

    Raises:
        DataError: No training image would be left.
    """
    held = options.val_images
    if held >= len(train):
        raise DataError(f"data.options.val_images: found {held}; allowed: fewer than the {len(train)} training images")
    tested, kept = make(test), train[held:]
    return Splits(
        train=Augmented((make_native or make)(kept), augment, options.seed) if options.augment else make(kept),
        val=make(train[:held]) if held else tested,
        test=tested,
    )
