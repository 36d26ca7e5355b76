"""The search as a study of Optuna: who proposes points, and who has which trial.

A *slot* is the number of a trial, from 0. A trial that its worker gave back or died with has failed in Optuna's sense,
and stands in the queue again under the same slot. Optuna lets one process alone fail a running trial, and one alone
take a waiting one, so that workers need no lock among each other. This module is imported only where Optuna is
installed.
"""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from gate2static.errors import SearchError
from gate2static.front.objectives import KINDS
from gate2static.messages import brief
from gate2static.recipe import SearchRecipe
from gate2static.search.space import Space, Span, grid_points
from gate2static.search.storage import GONE, opened, shown, unusable

SLOT = "slot"
"""The attribute of a trial that takes another one's place: its slot."""
ERROR = "error"
"""The attribute of a trial that failed for good: why."""
BEAT = "beat"
"""The attribute of a running trial that counts its worker's signs of life."""
WORKER = "worker"
"""The attribute of a running trial that says who its worker is."""
_HOLDING = (TrialState.RUNNING, TrialState.WAITING, TrialState.COMPLETE, TrialState.PRUNED)
"""The states of trials that have their slot; a trial that failed for good has it too."""
@contextmanager
def opened_study(
    name: str, storage: str, search: SearchRecipe, space: Space, seed: int, epochs: int
) -> Iterator[Study]:
    """Opens the study of a search while a block runs; the first worker creates it.

    Args:
        name: The study's name in its storage.
        storage: The address of a data base, as SQLAlchemy takes it, or the path of a journal.
        search: The search.
        space: Its space.
        seed: The seed of proposals.
        epochs: The epochs of a gated network.

    Raises:
        SearchError: The storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directions = [
        StudyDirection.MAXIMIZE if KINDS[objective].higher_is_better else StudyDirection.MINIMIZE
        for objective in search.objectives
    ]
    sampler = SlotSampler(search, space, seed)
    try:
        reached = opened(storage)
        study = optuna.create_study(
            study_name=name,
            storage=reached,
            sampler=sampler,
            pruner=_pruner(epochs) if search.stop_early else NopPruner(),
            directions=directions,
            load_if_exists=True,
        )
    # Addresses are read by several libraries, a driver may be missing, and tables may be those of another Optuna.
    except (OptunaError, SQLAlchemyError, OSError, ImportError, RuntimeError, ValueError) as error:
        raise unusable(shown(storage), error) from error
    try:
        yield study
    finally:
        if isinstance(reached, RDBStorage):
            with suppress(SQLAlchemyError):  # a server that is gone has closed its connections
                reached.remove_session()
            reached.engine.dispose()


def _pruner(epochs: int) -> BasePruner:
    # Hyperband hides the trials of other brackets from the sampler, which counts them for its slots.
    # Rounded up, or else a third look would come shortly before the end.
    return SuccessiveHalvingPruner(min_resource=math.ceil(epochs / 9), reduction_factor=3)


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
            slot = slots(trials_of(study))[trial.number]
            self._current = (trial.number, slot, self._new(slot))
        return self._current[1:]

    def _new(self, slot: int) -> BaseSampler:
        seed = int(np.random.SeedSequence([self._seed, slot]).generate_state(1)[0])
        if self._search.sampler == "nsga2":
            return NSGAIISampler(seed=seed, population_size=min(50, max(4, self._search.slots // 10)))
        return TPESampler(seed=seed) if self._search.sampler == "tpe" else RandomSampler(seed=seed)


def trials_of(study: Study) -> list[FrozenTrial]:
    """Returns the trials of a study as they are in its storage now.

    Raises:
        SearchError: Somebody removed the study, or damaged its journal.
    """
    try:
        return study.get_trials(deepcopy=False)
    except (LookupError, ValueError) as error:
        raise SearchError(
            f"the search's storage no longer holds the search {study.study_name} as it was: {brief(error)}; what is "
            "trained is kept: give the search another storage"
        ) from error


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
    params = trials_of(study)[number].params
    if not _ended(study, number, TrialState.FAIL):
        return False
    study.enqueue_trial(params, user_attrs={SLOT: slot})
    return True


def is_hopeless(trial: Trial, epochs: int, gain: float) -> bool:
    """Returns whether Optuna's pruner stops a trial whose gain after so many epochs is this.

    A storage that is gone stops no trial, and neither does one in which the trial belongs to another worker by now:
    that one waits for this training.
    """
    try:
        trial.report(gain, epochs)
        return trial.should_prune()
    except (*GONE, UpdateFinishedTrialError):
        return False


def end(study: Study, trial: Trial, values: Sequence[float] | None, error: str) -> bool:
    """Ends a trial; returns False where somebody gave it to another worker meanwhile.

    Args:
        study: The study.
        trial: The trial.
        values: Its objectives; None where it failed or was stopped.
        error: Why it failed; empty where it did not.
    """
    if values is not None:
        return _ended(study, trial.number, TrialState.COMPLETE, values)
    if not error:
        return _ended(study, trial.number, TrialState.PRUNED)
    if trials_of(study)[trial.number].state == TrialState.RUNNING:
        trial.set_user_attr(ERROR, error)
    return _ended(study, trial.number, TrialState.FAIL)


def _ended(study: Study, number: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
    """Ends a running trial; returns False where it has ended already."""
    try:
        study.tell(number, values, state=state)
    except (UpdateFinishedTrialError, ValueError):
        now = trials_of(study)[number].state
        if now.is_finished():
            # Others only fail a trial: the storage was gone before it said that it had this result.
            return now == state != TrialState.FAIL
        raise
    return True


def lost(trials: Sequence[FrozenTrial], count: int) -> list[int]:
    """Returns the slots without a trial that runs, waits or has ended: their workers died while they gave them back."""
    numbers = slots(trials)
    return sorted(set(range(count)) - {numbers[trial.number] for trial in trials if _has_its_slot(trial)})


def is_spare(trials: Sequence[FrozenTrial], number: int) -> bool:
    """Returns whether a trial with a lower number has the slot of a trial.

    Two workers that miss a slot at once put it into the queue twice. Storages number trials in the order in which they
    appear, so at most one trial of a slot is no spare at any time.
    """
    numbers = slots(trials)
    return any(
        trial.number < number and numbers[trial.number] == numbers[number] and _has_its_slot(trial) for trial in trials
    )


def _has_its_slot(trial: FrozenTrial) -> bool:
    return trial.state in _HOLDING or ERROR in trial.user_attrs


def _text(value: Any) -> str:
    """Returns a value as a text, since data bases hold no lists."""
    return json.dumps(value, sort_keys=True)
