"""The decoders: sizes of maps, tracing, and which decoder a backbone gets."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx

from gate2static.errors import RecipeError
from gate2static.models import MultiTaskNetwork, build_model
from gate2static.models.decoders import DECODERS
from gate2static.models.heads import DenseHead, resize
from gate2static.recipe import DataRecipe, DecoderRecipe, ModelRecipe, Recipe, TaskRecipe, parse

LEFT, MASK = TaskRecipe(name="left", kind="classification"), TaskRecipe(name="mask", kind="mask")


def recipe(model: ModelRecipe, *tasks: TaskRecipe) -> Recipe:
    return Recipe(name="test", data=DataRecipe(name="digits"), tasks=tasks or (LEFT, MASK), model=model)


def resnet20(decoder: str, **options: int) -> ModelRecipe:
    return ModelRecipe(name="resnet20", options={"width": 0.25}, decoder=DecoderRecipe(name=decoder, options=options))


def pyramid(size: tuple[int, int] = (36, 44)) -> list[Tensor]:
    return [torch.randn(2, c, -(-size[0] // s), -(-size[1] // s)) for c, s in ((6, 2), (8, 4), (12, 8))]


def patches(size: tuple[int, int] = (36, 44)) -> list[Tensor]:
    return [torch.randn(2, 16, -(-size[0] // 16), -(-size[1] // 16)) for _ in range(4)]


DENSE: dict[str, Callable[[], list[Tensor]]] = {"light": pyramid, "aspp": pyramid, "hrnet": pyramid, "dpt": patches}


@pytest.mark.parametrize("name", DENSE)
def test_maps_have_the_images_size_whatever_it_divides_by(name: str) -> None:
    features = DENSE[name]()
    head = DECODERS[name][0]([f.shape for f in features], 5, (36, 44))
    assert head(features).shape == (2, 5, 36, 44)


@pytest.mark.parametrize("name", DENSE)
def test_what_is_drawn_of_a_padded_image_is_cut_and_not_stretched(name: str) -> None:
    features = patches()
    shapes = [f.shape for f in features]
    head, whole = (DECODERS[name][0](shapes, 5, size).eval() for size in ((36, 44), (48, 48)))
    whole.load_state_dict(head.state_dict())
    assert torch.equal(head(features), whole(features)[:, :, :36, :44])


@pytest.mark.parametrize("strides", [(16, 1), (32, 4, 1), (32, 16, 8, 4, 1)])
@pytest.mark.parametrize("side", [210, 425, 448])
def test_maps_of_whole_strides_keep_their_place(strides: tuple[int, ...], side: int) -> None:
    first, cells = strides[0], [-(-side // stride) for stride in strides]
    x = (torch.arange(cells[0]) * first + (first - 1) / 2).expand(1, 1, cells[0], -1)  # the pixel each cell lies at
    for before, after in itertools.pairwise(cells):
        x = resize(x, (before, before), (after, after))
    inside = slice(first, (cells[0] - 2) * first)
    assert torch.allclose(x[0, 0, 0][inside], torch.arange(side)[inside].float(), atol=0.01)


def test_maps_that_no_stride_explains_are_stretched() -> None:
    x = torch.randn(1, 1, 18, 18)
    stretched = torch.nn.functional.interpolate(x, size=(37, 37), mode="bilinear")
    assert torch.equal(resize(x, (18, 18), (37, 37)), stretched)


@pytest.mark.parametrize("name", DENSE)
def test_decoders_can_be_traced_and_exported_for_any_batch(name: str) -> None:
    features = DENSE[name]()
    head = DECODERS[name][0]([f.shape for f in features], 5, (36, 44)).eval()
    expected = head(features)
    assert torch.equal(fx.symbolic_trace(head)(features), expected)
    batch = torch.export.Dim("batch", min=1, max=8)
    exported = torch.export.export(head, (features,), dynamic_shapes=([{0: batch} for _ in features],))
    one = [f[:1] for f in features]
    assert torch.allclose(exported.module()(one), expected[:1], atol=1e-5)


def test_every_dense_decoder_is_tested() -> None:
    assert set(DECODERS) - set(DENSE) == {"linear"}


@pytest.mark.parametrize(
    ("name", "options", "decoder"),
    [
        ("resnet20", {"width": 0.25}, "DenseHead"),
        ("resnet18_dilated", {"width": 0.125}, "AsppHead"),
        ("resnet50_dilated", {"width": 0.0625}, "AsppHead"),
        ("hrnet_w18", {}, "HrnetHead"),
        ("vit_small", {}, "DptHead"),
        ("timm/resnet18", {}, "DenseHead"),
    ],
)
def test_auto_is_the_decoder_that_the_paper_uses_with_a_backbone(
    name: str, options: dict[str, float], decoder: str
) -> None:
    backbone, heads, examples = build_model(recipe(ModelRecipe(name=name, options=options)))
    assert {task: type(head).__name__ for task, head in heads.items()} == {"left": "LinearHead", "mask": decoder}
    outputs = MultiTaskNetwork(backbone, heads)(*examples)
    assert {task: tuple(o.shape) for task, o in outputs.items()} == {"left": (2, 10), "mask": (2, 1, 32, 32)}


def test_another_decoder_and_its_options_can_be_asked_for() -> None:
    _, heads, _ = build_model(recipe(resnet20("hrnet")))
    assert type(heads["mask"]).__name__ == "HrnetHead"
    _, heads, _ = build_model(recipe(resnet20("light", width=5)))
    assert isinstance(heads["mask"], DenseHead)
    assert heads["mask"].out.in_channels == 5


def test_linear_heads_are_enough_where_no_task_draws() -> None:
    for name in ("auto", "linear", "aspp"):
        _, heads, _ = build_model(recipe(resnet20(name), LEFT))
        assert type(heads["left"]).__name__ == "LinearHead"


def test_a_recipe_from_before_decoders_builds_what_it_built() -> None:
    old = parse(ModelRecipe, {"name": "resnet20", "options": {"width": 0.25}}, where="model")
    _, before, _ = build_model(recipe(old))
    _, after, _ = build_model(recipe(resnet20("light")))
    assert before["mask"].state_dict().keys() == after["mask"].state_dict().keys()
    assert torch.equal(before["mask"].out.weight, after["mask"].out.weight)


@pytest.mark.parametrize(
    ("decoder", "options", "message"),
    [
        (
            "apsp",
            {},
            r"model\.decoder\.name: found apsp; did you mean aspp\? allowed: aspp, auto, dpt, hrnet, light, lin",
        ),
        ("linear", {}, r"found linear, but mask draws a map; allowed: auto, light, aspp, hrnet, dpt"),
        ("light", {"widht": 4}, r"model\.decoder\.options: unknown key widht; did you mean width\?"),
        ("aspp", {"width": 4}, r"model\.decoder\.options: unknown key width; allowed: none"),
        ("dpt", {"width": 0}, r"model\.decoder\.options: width: found 0"),
        ("dpt", {}, r"model\.decoder: dpt reads four .*, the backbone's are 4×32×32, 8×16×16, 16×8×8; use vit_small"),
    ],
)
def test_a_decoder_that_does_not_exist_or_fit_is_refused(decoder: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_model(recipe(resnet20(decoder, **options)))
