"""Shared code of data sets of files: search for missing files, reading of samples, and held-out images."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field
from torch import Tensor
from torch.utils.data import Dataset

from gate2static.data.augmented import Augment, with_augmentation
from gate2static.data.checks import check_image, check_size, check_target
from gate2static.data.contract import DataSpec, Sample, Splits
from gate2static.data.decoding import Reader, Source
from gate2static.data.transforms import normalise
from gate2static.errors import DataError
from gate2static.recipe import Strict

Part = TypeVar("Part")
Files = Mapping[str, Path]
"""The files of one sample: `image`, and one per target."""


class RootOptions(Strict):
    """The option of all data sets that are read from a folder."""

    root: str
    """The data set's folder."""


class FileOptions(RootOptions):
    """The options of all data sets of files."""

    augment: bool = True
    """Whether to augment training images, as in the paper or the benchmark."""
    seed: Annotated[int, Field(ge=0)] = 0
    """The seed of the augmentation."""


class HoldOutOptions(FileOptions):
    """The options of data sets of files without a validation split."""

    val_images: Annotated[int, Field(ge=0)] = 0
    """The number of training images, from the start of the list, that are validation data instead. With 0 the test
    images are the validation data, and nothing is selected on them."""


class FileSamples(Dataset[Sample]):
    """Samples that are read from files on access.

    Args:
        files: For each sample, the files, or members of archives, of `image` and of every target in `spec`.
        readers: By part, the function that reads it: `image` in [0, 1], targets as described in `data.contract`.
            Readers are functions of a module or partials of them, so that worker processes can be started in any way.
        spec: The description that samples must fit.
        prepare: Resizes a sample to the size in `spec`, with `transforms.resize`; None leaves it as it is.
        native: Whether samples keep the size of their files, because augmentation resizes them later.
    """

    def __init__(
        self,
        files: Sequence[Mapping[str, Source]],
        readers: Mapping[str, Reader],
        spec: DataSpec,
        *,
        prepare: Callable[[Sample], Sample] | None = None,
        native: bool = False,
    ) -> None:
        self.files = files
        self.readers = readers
        self.spec = spec
        self.prepare = prepare
        self.native = native

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        image, targets = self.picture(index)
        return normalise(image, self.spec.pixels), targets

    def picture(self, index: int) -> Sample:
        """Returns a sample whose image is not normalised yet: colours in [0, 1]."""
        files = self.files[index]
        image = self.readers["image"](files["image"])
        check_image(image, files["image"], self.spec.image_shape[0])
        height, width = image.shape[-2:]
        targets: dict[str, Tensor] = {}
        for name, spec in self.spec.targets.items():
            targets[name] = self.readers[name](files[name])
            check_target(name, targets[name], spec, files[name], (height, width))
        sample = (image, targets)
        # Targets are checked at the size of their files, where a wrong file is still recognised.
        if self.prepare is not None:
            sample = self.prepare(sample)
        if not self.native:
            check_size(sample[0], files["image"], self.spec.image_shape[1:])
        return sample


def wanted(parts: Mapping[str, Part], spec: DataSpec) -> dict[str, Part]:
    """Selects the parts that a data set with the targets of `spec` needs: `image`, and those targets."""
    return {name: part for name, part in parts.items() if name == "image" or name in spec.targets}


def home_path(text: str) -> Path:
    """Returns a path of a recipe with `~` expanded; the home folder of an unknown user is left as it is."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 -- pathlib's function fails for unknown users


def existing_root(options: RootOptions) -> Path:
    """Returns the data set's folder.

    Raises:
        DataError: The folder does not exist.
    """
    root = home_path(options.root)
    if not root.is_dir():
        raise DataError(f"data.options.root: found {root}, which is not a folder; give the data set's folder")
    return root


def require_files(layout: str, paths: Iterable[Path]) -> None:
    """Checks that files exist; each folder is listed once, however many of its files are checked.

    Args:
        layout: The recognised layout, for the error message.
        paths: The files.

    Raises:
        DataError: A file is missing; the message names the layout and the first missing file.
    """
    names: dict[Path, set[str]] = {}
    for path in paths:
        folder = path.parent
        if folder not in names:
            names[folder] = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        if path.name not in names[folder]:
            raise DataError(f"{path} is missing; the folder has the {layout} layout, half unpacked: unpack it again")


def read_lines(layout: str, path: Path) -> list[str]:
    """Returns the lines of a text file that are not empty, without surrounding blanks.

    Args:
        layout: The recognised layout, for the error message.
        path: The file.

    Raises:
        DataError: The file is missing, not text, or empty.
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
    """Builds three splits from two lists of files, with held-out validation images if the options ask for them.

    Args:
        train: The training images' files.
        test: The test images' files.
        make: Builds a data set from files, such as a partial of `FileSamples`.
        augment: The augmentation of training samples.
        options: Whether to augment, and how many images to hold out.
        make_native: Builds the data set to augment, where augmentation comes before resizing; None uses `make`.

    Raises:
        DataError: No training image would remain.
    """
    held_out = options.val_images
    if held_out >= len(train):
        raise DataError(
            f"data.options.val_images: found {held_out}; allowed: fewer than the {len(train)} training images"
        )
    train_files = train[held_out:]
    make_train = (make_native or make) if options.augment else make
    train_data = with_augmentation(make_train(train_files), augment, enabled=options.augment, seed=options.seed)
    test_data = make(test)
    val_data = make(train[:held_out]) if held_out else test_data
    return Splits(train=train_data, val=val_data, test=test_data)
