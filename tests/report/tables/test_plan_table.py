"""The table of a pruning plan."""

import torch
from torch import nn

from gate2static.gates import gate, set_gates
from gate2static.prune import plan, prune
from gate2static.report import plan_table


def test_plan_shows_the_channels_that_stay_of_every_stream():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    heads = {"a": nn.Conv2d(4, 1, 1), "b": nn.Conv2d(4, 1, 1)}
    gated = gate(backbone, tasks=["a", "b"], example_inputs=(torch.randn(2, 3, 8, 8),), heads=heads).eval()
    first, second = gated.gates
    own = torch.tensor([[True, False, False, False], [False, False, False, False]])
    set_gates(gated, {first: torch.zeros(2, 4, dtype=torch.bool), second: own})

    table = plan_table(plan(gated))
    columns = {column.header: list(column.cells) for column in table.columns}
    assert columns["layer"][:2] == [first, second]
    assert [columns[stream][0] for stream in ("a", "b", "shared")] == ["0", "0", "4"]
    assert [columns[stream][1] for stream in ("a", "b", "shared")] == ["1", "0", "4"]
    total = sum(int(macs.replace(",", "")) for macs in columns["MACs"])
    assert total == prune(gated).manifest.macs.static
