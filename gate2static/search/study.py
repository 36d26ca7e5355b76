"""The search as a study of Optuna: where it is stored, who proposes points, and who has which trial.

A *slot* is the number of a trial, from 0. A trial that its worker gave back or died with has failed in Optuna's sense,
and stands in the queue again under the same slot. Optuna lets one process alone fail a running trial, and one alone
take a waiting one, so that workers need no lock among each other. This module is imported only where Optuna is
installed.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from gate2static.errors import SearchError
from gate2static.front.objectives import KINDS
from gate2static.messages import brief
from gate2static.recipe import SearchRecipe
from gate2static.search.space import Space, Span, grid_points

SLOT = "slot"
"""The attribute of a trial that takes another one's place: its slot."""
ERROR = "error"
"""The attribute of a trial that failed for good: why."""
BEAT = "beat"
"""The attribute of a running trial that counts its worker's signs of life."""
WORKER = "worker"
"""The attribute of a running trial that says who its worker is."""
_OPENINGS = 3
"""How often a data base is opened: two workers that create its tables at once disturb each other."""


class _Lock(JournalFileSymlinkLock):
    """The lock on a journal, which removes half a line: Optuna refuses a journal for good once it goes on behind it."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def acquire(self) -> bool:
        """Locks the journal; half a line at its end then belongs to a worker that was killed."""
        acquired = super().acquire()
        try:
            with self._path.open("r+b") as file:
                size = file.seek(0, os.SEEK_END)
                end = size
                while end and not _ends_a_line(file, end):
                    end -= 1
                if end < size:
                    file.truncate(end)
        except BaseException:
            self.release()
            raise
        return acquired


def _ends_a_line(file: Any, end: int) -> bool:
    file.seek(end - 1)
    return bool(file.read(1) == b"\n")


@contextmanager
def storage_errors(storage: str) -> Iterator[None]:
    """Turns what storages raise into one line.

    Raises:
        SearchError: The storage cannot be read or written.
    """
    try:
        yield
    except (OptunaError, SQLAlchemyError, OSError, ImportError, LookupError, ValueError) as error:
        reason = getattr(error.__cause__, "orig", None) or getattr(error, "orig", None) or error.__cause__ or error
        raise SearchError(
            f"the search's storage {storage} cannot be used: {brief(reason)}; what is trained is kept: start the same "
            "command again once it is there"
        ) from error


def shown(storage: str) -> str:
    """Returns a storage for messages, without the password in it."""
    if "://" not in storage:
        return storage
    try:
        return make_url(storage).render_as_string(hide_password=True)
    except (SQLAlchemyError, ValueError):
        return storage.partition("://")[0] + "://…"


@contextmanager
def opened_study(name: str, storage: str, search: SearchRecipe, space: Space, seed: int) -> Iterator[Study]:
    """Opens the study of a search while a block runs; the first worker creates it.

    Args:
        name: The study's name in its storage.
        storage: The address of a data base, as SQLAlchemy takes it, or the path of a journal.
        search: The search.
        space: Its space.
        seed: The seed of proposals.

    Raises:
        SearchError: The storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directions = [
        StudyDirection.MAXIMIZE if KINDS[objective].higher_is_better else StudyDirection.MINIMIZE
        for objective in search.objectives
    ]
    with storage_errors(shown(storage)):
        opened = _opened(storage)
        sampler = SlotSampler(search, space, seed)
        study = optuna.create_study(
            study_name=name, storage=opened, sampler=sampler, directions=directions, load_if_exists=True
        )
    try:
        yield study
    finally:
        if isinstance(opened, RDBStorage):
            with suppress(SQLAlchemyError):  # a server that is gone has closed its connections
                opened.remove_session()
            opened.engine.dispose()


def _opened(storage: str) -> BaseStorage:
    if "://" not in storage:
        # The lock is a link to the journal, and a link to a relative path would lead elsewhere.
        path = Path(storage).absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return JournalStorage(JournalFileBackend(str(path), _Lock(path)))
    for _ in range(_OPENINGS - 1):
        with suppress(SQLAlchemyError):
            return _data_base(storage)
    return _data_base(storage)


def _data_base(url: str) -> RDBStorage:
    # Between two trials lie hours, after which a connection may be closed.
    return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})


class SlotSampler(BaseSampler):
    """Proposes each trial's point from its slot and from the trials that have ended.

    Optuna's samplers draw from one generator per process. With one per slot, a search that was interrupted goes on as
    it would have gone on, and several workers do not draw the same.
    """

    def __init__(self, search: SearchRecipe, space: Space, seed: int) -> None:
        self._search = search
        self._seed = seed
        self._grid = grid_points(space) if search.sampler == "grid" else []
        self._current: tuple[int, int, BaseSampler] | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Asks Optuna's sampler."""
        return self._sampler(study, trial)[1].infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Asks Optuna's sampler."""
        return self._sampler(study, trial)[1].sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Takes the value of the grid's point, or asks Optuna's sampler."""
        slot, sampler = self._sampler(study, trial)
        if self._grid:
            # A slot behind the grid's end is given back at once.
            return _text(self._grid[slot % len(self._grid)][param_name])
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Tells Optuna's sampler."""
        self._sampler(study, trial)[1].after_trial(study, trial, state, values)

    def _sampler(self, study: Study, trial: FrozenTrial) -> tuple[int, BaseSampler]:
        if self._current is None or self._current[0] != trial.number:
            slot = slots(study.get_trials(deepcopy=False))[trial.number]
            self._current = (trial.number, slot, self._new(slot))
        return self._current[1:]

    def _new(self, slot: int) -> BaseSampler:
        seed = int(np.random.SeedSequence([self._seed, slot]).generate_state(1)[0])
        if self._search.sampler == "nsga2":
            return NSGAIISampler(seed=seed, population_size=min(50, max(4, self._search.slots // 10)))
        return TPESampler(seed=seed) if self._search.sampler == "tpe" else RandomSampler(seed=seed)


def slots(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """Returns the slot of every trial by its number.

    The trials that take nobody's place are numbered through; what others do meanwhile changes none of these numbers.
    """
    numbers = {}
    fresh = 0
    for trial in sorted(trials, key=lambda trial: trial.number):
        numbers[trial.number] = trial.user_attrs.get(SLOT, fresh)
        fresh += SLOT not in trial.user_attrs
    return numbers


def draw(trial: Trial, space: Space) -> dict[str, Any]:
    """Returns the point of a trial, which is in the storage then."""
    point: dict[str, Any] = {}
    for key, values in space.items():
        if not isinstance(values, Span):
            point[key] = json.loads(trial.suggest_categorical(key, [_text(value) for value in values]))
        elif values.whole:
            point[key] = trial.suggest_int(key, int(values.low), int(values.high), log=values.log)
        else:
            point[key] = values.rounded(trial.suggest_float(key, values.low, values.high, log=values.log))
    return point


def give_back(study: Study, number: int, slot: int) -> bool:
    """Puts a running trial into the queue again; returns False where somebody else did."""
    params = study.get_trials(deepcopy=False)[number].params
    if not _ended(study, number, TrialState.FAIL):
        return False
    study.enqueue_trial(params, user_attrs={SLOT: slot})
    return True


def end(study: Study, trial: Trial, values: Sequence[float] | None, error: str) -> bool:
    """Ends a trial; returns False where somebody gave it to another worker meanwhile.

    Args:
        study: The study.
        trial: The trial.
        values: Its objectives; None where it failed.
        error: Why it failed.
    """
    if values is not None:
        return _ended(study, trial.number, TrialState.COMPLETE, values)
    if study.get_trials(deepcopy=False)[trial.number].state == TrialState.RUNNING:
        trial.set_user_attr(ERROR, error)
    return _ended(study, trial.number, TrialState.FAIL)


def _ended(study: Study, number: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
    """Ends a running trial; returns False where it has ended already."""
    try:
        study.tell(number, values, state=state)
    except (UpdateFinishedTrialError, ValueError):
        if study.get_trials(deepcopy=False)[number].state.is_finished():
            return False
        raise
    return True


def lost(trials: Sequence[FrozenTrial], count: int) -> list[int]:
    """Returns the slots without a trial that runs, waits or has ended: their workers died while they gave them back."""
    numbers = slots(trials)
    kept = {
        numbers[trial.number]
        for trial in trials
        if trial.state in (TrialState.RUNNING, TrialState.WAITING, TrialState.COMPLETE) or ERROR in trial.user_attrs
    }
    return sorted(set(range(count)) - kept)


def _text(value: Any) -> str:
    """Returns a value as a text, since data bases hold no lists."""
    return json.dumps(value, sort_keys=True)
