"""The cost of MTAN and cross-stitch beside the papers' figures.

Run:  python -m benchmarks.paper.architectures     (a minute)
"""

import torch
from torch import Tensor, nn

from benchmarks import ROOT
from gate2static.architectures import architecture
from gate2static.models import MultiTaskNetwork, build_model
from gate2static.program.annotate import measure_macs
from gate2static.recipe import load_recipe

# Recipe -> the image size that is measured, of which MACs are a fraction, and the paper's.
NETWORKS = {
    "nyud_resnet50.yaml": ((96, 128), (480, 640)),
    "pascal_resnet18.yaml": ((128, 128), (512, 512)),
}


def giga_flops(network: nn.Module, image: Tensor, pixels: int) -> float:
    """Returns twice the MACs of one image of so many pixels, in units of 10⁹."""
    with torch.no_grad():
        _, macs = measure_macs(lambda: network.eval()(image[:1]))
    return 2 * macs * pixels / image[0, 0].numel() / 1e9


def main() -> None:
    """Prints parameters and FLOPs of every network."""
    for name, (size, full) in NETWORKS.items():
        recipe = load_recipe(ROOT / "recipes" / name)
        backbone, heads, _ = build_model(recipe, initial_weights=False)
        image = torch.zeros(2, 3, *size)
        of_tasks = {task.name: heads[task.name] for task in recipe.tasks}
        networks: dict[str, nn.Module] = {"shared": MultiTaskNetwork(backbone, of_tasks)}
        for kind in ("mtan", "cross_stitch"):
            networks[kind] = architecture(kind, backbone, heads=of_tasks, example_inputs=(image,))
        for kind, network in networks.items():
            millions = sum(p.numel() for p in network.parameters()) / 1e6
            flops = giga_flops(network, image, full[0] * full[1])
            print(f"{name}: {kind}, {len(of_tasks)} tasks: {millions:.2f} M parameters, {flops:.1f} GFLOPs")


if __name__ == "__main__":
    main()
