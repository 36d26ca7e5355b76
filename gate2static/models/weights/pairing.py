"""The fit of a state dict to a network: by name, or else by order."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from gate2static.errors import RecipeError

_COUNTER = "num_batches_tracked"
"""A buffer that files of before 2018 lack, and that nothing reads."""

State = Mapping[str, Tensor]


def fit(state: State, references: Sequence[State], where: str) -> dict[str, Tensor]:
    """Renames the tensors of a state dict to those of a network.

    1. If the names are the network's, tensors are paired by name.
    2. Otherwise they are paired in order. Ports of a network to another library rename its layers and rarely reorder
       them. There must be as many tensors as in the network, and those of a pair must have the same shape and the same
       last part of their names, such as `running_mean`.

    Args:
        state: The file's tensors by name, in the file's order.
        references: State dicts of the network, such as with and without its classifier; the first one that has as many
            tensors as the file is used, or else the first one.
        where: The file and the network, for the error message.

    Returns:
        All tensors of `state` by the network's names.

    Raises:
        RecipeError: The tensors are not those of the network.
    """
    if not any(name.endswith(_COUNTER) for name in state):
        references = [_without_counters(reference) for reference in references]
    reference = next((other for other in references if len(other) == len(state)), references[0])
    if state.keys() == reference.keys():
        state = {name: state[name] for name in reference}
    if len(state) != len(reference):
        stranger = next((name for name in state if name not in reference), None)
        missing = next((name for name in reference if name not in state), None)
        first = f"the file's {stranger} is not in it" if stranger else f"its {missing} is not in the file"
        raise RecipeError(
            f"{where}: found {len(state)} tensors, the network has {len(reference)}; {first}; give weights of this "
            "very network"
        )
    for number, (name, wanted) in enumerate(zip(state, reference, strict=True), start=1):
        if not _alike(name, state[name], wanted, reference[wanted]):
            raise RecipeError(
                f"{where}: tensor {number} of {len(state)} is {name} {_shape(state[name])}, the network's is {wanted} "
                f"{_shape(reference[wanted])}; allowed: the network's names, or its order, with equal shapes and last "
                "parts of names; give weights of this very network"
            )
    return dict(zip(reference, state.values(), strict=True))


def _without_counters(reference: State) -> State:
    return {name: value for name, value in reference.items() if not name.endswith(_COUNTER)}


def _alike(name: str, value: Tensor, other_name: str, other: Tensor) -> bool:
    return value.shape == other.shape and name.rpartition(".")[2] == other_name.rpartition(".")[2]


def _shape(value: Tensor) -> str:
    return f"({', '.join(str(side) for side in value.shape)})"
