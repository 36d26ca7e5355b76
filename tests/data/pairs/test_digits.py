"""The demo's digits: splits, seeds, targets and options."""

import pytest
import torch

from gate2static.data import describe_data, load_data
from gate2static.data.pairs.pairs import Pairs
from gate2static.errors import RecipeError
from gate2static.recipe import DataRecipe

SMALL = {"train_images": 300, "val_images": 100, "test_images": 150}


def splits(**options: int) -> dict[str, Pairs]:
    found = load_data(DataRecipe(name="digits", options={**SMALL, **options}))
    return {name: getattr(found, name) for name in ("train", "val", "test")}


def test_no_scan_is_in_two_splits() -> None:
    parts = splits(train_images=2000, test_images=2000).values()
    sources = [set(part.sources.flatten().tolist()) for part in parts]
    assert all(len(source) > 100 for source in sources)
    assert len(set.union(*sources)) == sum(map(len, sources))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    first, again, other = splits(), splits(), splits(seed=1)
    for name in first:
        assert torch.equal(first[name].images, again[name].images)
        assert all(torch.equal(first[name].targets[t], again[name].targets[t]) for t in ("left", "right", "mask"))
        assert not torch.equal(first[name].images, other[name].images)


def test_loading_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    splits()
    assert torch.equal(before, torch.get_rng_state())


def test_samples_are_what_the_description_says() -> None:
    recipe = DataRecipe(name="digits", options=SMALL)
    spec, data = describe_data(recipe), load_data(recipe)
    assert len(data.train) == 300  # type: ignore[arg-type]
    image, targets = data.val[99]
    assert tuple(image.shape) == spec.image_shape
    assert set(targets) == set(spec.targets)
    assert targets["left"].dtype == torch.int64
    assert 0 <= int(targets["left"]) < spec.targets["left"].channels
    assert targets["mask"].shape == (1, 32, 32)
    assert set(targets["mask"].unique().tolist()) == {0.0, 1.0}


def test_the_mask_is_the_left_digits_ink() -> None:
    part = splits()["train"]
    ink = part.images > 0
    mask = part.targets["mask"].bool()
    assert bool((ink | ~mask).all()), "a mask pixel without ink"
    columns = torch.arange(32.0)
    middle = (mask.float() * columns).sum((1, 2, 3)) / mask.sum((1, 2, 3))
    rest = ((ink & ~mask).float() * columns).sum((1, 2, 3)) / (ink & ~mask).sum((1, 2, 3)).clamp(min=1)
    assert float((middle < rest).float().mean()) > 0.98


def test_images_are_scaled_to_minus_one_to_one() -> None:
    images = splits()["train"].images
    assert float(images.min()) == -1
    assert 0.9 < float(images.max()) <= 1


def test_an_unknown_data_set_names_the_ones_there_are() -> None:
    with pytest.raises(RecipeError, match=r"data\.name: found digit; did you mean digits\? allowed: .*digits"):
        load_data(DataRecipe(name="digit"))


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"data\.options: unknown key train_image; did you mean train_images\?"):
        describe_data(DataRecipe(name="digits", options={"train_image": 3}))
