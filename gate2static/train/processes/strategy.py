"""Fabric's strategy for several processes; a module of its own, since importing Fabric takes seconds."""

from typing import Any

from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn


class Strategy(DDPStrategy):
    """DistributedDataParallel, and nothing around a network that FSDP has divided already."""

    def setup_module(self, module: nn.Module) -> Any:
        """Wraps a network, unless it is divided."""
        from torch.distributed.fsdp import FSDPModule  # some builds of torch lack it

        return module if isinstance(module, FSDPModule) else super().setup_module(module)
