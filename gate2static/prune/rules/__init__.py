"""Rules, one kind of node per file, tried in order; the barrier takes what is left."""

from gate2static.prune.rules.attention import Attention
from gate2static.prune.rules.barrier import Barrier
from gate2static.prune.rules.broadcast_map import BroadcastMap
from gate2static.prune.rules.channel_parameters import ChannelParameters
from gate2static.prune.rules.concat import Concat
from gate2static.prune.rules.dense import Dense
from gate2static.prune.rules.gate import GateRule
from gate2static.prune.rules.group_norm import GroupNorm
from gate2static.prune.rules.grouped import Grouped
from gate2static.prune.rules.identity import Identity
from gate2static.prune.rules.layer_norm import LayerNorm
from gate2static.prune.rules.matrix_product import MatrixProduct
from gate2static.prune.rules.padding import Padding
from gate2static.prune.rules.placeholder import Placeholder
from gate2static.prune.rules.rearrange import Rearrange
from gate2static.prune.rules.rule import Matches, Rule
from gate2static.prune.rules.size_read import SizeRead
from gate2static.prune.rules.stored_tensor import StoredTensor
from gate2static.prune.rules.take_stream import TakeStream
from gate2static.prune.rules.unary_map import UnaryMap

RULES: tuple[type[Rule], ...] = (
    Placeholder,
    StoredTensor,
    TakeStream,
    GateRule,
    SizeRead,
    Identity,
    ChannelParameters,
    Dense,
    Grouped,
    LayerNorm,
    GroupNorm,
    Concat,
    Padding,
    Rearrange,
    BroadcastMap,
    UnaryMap,
    MatrixProduct,
    Attention,
    Barrier,
)

__all__ = ["RULES", "Barrier", "Dense", "Matches", "Rule"]
