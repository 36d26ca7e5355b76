"""First weights of every kind of backbone from a file, through a recipe."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from gate2static.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from gate2static.errors import RecipeError
from gate2static.models import build_model
from gate2static.models.weights import LibraryOptions
from gate2static.recipe import DataRecipe, ModelRecipe, Recipe, TaskRecipe, parse
from gate2static.recipe.schema import Option

TINY = "test_efficientnet"


def backbone(name: str, **options: Option) -> nn.Module:
    recipe = Recipe(
        name="test",
        data=DataRecipe(name="scenes"),
        tasks=(TaskRecipe(name="depth", kind="depth"),),
        model=ModelRecipe(name=name, options=options),
    )
    return build_model(recipe)[0].eval()


def weights(model: nn.Module, path: Path, *, rename: bool) -> str:
    """Saves a network with random norms, under another library's names if asked for."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    state = model.state_dict()
    torch.save({f"_x{name}" if rename else name: value for name, value in state.items()}, path)
    return str(path)


def assert_same(maps: list[Tensor], expected: list[Tensor]) -> None:
    assert len(maps) == len(expected)
    for feature_map, other in zip(maps, expected, strict=True):
        assert torch.allclose(feature_map, other, rtol=1e-3, atol=1e-4 * float(other.detach().abs().max()))


@pytest.mark.parametrize("rename", [False, True])
def test_resnet20_starts_from_the_file(tmp_path: Path, rename: bool) -> None:
    source = backbone("resnet20", width=0.25)
    file = weights(source, tmp_path / "net.pth", rename=rename)
    images = torch.randn(2, 3, 64, 64)
    assert_same(backbone("resnet20", width=0.25, weights=file)(images), source(images))


@pytest.mark.parametrize("rename", [False, True])
def test_a_dilated_resnet_starts_from_the_classifiers_file(tmp_path: Path, rename: bool) -> None:
    source = timm.create_model("resnet18")
    file = weights(source, tmp_path / "net.pth", rename=rename)
    ours = backbone("resnet18_dilated", weights=file).state_dict()
    state = source.state_dict()
    assert ours
    assert all(torch.equal(value, state[name]) for name, value in ours.items())


def test_a_torchvision_network_starts_from_the_classifiers_file(tmp_path: Path) -> None:
    source = torchvision.models.squeezenet1_1()
    file = weights(source, tmp_path / "net.pth", rename=True)
    images = torch.randn(2, 3, 64, 64)
    coarse = backbone("torchvision/squeezenet1_1", weights=file)(images)[-1]
    assert torch.allclose(coarse.mean((2, 3)), source.eval()(images), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("rename", "classes"), [(True, 1000), (False, 0)])
def test_a_timm_network_starts_from_a_file_with_or_without_classifier(
    tmp_path: Path, rename: bool, classes: int
) -> None:
    source = timm.create_model(TINY, num_classes=classes)
    file = weights(source, tmp_path / "net.pth", rename=rename)
    reference = timm.create_model(TINY, features_only=True)
    reference.load_state_dict(source.state_dict(), strict=False)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert_same(backbone(f"timm/{TINY}", weights=file)(images), reference.eval()(images))


@pytest.mark.parametrize(
    ("name", "options"),
    [("tf_efficientnet_lite0", {}), (TINY, {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})],
    ids=["timm's", "stated"],
)
def test_weights_take_the_data_sets_images(tmp_path: Path, name: str, options: dict[str, Option]) -> None:
    source = timm.create_model(name)
    file = weights(source, tmp_path / "net.pth", rename=False)
    image = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    model = backbone(f"timm/{name}", weights=file, **options)
    with torch.no_grad():
        ours = model.bn1(model.conv_stem((image - mean) / std))
        theirs = source.eval().bn1(source.conv_stem((image - 0.5) / 0.5))
    assert torch.allclose(ours[..., 1:-1, 1:-1], theirs[..., 1:-1, 1:-1], atol=1e-4)


def test_a_run_needs_its_file_of_weights_only_once(tmp_path: Path) -> None:
    recipe = Recipe(
        name="test",
        data=DataRecipe(name="scenes"),
        tasks=(TaskRecipe(name="depth", kind="depth"),),
        model=ModelRecipe(name="resnet20", options={"weights": str(tmp_path / "gone.pth")}),
    )
    build_model(recipe, initial_weights=False)
    with pytest.raises(RecipeError, match=r"cannot read the weights file .*gone\.pth"):
        build_model(recipe)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    file = weights(timm.create_model("resnet18"), tmp_path / "net.pth", rename=False)
    with pytest.raises(
        RecipeError, match=r"weights: .*net\.pth for timm/test_eff.*: found 122 tensors, .* has 88; the"
    ):
        backbone(f"timm/{TINY}", weights=file)
    with pytest.raises(RecipeError, match=r"net\.pth for resnet20: found 122 tensors"):
        backbone("resnet20", weights=file)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"weights": "a.pth", "pretrained": True}, "pretrained and weights both give first weights; leave one out"),
        ({"weights": "a.pth", "mean": [0.5, 0.5, 0.5]}, "mean and std belong together"),
        ({"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}, "mean and std describe the images of trained weights"),
        ({"weights": "a.pth", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0, 0.5]}, r"std\.1: found 0"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, object], match: str) -> None:
    with pytest.raises(RecipeError, match=match):
        parse(LibraryOptions, options, where="model.options")
