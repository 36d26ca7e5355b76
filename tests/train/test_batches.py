from gate2static.train.batches import epoch_order


def test_an_epoch_sees_every_image_once() -> None:
    order = epoch_order(50, 16, seed=0, epoch=0)
    assert [len(batch) for batch in order] == [16, 16, 16, 2]
    assert sorted(index for batch in order for index in batch) == list(range(50))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    assert epoch_order(50, 16, seed=3, epoch=4) == epoch_order(50, 16, seed=3, epoch=4)
    assert epoch_order(50, 16, seed=3, epoch=4) != epoch_order(50, 16, seed=3, epoch=5)
    assert epoch_order(50, 16, seed=3, epoch=4) != epoch_order(50, 16, seed=4, epoch=4)


def test_a_last_batch_of_one_image_is_left_out() -> None:
    assert [len(batch) for batch in epoch_order(33, 16, seed=0, epoch=0)] == [16, 16]
    assert [len(batch) for batch in epoch_order(1, 16, seed=0, epoch=0)] == [1]
