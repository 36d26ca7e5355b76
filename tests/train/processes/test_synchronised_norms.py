"""One process is enough to compare with torch's own: what several add up is tested in test_distributed.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist

from gate2static.train.processes.synchronised_norms import SynchronisedBatchNorm


@pytest.fixture(scope="module", autouse=True)
def _group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    file: Path = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def both(norm: nn.Module, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Output, gradients and buffers of two calls, without and with the mode."""
    results = []
    for mode in (False, True):
        copied = nn.Sequential()
        copied.norm = type(norm)(x.shape[1], affine=norm.weight is not None).train(norm.training)
        copied.norm.load_state_dict(norm.state_dict())
        given = x.clone().requires_grad_()
        for _ in range(2):
            if mode:
                with SynchronisedBatchNorm():
                    out = copied.norm(given)
            else:
                out = copied.norm(given)
        (out * torch.linspace(-1, 2, out.numel()).view_as(out)).sum().backward()
        results.append([out, given.grad, *(p.grad for p in copied.parameters()), *copied.buffers()])
    return results[0], results[1]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm2d(3), (4, 3, 5, 5)),
        (nn.BatchNorm2d(3, affine=False), (4, 3, 5, 5)),
        (nn.BatchNorm1d(3), (6, 3)),
        (nn.BatchNorm3d(3), (2, 3, 2, 3, 2)),
    ],
)
def test_it_computes_what_torch_computes(norm: nn.Module, shape: tuple[int, ...], training: bool) -> None:
    expected, found = both(norm.train(training), 3 + 10 * torch.randn(shape))
    for a, b in zip(expected, found, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_libraries_norms_are_synchronised_too() -> None:
    from timm.layers import BatchNormAct2d

    norm = BatchNormAct2d(3)
    x = torch.randn(4, 3, 5, 5)
    expected = norm(x)
    with SynchronisedBatchNorm():
        assert torch.allclose(norm(x), expected, atol=1e-6)
        # Only torch's own refuses a single value a channel: other processes have more.
        assert norm(torch.ones(1, 3, 1, 1)).isfinite().all()


def test_half_precision_stays_what_it_is() -> None:
    with SynchronisedBatchNorm():
        assert nn.BatchNorm2d(3)(torch.randn(4, 3, 5, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16
