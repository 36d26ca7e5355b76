"""Deaths of a process, without the seconds that a new one takes to import torch."""

import os
from collections.abc import Callable


def exit_code_of_fork(action: Callable[[], object]) -> int:
    """Returns how a copy of this process ends that does one thing: 0, or minus the signal that killed it.

    The copy has one thread. It may read and write files, and must not train: autograd's threads stay behind.
    """
    process = os.fork()
    if process == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
