"""A worker of a search: takes trials until all have ended. This module is imported only where Optuna is installed."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from gate2static.errors import BalanceError, BudgetError, DivergenceError, GateError, PruneError, RecipeError
from gate2static.front.objectives import means
from gate2static.front.records import TrialRecord
from gate2static.recipe import recipe_at
from gate2static.search.liveness import SILENCE_S, identity, is_alive, signs_of_life
from gate2static.search.space import Space, searched
from gate2static.search.storage import patiently
from gate2static.search.study import (
    BEAT,
    SLOT,
    WORKER,
    draw,
    end,
    give_back,
    is_hopeless,
    is_spare,
    lost,
    slots,
    trials_of,
)
from gate2static.search.trial import Searching, row_name, run_trial

POLL_S = 2.0
"""Seconds between two looks at what other workers do."""
_OF_THE_TRIAL = (BalanceError, BudgetError, DivergenceError, GateError, PruneError, RecipeError)
"""Errors that lie in a trial's recipe: the trial fails, and the search goes on."""
_Result = TypeVar("_Result")


class Worker:
    """A worker, and what it has seen of others.

    Args:
        searching: The search.
        space: Its space.
        study: Its study.
        storage: What hands out trials, for messages.
    """

    def __init__(self, searching: Searching, space: Space, study: Study, storage: str) -> None:
        self._searching = searching
        self._space = space
        self._study = study
        self._storage = storage
        self._count = searched(searching.recipe).slots
        self._identity: dict[str, Any] = {}
        # A running trial's number -> its worker's last sign of life, and when this worker first saw it, in s.
        self._seen: dict[int, tuple[Any, float]] = {}

    def work(self) -> None:
        """Takes trials until all have ended."""
        with identity() as self._identity:
            self._work()

    def _work(self) -> None:
        has_said = False
        while True:
            claim = self._patiently(self._claim)
            others = self._patiently(self._others_at_work) if claim is None else 0
            if claim is not None:
                self._try(*claim)
                has_said = False
            elif not others:
                return
            else:
                if not has_said:
                    self._searching.say(f"waiting for {others} trial{'s' * (others > 1)} of other workers")
                    has_said = True
                time.sleep(POLL_S)

    def _patiently(self, action: Callable[[], _Result]) -> _Result:
        # While the storage was gone, no worker could give a sign of life.
        return patiently(action, self._storage, say=self._searching.say, back=self._seen.clear)

    def _claim(self) -> tuple[Trial, int, dict[str, Any]] | None:
        """Returns a trial with its slot and its point; None where all are running or have ended."""
        trials = trials_of(self._study)
        given_back = self._give_back_those_of_the_dead(trials)
        fresh = sum(SLOT not in trial.user_attrs for trial in trials)
        is_queued = given_back or any(trial.state == TrialState.WAITING for trial in trials)
        if fresh >= self._count and not is_queued:
            return None
        trial = self._study.ask()
        trial.set_user_attr(WORKER, self._identity)  # at once: a death before is seen by silence alone
        trials = trials_of(self._study)
        slot = slots(trials)[trial.number]
        if slot >= self._count or is_spare(trials, trial.number):
            # Two workers asked for the last trial at once, or put the same slot into the queue.
            self._study.tell(trial, state=TrialState.FAIL)
            return None
        return trial, slot, draw(trial, self._space)

    def _others_at_work(self) -> int:
        """Returns how many trials are still to end; slots that got lost are in the queue then."""
        trials = trials_of(self._study)
        numbers = slots(trials)
        states = (TrialState.RUNNING, TrialState.WAITING)
        at_work = sum(trial.state in states and numbers[trial.number] < self._count for trial in trials)
        if at_work:
            return at_work
        missing = lost(trials, self._count)
        for slot in missing:
            self._study.enqueue_trial({}, user_attrs={SLOT: slot})
        return len(missing)

    def _give_back_those_of_the_dead(self, trials: Sequence[FrozenTrial]) -> bool:
        """Puts the trials of dead workers into the queue; returns whether there were any."""
        numbers = slots(trials)
        has_given_back = False
        for trial in trials:
            if trial.state == TrialState.RUNNING and self._is_dead(trial):
                slot = numbers[trial.number]
                if give_back(self._study, trial.number, slot):
                    has_given_back = True
                    self._searching.say(f"trial {slot + 1} of {self._count} is given back: its worker is gone")
        return has_given_back

    def _is_dead(self, trial: FrozenTrial) -> bool:
        """Returns whether the worker of a running trial is gone: its process is, or it gives no sign of life."""
        worker = trial.user_attrs.get(WORKER)
        if worker == self._identity:
            return True  # this worker has no trial now: it took one while the storage went away
        if (alive := is_alive(worker)) is not None:
            return not alive
        now = time.monotonic()
        sign = (worker, trial.user_attrs.get(BEAT))
        if trial.number not in self._seen or self._seen[trial.number][0] != sign:
            # Clocks of other machines do not matter: what counts is for how long this one sees no change.
            self._seen[trial.number] = (sign, now)
        return now - self._seen[trial.number][1] > SILENCE_S

    def _try(self, trial: Trial, slot: int, point: dict[str, Any]) -> None:
        """Runs a trial and ends it, or gives it back where this worker cannot go on."""
        searching = self._searching
        objectives = searched(searching.recipe).objectives
        words = ", ".join(f"{key}={json.dumps(value)}" for key, value in point.items())
        searching.say(f"trial {slot + 1} of {self._count}: {words}")
        try:
            with signs_of_life(trial):
                watch = partial(is_hopeless, trial) if searched(searching.recipe).stop_early else None
                record = run_trial(searching, slot, point, watch)
            values = means(record, objectives)
            error = ""
            if record.stopped_after:
                searching.say(f"trial {slot + 1} of {self._count} is stopped early: others are better")
            elif not values:
                error = "a metric of the single-task networks is 0, so Δ_MTL and gains have no value"
        except _OF_THE_TRIAL as failure:
            values, error = None, str(failure)
        except BaseException:
            with suppress(Exception):  # the error that is on its way matters more
                give_back(self._study, trial.number, slot)
            raise
        if error:
            failed = TrialRecord(slot=slot, point=point, row=row_name(recipe_at(searching.recipe, point)), error=error)
            failed.save(searching.run_dir)
            searching.say(f"trial {slot + 1} of {self._count} failed: {error}")
        if not self._patiently(lambda: end(self._study, trial, values, error)):
            searching.say(f"trial {slot + 1} of {self._count} was given to another worker meanwhile")
