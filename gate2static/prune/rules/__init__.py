"""One rule a kind of node, tried in order; the barrier takes what is left."""

from gate2static.prune.rules.attention import Attention, MatrixProduct
from gate2static.prune.rules.barrier import Barrier
from gate2static.prune.rules.broadcast_map import Elementwise
from gate2static.prune.rules.channel_parameters import PerChannel
from gate2static.prune.rules.concat import Concat
from gate2static.prune.rules.dense import Dense
from gate2static.prune.rules.gate import GateRule
from gate2static.prune.rules.grouped import Grouped
from gate2static.prune.rules.norms import GroupNorm, LayerNorm
from gate2static.prune.rules.padding import Padding
from gate2static.prune.rules.rearrange import Rearrange
from gate2static.prune.rules.rule import Rule
from gate2static.prune.rules.structure import Identity, Placeholder, SizeRead, StoredTensor, TakeStream
from gate2static.prune.rules.unary_map import Channelwise

RULES: tuple[type[Rule], ...] = (
    Placeholder,
    StoredTensor,
    TakeStream,
    GateRule,
    SizeRead,
    Identity,
    PerChannel,
    Dense,
    Grouped,
    LayerNorm,
    GroupNorm,
    Concat,
    Padding,
    Rearrange,
    Elementwise,
    Channelwise,
    MatrixProduct,
    Attention,
    Barrier,
)

__all__ = ["RULES", "Barrier", "Dense", "Rule"]
