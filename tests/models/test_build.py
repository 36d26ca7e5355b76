"""Networks from recipes: layers, costs, first weights, and names that are refused."""

import pytest
import torch
from torch import Tensor, fx

from gate2static.errors import RecipeError
from gate2static.models import MultiTaskNetwork, ResNet20, build_model
from gate2static.recipe import DataRecipe, ModelRecipe, Recipe, TaskRecipe


def recipe(name: str = "resnet20", seed: int = 0, **options: float | bool) -> Recipe:
    return Recipe(
        name="test",
        seed=seed,
        data=DataRecipe(name="digits"),
        tasks=(TaskRecipe(name="left", kind="classification"), TaskRecipe(name="mask", kind="mask")),
        model=ModelRecipe(name=name, options=options),
    )


def first_weights(made: Recipe) -> list[Tensor]:
    backbone, heads, _ = build_model(made)
    return [*backbone.parameters(), *heads["left"].parameters(), *heads["mask"].parameters()]


def test_resnet20_has_twenty_weight_layers_and_its_usual_cost() -> None:
    model = ResNet20(in_channels=3)
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    # 19 and the linear head are the paper's 20; the two projections are not counted there.
    assert len([c for c in convolutions if c.kernel_size == (3, 3)]) == 19
    assert len([c for c in convolutions if c.kernel_size == (1, 1)]) == 2
    backbone = sum(p.numel() for c in convolutions if c.kernel_size == (3, 3) for p in c.parameters())
    assert backbone == 9 * (3 * 16 + 6 * 16**2 + 16 * 32 + 5 * 32**2 + 32 * 64 + 5 * 64**2)


@pytest.mark.parametrize(("blocks", "layers"), [(1, 8), (9, 56)])
def test_blocks_make_the_other_networks_of_the_paper(blocks: int, layers: int) -> None:
    backbone, _, _ = build_model(recipe(width=0.25, blocks=blocks))
    convolutions = [m for m in backbone.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) + 1 == layers


@pytest.mark.parametrize(("width", "channels"), [(0.25, (4, 8, 16)), (0.5, (8, 16, 32)), (1.0, (16, 32, 64))])
def test_width_multiplies_the_stages(width: float, channels: tuple[int, ...]) -> None:
    features = ResNet20(in_channels=1, width=width)(torch.zeros(2, 1, 32, 32))
    assert [f.shape[1] for f in features] == list(channels)
    assert [f.shape[2] for f in features] == [32, 16, 8]


def test_outputs_fit_the_data_sets_targets() -> None:
    backbone, heads, examples = build_model(recipe(width=0.25))
    outputs = MultiTaskNetwork(backbone, heads)(*examples)
    assert {name: tuple(o.shape[1:]) for name, o in outputs.items()} == {"left": (10,), "mask": (1, 32, 32)}


def test_first_weights_depend_on_the_recipes_seed_alone() -> None:
    first = first_weights(recipe(width=0.25))
    torch.manual_seed(99)
    again, other = first_weights(recipe(width=0.25)), first_weights(recipe(width=0.25, seed=1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_building_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    build_model(recipe(width=0.25))
    assert torch.equal(before, torch.get_rng_state())


def test_building_leaves_batch_norm_untouched_and_training() -> None:
    backbone, _, _ = build_model(recipe(width=0.25))
    assert backbone.training
    assert all(int(b) == 0 for name, b in backbone.named_buffers() if name.endswith("num_batches_tracked"))


def test_every_part_can_be_traced() -> None:
    backbone, heads, _ = build_model(recipe(width=0.25))
    fx.symbolic_trace(backbone)
    for head in heads.values():
        fx.symbolic_trace(head)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet", {}, r"model\.name: found resnet; did you mean resnet20\? allowed: hrnet_w18, resnet18_dilated, "),
        ("os/system", {}, "model.name: found os/system"),
        ("timm/hf-hub:someone/model", {}, "model.name: found timm/hf-hub:someone/model; "),
        ("timm/resnet81", {}, r"found timm/resnet81; did you mean resnet\w+\? "),
        ("torchvision/resnet18", {}, "takes images of 3 channels, the data set's have 1"),
        ("torchvision/vit_b_16", {}, "found torchvision/vit_b_16; .*allowed: alexnet"),
        ("torchvision/raft_large", {}, "found torchvision/raft_large"),
        ("resnet20", {"widht": 1.0}, r"model\.options: unknown key widht; did you mean width\?"),
        ("resnet20", {"width": 0.0}, r"model\.options: width: found 0"),
        ("timm/resnet18", {"width": 1.0}, r"options: unknown key width; allowed: mean, pretrained, std, weights"),
    ],
)
def test_a_model_that_does_not_exist_is_refused(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_model(recipe(name, **options))
