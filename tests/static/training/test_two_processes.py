"""Two processes with torch's DistributedDataParallel train one static network."""

from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn

from gate2static.prune import prune
from gate2static.static import load_static
from tests import zoo


def train(rank: int, folder: str) -> None:
    """Takes two steps on other data than the other process, and saves what came out."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    trainable = load_static(Path(folder) / "static").trainable()
    network = nn.parallel.DistributedDataParallel(trainable)
    optimiser = torch.optim.SGD([p for p in trainable.parameters() if p.requires_grad], lr=0.1)
    torch.manual_seed(rank)
    for _ in range(2):
        outputs = network(torch.randn(4, 3, 12, 12))
        sum(output.square().mean() for output in outputs.values()).backward()
        optimiser.step()
        optimiser.zero_grad()
    torch.save(trainable.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path: Path) -> None:
    static = prune(zoo.make_gated("two_scales")[0])
    static.save(tmp_path / "static")
    multiprocessing.spawn(train, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    weights = dict(static.trainable().named_parameters())
    assert all(torch.equal(first[name], second[name]) for name in weights)
    assert any(not torch.equal(first[name], weight) for name, weight in weights.items())
