"""The errors that a user can meet: one root, one subclass per broken contract.

A message says what is wrong, what was found, what is allowed, and what to do.
"""


_LONGEST = 900
"""The most characters of a message: names and values from files may be of any length."""


class Gate2StaticError(Exception):
    """Root of all errors raised on purpose; the command line prints it as one line and exits with `exit_status`."""

    exit_status = 2

    def __str__(self) -> str:
        """Returns the message, without its middle where it is long: both its ends matter, the fault and the advice."""
        message = super().__str__()
        if len(message) <= _LONGEST:
            return message
        half = _LONGEST // 2
        return f"{message[:half]} [...] {message[-half:]}"


class RecipeError(Gate2StaticError):
    """A recipe that is missing, not YAML, or has an unknown key, a wrong type or an impossible value."""


class DataError(Gate2StaticError):
    """A data set that is missing, half unpacked, or holds values its tasks do not allow."""


class TraceError(Gate2StaticError):
    """A backbone that cannot be lifted: untraceable code, unsupported inputs or outputs."""


class GateError(Gate2StaticError):
    """Arguments of `gate`, the hinge or the gate setters that do not fit the model: tasks, heads, targets, shapes."""


class BalanceError(Gate2StaticError):
    """A multi-task optimisation method that does not exist, or does not fit the losses, the network or the training."""


class ArchitectureError(Gate2StaticError):
    """A multi-task architecture that does not exist, or that a backbone, its places or the tasks do not allow."""


class CheckpointError(Gate2StaticError):
    """A checkpoint that is missing, truncated, not ours, unsafe, from a newer format, or for another model."""


class TrainingError(Gate2StaticError):
    """Training that cannot continue, such as a loss that is not finite."""


class DivergenceError(TrainingError):
    """A training whose losses or weights are no longer finite numbers."""


class StoppedError(TrainingError):
    """A training that was stopped after an epoch because others are better."""


class SearchError(Gate2StaticError):
    """A search that cannot go on (its storage is gone, its recipe is another one), or whose files are not ours."""


class PruneError(Gate2StaticError):
    """A gated model that cannot become a static one."""


class ArtefactError(Gate2StaticError):
    """A static model that is missing, incomplete, altered, unsafe, from a newer format, or used on other inputs."""


class VerificationError(Gate2StaticError):
    """Two networks that should compute the same function and do not."""

    exit_status = 1


class ExportError(Gate2StaticError):
    """An export or engine build that failed or was asked for something the format cannot hold."""


class MissingDependencyError(Gate2StaticError):
    """A library or device that this machine lacks; the message says how to get it."""


class BenchError(Gate2StaticError):
    """A latency measurement that cannot be made: unknown backend, unreadable model, no device."""


class BudgetError(Gate2StaticError):
    """A budget that no setting of the gates meets, or one for other tasks than the network's."""
