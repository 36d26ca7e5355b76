"""One rule a kind of node, tried in order; the barrier takes what is left."""

from gate2static.prune.rules.barrier import Barrier
from gate2static.prune.rules.channelwise import Channelwise
from gate2static.prune.rules.concat import Concat
from gate2static.prune.rules.dense import Dense
from gate2static.prune.rules.elementwise import Elementwise
from gate2static.prune.rules.flatten import Flatten
from gate2static.prune.rules.gate import GateRule
from gate2static.prune.rules.norm import OwnNorm
from gate2static.prune.rules.rule import Ids, Numbering, Rule
from gate2static.prune.rules.structure import Identity, Placeholder, SizeRead, StoredTensor, TakeStream

RULES: tuple[type[Rule], ...] = (
    Placeholder,
    StoredTensor,
    TakeStream,
    GateRule,
    SizeRead,
    Identity,
    Dense,
    OwnNorm,
    Concat,
    Flatten,
    Elementwise,
    Channelwise,
    Barrier,
)

__all__ = ["RULES", "Barrier", "Dense", "Ids", "Numbering", "Rule"]
