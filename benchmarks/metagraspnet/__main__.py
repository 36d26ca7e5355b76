"""Gates, trains, prunes and scores the MetaGraspNet network of Mao et al.

    python -m benchmarks.metagraspnet OUT                                    three tiny rectangles, in minutes
    python -m benchmarks.metagraspnet OUT --root /data/mgn --train 0:4000 --test 4000:4200 --size 512 --pretrained

Writes OUT/static and OUT/features.onnx, the backbone up to the feature pyramid, and OUT/heads.safetensors, the weights
of the heads, which run in torch. docs/metagraspnet.md says what each step does.
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

import gate2static as g2s
from benchmarks.metagraspnet.tiny_scenes import SIZE, write_viewpoint
from gate2static.data.metagraspnet import CATEGORIES, MetaGraspNet, Objects, collate
from gate2static.models.detection import GROUPS, LOSSES, DetectionHeads, MeanPrecision, rgbd_resnet18_fpn

Batch = tuple[Tensor, list[Objects]]
_WARMUP_STEPS = 100
_LOG_STEPS = 10


def train(gated: g2s.GatedModel, heads: DetectionHeads, batches: Iterator[Batch], settings: argparse.Namespace) -> None:
    """Trains on the sum of the seven losses and the hinge, as the paper's baseline with SGD and a linear warm-up."""
    weights = torch.optim.SGD([*g2s.weight_parameters(gated), *heads.parameters()], lr=settings.lr, momentum=0.9)
    gates = torch.optim.SGD(g2s.gate_parameters(gated), lr=0.1)
    targets = dict.fromkeys(GROUPS, 0.0)
    gated.train()
    heads.train()
    for step in range(1, settings.steps + 1):
        weights.param_groups[0]["lr"] = settings.lr * min(1.0, step / _WARMUP_STEPS)
        images, objects = next(batches)
        losses = heads(gated(images), tuple(images.shape[-2:]), objects)
        total = torch.stack([losses[name] for name in LOSSES]).sum()
        total = total + settings.weight * g2s.sparsity_hinge(gated, targets=targets)
        for optimiser in (weights, gates):
            optimiser.zero_grad()
        total.backward()
        for optimiser in (weights, gates):
            optimiser.step()
        if step % _LOG_STEPS == 0 or step == settings.steps:
            print(f"step {step}: " + " ".join(f"{name} {losses[name].item():.3f}" for name in LOSSES), flush=True)


@torch.no_grad()
def score(network: nn.Module, heads: DetectionHeads, data: MetaGraspNet) -> dict[str, float]:
    """Returns mAP and mAR of boxes and masks, of any network that gives each group its features."""
    heads.eval()
    precision = MeanPrecision()
    for index in range(len(data)):
        image, objects = data[index]
        precision.update(heads(network(image[None]), tuple(image.shape[-2:])), [objects])
    return precision.compute()


def endless(loader: DataLoader[Batch]) -> Iterator[Batch]:
    """Yields the batches of a loader again and again."""
    return itertools.chain.from_iterable(itertools.repeat(loader))


def span(text: str) -> range:
    """Reads `first:end` as a range of scene numbers."""
    first, _, end = text.partition(":")
    return range(int(first), int(end))


def main() -> None:
    """Runs every step and prints the scores of the gated and of the static network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--root", type=Path, help="the folder of scene0, scene1, …; without, tiny scenes are written")
    parser.add_argument("--train", type=span, default=range(8), help="scenes to train on, first:end")
    parser.add_argument("--test", type=span, default=range(8, 10), help="scenes to test on, first:end")
    parser.add_argument("--classes", choices=("objects", "categories"), default="objects")
    parser.add_argument("--size", type=int, help="the side of images; without, that of the tiny scenes")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-4, help="the paper's 1e-4; tiny scenes learn faster with 1e-3")
    parser.add_argument("--weight", type=float, default=0.05, help="λ of the sparsity hinge")
    parser.add_argument("--pretrained", action="store_true", help="start both ResNets from ImageNet's weights")
    settings = parser.parse_args()

    torch.manual_seed(0)
    root = settings.root
    if root is None:
        root = settings.out / "scenes"
        for scene in (*settings.train, *settings.test):
            write_viewpoint(root / f"scene{scene}", 0, shift=scene, hdf5=settings.classes == "categories")
    size = (settings.size, settings.size) if settings.size else SIZE
    train_data, test_data = (
        MetaGraspNet(root, scenes=scenes, size=size, classes=settings.classes)
        for scenes in (settings.train, settings.test)
    )
    # Each group of heads is a task with a stream of its own, whose output is the pyramid as it is.
    gated = g2s.gate(
        rgbd_resnet18_fpn(pretrained=settings.pretrained).eval(),
        tasks=GROUPS,
        example_inputs=(torch.stack([train_data[0][0]] * 2),),
        heads={group: nn.Identity() for group in GROUPS},
    )
    heads = DetectionHeads(CATEGORIES if settings.classes == "categories" else 1)
    loader: DataLoader[Batch] = DataLoader(
        train_data,
        batch_size=settings.batch,
        shuffle=True,
        drop_last=len(train_data) > settings.batch,
        collate_fn=collate,
    )
    train(gated, heads, endless(loader), settings)

    static = g2s.prune(gated.eval())
    print(static.manifest.macs)
    print("verified" if g2s.verify(gated, static).passed else "the static network differs from the gated one")
    for name, network in (("gated", gated), ("static", static)):
        scores = score(network, heads, test_data)
        print(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in scores.items()))
    static.save(settings.out / "static")
    g2s.export_onnx(static, settings.out / "features.onnx")
    save_file(heads.state_dict(), settings.out / "heads.safetensors")


if __name__ == "__main__":
    main()
