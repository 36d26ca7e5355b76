"""PASCAL-Context with five dense tasks, as in the PASCAL_MT archive (Maninis et al. 2019).

Pictures differ in size (at most 500 pixels wide and high) and are resized to 512×512, which changes their aspect ratio,
as in the paper's code base (Vandenhende et al. 2020). Saliency and normals are distilled from other networks. Normals
have x to the right and y down; z is as in the archive.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from gate2static.data.boundaries import class_boundaries
from gate2static.data.contract import DataSpec, Sample, Splits, TargetSpec
from gate2static.data.decoding import read_image, read_image_normals, read_label_image, read_mat, whole_labels
from gate2static.data.files import (
    Files,
    FileSamples,
    HoldOutOptions,
    existing_root,
    file_splits,
    read_lines,
    require_files,
    wanted,
)
from gate2static.data.pascal import classes
from gate2static.data.pascal.parts import read_human_parts
from gate2static.data.transforms import Augmentation, between, resize
from gate2static.errors import DataError

LAYOUT = "PASCAL_MT"
SIZE = (512, 512)
LABEL_MAPS = Path("pascal-context", "trainval")

SPEC = DataSpec(
    image_shape=(3, *SIZE),
    targets={
        "semantic": TargetSpec(kind="semantic", channels=len(classes.SEMANTIC), classes=classes.SEMANTIC),
        "human_parts": TargetSpec(kind="semantic", channels=len(classes.HUMAN_PARTS), classes=classes.HUMAN_PARTS),
        "saliency": TargetSpec(kind="saliency", channels=1),
        "normals": TargetSpec(kind="normals", channels=3),
        "edges": TargetSpec(kind="edges", channels=1),
    },
)


def describe(_options: HoldOutOptions) -> DataSpec:
    """Describes images of 512×512 with 21 classes, 6 human parts, saliency, normals and edges."""
    return SPEC


def load(options: HoldOutOptions, spec: DataSpec) -> Splits:
    """Lists the files of both splits: 4,998 images for training and 5,105 for testing in the whole archive.

    Raises:
        DataError: The folder is not this data set or half unpacked.
    """
    root = existing_root(options)
    lists = root / "ImageSets" / "Context"
    if not lists.is_dir() and not (root / LABEL_MAPS).is_dir():
        raise DataError(
            f"{root}: no data set was recognised; allowed: the PASCAL_MT folder, which holds ImageSets/Context, "
            "JPEGImages, pascal-context/trainval, semseg, human_parts, sal_distill and normals_distill"
        )
    train, test = (_files(root, read_lines(LAYOUT, lists / f"{split}.txt"), spec) for split in ("train", "val"))
    to_size = partial(resize, kinds=spec.kinds, size=SIZE)
    make = partial(FileSamples, readers=READERS, spec=spec)
    # Turned before it is stretched, because turning a stretched picture would shear its surfaces.
    turn = Augmentation(kinds=spec.kinds, zoom=between(0.75, 1.25), degrees=between(-20, 20))
    return file_splits(
        train,
        test,
        partial(make, prepare=to_size),
        partial(_augment, turn=turn, to_size=to_size),
        options,
        make_native=partial(make, native=True),
    )


def _augment(
    sample: Sample, generator: torch.Generator, *, turn: Augmentation, to_size: Callable[[Sample], Sample]
) -> Sample:
    return to_size(turn(sample, generator))


def _files(root: Path, names: Iterable[str], spec: DataSpec) -> Sequence[Files]:
    # Semantic labels are in one of two folders, by their origin.
    from_voc = {path.stem for path in (root / "semseg" / "VOC12").glob("*.png")}
    files = [
        {
            "image": root / "JPEGImages" / f"{name}.jpg",
            "semantic": root / "semseg" / ("VOC12" if name in from_voc else "pascal-context") / f"{name}.png",
            "human_parts": root / "human_parts" / f"{name}.mat",
            "saliency": root / "sal_distill" / f"{name}.png",
            "normals": root / "normals_distill" / f"{name}.png",
            "edges": root / LABEL_MAPS / f"{name}.mat",
        }
        for name in names
    ]
    label_maps = [sample["edges"] for sample in files if "normals" in spec.targets]
    files = [wanted(sample, spec) for sample in files]
    require_files(LAYOUT, [*(path for sample in files for path in sample.values()), *label_maps])
    return files


def _read_label_map(path: Path) -> Tensor:
    labels = whole_labels(path, read_mat(path, "LabelMap"))
    sound = (
        labels.dim() == 2 and labels.numel() > 0 and bool(((labels >= 0) & (labels <= classes.CONTEXT_LABELS)).all())
    )
    if not sound:
        stored = ", ".join(map(str, labels.unique()[:5].tolist()))
        raise DataError(
            f"{path}: found a LabelMap of shape {tuple(labels.shape)} with labels {stored or 'none'}; allowed: (H, W) "
            f"with labels from 0 to {classes.CONTEXT_LABELS}"
        )
    return labels


def _read_edges(path: Path) -> Tensor:
    """Reads edges: 1 where the label differs from the label to the right or below, in lines of one pixel."""
    return class_boundaries(_read_label_map(path))


def _read_saliency(path: Path) -> Tensor:
    return (read_label_image(path) > 127)[None].float()


def _read_normals(path: Path) -> Tensor:
    """Reads distilled normals for the classes that the network of their origin knew, and zero elsewhere."""
    normals = read_image_normals(path)
    labels = _read_label_map(path.parents[1] / LABEL_MAPS / f"{path.stem}.mat")
    if normals.shape[1:] != labels.shape:
        raise DataError(
            f"{path}: found normals of {tuple(normals.shape[1:])}; its LabelMap asks for {tuple(labels.shape)}"
        )
    return normals * torch.isin(labels, torch.tensor(sorted(classes.NORMALS_LABELS)))


READERS = {
    "image": read_image,
    "semantic": read_label_image,
    "human_parts": read_human_parts,
    "saliency": _read_saliency,
    "normals": _read_normals,
    "edges": _read_edges,
}
