"""Workers of one search: every trial ends once, whoever dies, and what is wrong is one line."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from gate2static.errors import DivergenceError, MissingDependencyError, RecipeError, SearchError, TrainingError
from gate2static.front.pareto import read_front
from gate2static.front.records import TrialRecord, load_trials
from gate2static.runtimes import optional
from gate2static.search import liveness, running, search, worker
from gate2static.search.space import checked_space
from gate2static.search.study import _pruner, is_hopeless, lost
from tests.forking import exit_code_of_fork
from tests.search.conftest import SPACE, TINY, recipe_with

Replace = Callable[..., None]


def _begun(folder: Path) -> Counter[int]:
    return Counter(int(line.split()[0]) for line in (folder / "begun").read_text().splitlines())


def _contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / "trials").iterdir()}


def _in_background(action: Callable[[], object]) -> int:
    process = os.fork()
    if process == 0:
        try:
            action()
        finally:
            os._exit(0)
    return process


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_a_search_ends_every_trial_once_and_again_does_nothing(
    sampler: str, tmp_path: Path, trials_without_training: Replace
) -> None:
    trials_without_training()
    recipe = recipe_with(f"trials: 12, sampler: {sampler}")
    records = search(recipe, tmp_path)
    assert [record.slot for record in records] == list(range(12))
    if sampler != "nsga2":  # whose children may be like their parents
        assert len({record.point["sparsity_weight"] for record in records}) == 12
    assert all(1 <= record.point["sparsity_weight"] <= 100 for record in records)
    assert search(recipe, tmp_path) == records
    assert set(_begun(tmp_path).values()) == {1}


def test_the_command_answers_with_its_trials(run, tmp_path: Path, trials_without_training: Replace) -> None:
    trials_without_training()
    options = ("--set", f"search={{space: {SPACE}, trials: 2, sampler: random}}", "--run-dir", tmp_path)
    answer = json.loads(run("search", TINY, *options, "--json", "-").stdout)
    assert answer["folder"] == str(tmp_path)
    assert [trial["slot"] for trial in answer["trials"]] == [0, 1]


def test_two_workers_share_the_trials(tmp_path: Path, trials_without_training: Replace) -> None:
    trials_without_training(lambda slot: time.sleep(0.05))
    recipe = recipe_with("trials: 10, sampler: random")
    workers = [_in_background(lambda: search(recipe, tmp_path)) for _ in range(2)]
    for process in workers:
        assert os.waitpid(process, 0)[1] == 0
    assert _begun(tmp_path) == Counter(range(10))
    assert len({line.split()[1] for line in (tmp_path / "begun").read_text().splitlines()}) == 2
    alone = tmp_path / "alone"
    search(recipe, alone)
    assert _contents(alone) == _contents(tmp_path)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_a_killed_worker_gives_its_trial_back(sampler: str, tmp_path: Path, trials_without_training: Replace) -> None:
    """Also the search that learns from its trials then goes on as if nothing had happened."""
    recipe = recipe_with(f"trials: 14, sampler: {sampler}")

    def die(slot: int) -> None:
        if slot == 12:  # behind the random start of TPE
            os.kill(os.getpid(), signal.SIGKILL)

    trials_without_training(die)
    assert exit_code_of_fork(lambda: search(recipe, tmp_path / "killed")) == -signal.SIGKILL
    trials_without_training()
    lines: list[str] = []
    search(recipe, tmp_path / "killed", say=lines.append)
    search(recipe, tmp_path / "undisturbed")
    assert "trial 13 of 14 is given back: its worker is gone" in lines
    assert _begun(tmp_path / "killed") == Counter([*range(14), 12])
    assert _contents(tmp_path / "killed") == _contents(tmp_path / "undisturbed")


def test_a_worker_elsewhere_counts_as_dead_once_it_is_silent(
    tmp_path: Path, trials_without_training: Replace, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_with("trials: 1, sampler: random")

    def elsewhere() -> None:
        monkeypatch.setattr(liveness, "_machine", lambda: "another machine")
        trials_without_training(lambda slot: os.kill(os.getpid(), signal.SIGKILL))
        search(recipe, tmp_path)

    assert exit_code_of_fork(elsewhere) == -signal.SIGKILL
    trials_without_training()
    monkeypatch.setattr(worker, "SILENCE_S", 0.5)
    lines: list[str] = []
    begin = time.monotonic()
    assert len(search(recipe, tmp_path, say=lines.append)) == 1
    assert time.monotonic() - begin > 0.5
    assert "waiting for 1 trial of other workers" in lines
    assert "trial 1 of 1 is given back: its worker is gone" in lines


def test_a_worker_elsewhere_that_gives_signs_of_life_is_waited_for(
    tmp_path: Path, trials_without_training: Replace, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_with("trials: 2, sampler: random")
    monkeypatch.setattr(worker, "SILENCE_S", 0.6)
    monkeypatch.setattr(liveness, "BEAT_S", 0.05)

    def elsewhere() -> None:
        monkeypatch.setattr(liveness, "_machine", lambda: "another machine")
        trials_without_training(lambda slot: time.sleep(1.5))
        search(recipe, tmp_path)

    process = _in_background(elsewhere)
    while not (tmp_path / "begun").exists():
        time.sleep(0.02)
    trials_without_training()
    search(recipe, tmp_path)
    assert os.waitpid(process, 0)[1] == 0
    assert _begun(tmp_path) == Counter([0, 1])


def test_half_a_line_of_a_killed_worker_does_not_end_the_search(
    tmp_path: Path, trials_without_training: Replace
) -> None:
    trials_without_training()
    search(recipe_with("trials: 2"), tmp_path)
    journal = tmp_path / running.JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 4, "wor')
    assert len(search(recipe_with("trials: 4"), tmp_path)) == 4
    assert journal.read_bytes().startswith(whole + b"{")


def test_more_trials_go_on_where_the_search_ended(tmp_path: Path, trials_without_training: Replace) -> None:
    trials_without_training()
    first = search(recipe_with("trials: 2, sampler: random"), tmp_path)
    assert search(recipe_with("trials: 5, sampler: random"), tmp_path)[:2] == first
    assert _begun(tmp_path) == Counter(range(5))


def test_another_recipe_is_refused_by_its_first_difference(tmp_path: Path, trials_without_training: Replace) -> None:
    trials_without_training()
    search(recipe_with("trials: 1, sampler: random"), tmp_path)
    with pytest.raises(SearchError, match=r"search\.sampler is random there, tpe here; only search\.trials may change"):
        search(recipe_with("trials: 1"), tmp_path)


def test_a_trial_that_diverges_fails_alone(tmp_path: Path, trials_without_training: Replace) -> None:
    def diverge(slot: int) -> None:
        if slot in bad:
            raise DivergenceError("the loss is inf")

    bad = {1}
    trials_without_training(diverge)
    records = search(recipe_with("trials: 3"), tmp_path / "one")
    assert [record.error for record in records] == ["", "the loss is inf", ""]
    bad = {0, 1}
    with pytest.raises(SearchError, match="all 2 trials failed, the first one so: the loss is inf"):
        search(recipe_with("trials: 2"), tmp_path / "all")


def test_trials_that_are_worse_than_others_are_stopped_early(tmp_path: Path, trials_without_training: Replace) -> None:
    trials_without_training()
    recipe = recipe_with("trials: 12, sampler: random, objectives: [delta_mtl], stop_early: true")
    lines: list[str] = []
    records = search(recipe, tmp_path, say=lines.append)
    stopped = [record for record in records if record.stopped_after]
    finished = [record for record in records if record.networks]
    assert len(stopped) + len(finished) == 12
    assert len(finished) < 8
    weights = [record.point["sparsity_weight"] for record in stopped]
    assert max(weights) > min(record.point["sparsity_weight"] for record in finished)
    assert sum("is stopped early" in line for line in lines) == len(stopped)
    assert search(recipe, tmp_path) == records
    assert set(_begun(tmp_path).values()) == {1}
    front = read_front([tmp_path])
    assert {point.row for point in front.points} == {record.row for record in finished}
    assert set(front.stopped.values()) == {1}
    plain = search(recipe_with("trials: 12, sampler: random, objectives: [delta_mtl]"), tmp_path / "all")
    assert not any(record.stopped_after for record in plain)
    assert max(map(_gain, plain)) == max(map(_gain, finished))


def _gain(record: TrialRecord) -> float:
    return record.networks[0].gated.delta_mtl or 0.0


def test_several_processes_per_network_cannot_be_stopped_early() -> None:
    recipe = recipe_with("trials: 1, objectives: [delta_mtl], stop_early: true")
    training = recipe.training.model_copy(update={"devices": 2})
    with pytest.raises(RecipeError, match=r"training\.devices: found 2, and search\.stop_early"):
        checked_space(recipe.model_copy(update={"training": training}))


@pytest.mark.parametrize(("epochs", "looks"), [(3, [1]), (9, [1, 3]), (10, [2, 6]), (30, [4, 12])])
def test_trials_are_looked_at_twice_and_not_shortly_before_their_end(epochs: int, looks: list[int]) -> None:
    study = optuna.create_study(direction="maximize", pruner=_pruner(epochs))
    trial = study.ask()
    first_seen: dict[int, int] = {}
    for epoch in range(1, epochs):  # nobody looks at the last one
        assert not is_hopeless(trial, epoch, 1.0)
        first_seen.setdefault(len(study.trials[0].system_attrs), epoch)
    assert [epoch for count, epoch in first_seen.items() if count] == looks


def test_a_trial_that_was_given_away_meanwhile_is_trained_to_its_end() -> None:
    study = optuna.create_study(pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, bootstrap_count=1))
    trials = [study.ask() for _ in range(2)]
    assert is_hopeless(trials[0], 1, 0.5)
    study.tell(trials[1], state=TrialState.FAIL)
    assert not is_hopeless(trials[1], 1, 0.5)


def test_what_stops_a_worker_gives_its_trial_back(tmp_path: Path, trials_without_training: Replace) -> None:
    def full(slot: int) -> None:
        if slot == 1:
            raise TrainingError("cannot write: No space left on device")

    trials_without_training(full)
    with pytest.raises(TrainingError, match="No space left"):
        search(recipe_with("trials: 3, sampler: random"), tmp_path)
    trials_without_training()
    assert [record.error for record in search(recipe_with("trials: 3, sampler: random"), tmp_path)] == [""] * 3
    assert _begun(tmp_path) == Counter([0, 1, 1, 2])


def test_a_storage_that_is_gone_is_one_line_and_results_are_kept(
    tmp_path: Path, trials_without_training: Replace
) -> None:
    trials_without_training(lambda slot: (tmp_path / running.JOURNAL).unlink() if slot == 1 else None)
    with pytest.raises(SearchError, match=r"storage .*search\.journal cannot be used: .*No such file.*is kept") as gone:
        search(recipe_with("trials: 3, sampler: random"), tmp_path)
    assert "\n" not in str(gone.value)
    assert len(load_trials(tmp_path)) == 2
    trials_without_training()
    assert len(search(recipe_with("trials: 3, sampler: random"), tmp_path)) == 3


def test_a_trial_that_this_process_left_running_is_given_back(
    tmp_path: Path, trials_without_training: Replace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook goes on after a storage was gone for too long, and so does the storage."""

    def gone(*arguments: object) -> bool:
        raise OSError("the server is away")

    trials_without_training()
    recipe = recipe_with("trials: 2, sampler: random")
    with monkeypatch.context() as away:
        away.setattr(worker, "end", gone)
        with pytest.raises(SearchError, match="the server is away"):
            search(recipe, tmp_path)
    lines: list[str] = []
    assert len(search(recipe, tmp_path, say=lines.append)) == 2
    assert "trial 1 of 2 is given back: its worker is gone" in lines


@pytest.mark.parametrize("step", ["end", "draw", "trials_of"])
def test_a_storage_that_is_gone_for_a_moment_is_waited_for(
    step: str, tmp_path: Path, trials_without_training: Replace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it goes away, also once it has given the worker a trial."""
    real = getattr(worker, step)
    calls = []

    def gone_at_first(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) in (2, 3):
            raise OSError("the server is away")
        return real(*arguments)

    trials_without_training()
    monkeypatch.setattr(worker, step, gone_at_first)
    recipe = recipe_with("trials: 3, sampler: random")
    lines: list[str] = []
    assert len(search(recipe, tmp_path, say=lines.append)) == 3
    about_storage = [line.partition("search.journal ")[2] for line in lines if "storage" in line]
    assert about_storage == ["is gone: the server is away; waiting for it", "is back"]
    assert _begun(tmp_path) == Counter(range(3))


def test_a_storage_that_said_nothing_when_it_took_a_result_has_it(
    tmp_path: Path, trials_without_training: Replace, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = worker.end
    calls = []

    def gone_afterwards(*arguments: object) -> bool:
        calls.append(real(*arguments))
        if len(calls) == 1:
            raise OSError("the server is away")
        return calls[-1]

    trials_without_training()
    monkeypatch.setattr(worker, "end", gone_afterwards)
    lines: list[str] = []
    search(recipe_with("trials: 2, sampler: random"), tmp_path, say=lines.append)
    assert calls == [True] * 3
    assert not any("another worker" in line for line in lines)


def test_errors_of_our_own_are_not_taken_for_those_of_the_storage(
    tmp_path: Path, trials_without_training: Replace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*arguments: object) -> None:
        raise KeyError("a bug")

    trials_without_training()
    monkeypatch.setattr(worker, "draw", bug)
    with pytest.raises(KeyError, match="a bug"):
        search(recipe_with("trials: 1"), tmp_path)


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("/dev/null/x", "Not a directory|File exists"),
        ("nosuchdatabase://here", "nosuchdatabase"),
        ("postgresql://somebody:secret@127.0.0.1:1/x", r"storage postgresql://somebody:\*\*\*@.* cannot be used"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_one_line(
    storage: str, message: str, tmp_path: Path, trials_without_training: Replace
) -> None:
    trials_without_training()
    with pytest.raises(SearchError, match=message) as refusal:
        search(recipe_with("trials: 1"), tmp_path, storage=storage)
    assert "\n" not in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_any_optuna_storage_hands_out_trials(tmp_path: Path, trials_without_training: Replace) -> None:
    trials_without_training()
    recipe = recipe_with("trials: 4, sampler: random")
    in_data_base = search(recipe, tmp_path / "a", storage=f"sqlite:///{tmp_path}/studies.db")
    assert in_data_base == search(recipe, tmp_path / "b")
    assert not (tmp_path / "a" / running.JOURNAL).exists()


def test_a_slot_that_got_lost_is_found_again(tmp_path: Path, trials_without_training: Replace) -> None:
    """A worker may die between failing a trial and putting it into the queue again."""
    trials_without_training()
    recipe = recipe_with("trials: 3, sampler: random")
    records = search(recipe, tmp_path)
    journal = tmp_path / running.JOURNAL
    lines = journal.read_text().splitlines(keepends=True)
    ends = [number for number, line in enumerate(lines) if '"op_code":6' in line and '"state":1' in line]
    lines[ends[1]] = lines[ends[1]].replace('"state":1', '"state":3').replace('"values":[', '"values":null,"x":[')
    journal.write_text("".join(lines))
    (tmp_path / "trials" / "00001.json").unlink()
    assert search(recipe, tmp_path) == records
    assert _begun(tmp_path) == Counter([0, 1, 2, 1])


def test_a_lost_slot_that_two_workers_put_into_the_queue_has_one_trial(
    tmp_path: Path, trials_without_training: Replace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(slot: int) -> None:
        raise TrainingError("cannot write: No space left on device")

    trials_without_training(full)
    monkeypatch.setattr(worker, "give_back", lambda study, number, slot: study.tell(number, state=TrialState.FAIL))
    recipe = recipe_with("trials: 2, sampler: random")
    for _ in range(2):
        with pytest.raises(TrainingError, match="No space left"):
            search(recipe, tmp_path)
    trials_without_training()
    monkeypatch.setattr(worker, "lost", lambda trials, count: lost(trials, count) * 2)
    search(recipe, tmp_path)
    assert _begun(tmp_path) == Counter([0, 0, 1, 1])
    storage = JournalStorage(JournalFileBackend(str(tmp_path / running.JOURNAL)))
    trials = optuna.load_study(study_name=None, storage=storage).trials
    assert [trial.state for trial in trials].count(TrialState.COMPLETE) == 2
    assert all(trial.state.is_finished() for trial in trials)


def test_a_damaged_journal_is_one_line(tmp_path: Path, trials_without_training: Replace) -> None:
    trials_without_training()
    search(recipe_with("trials: 1"), tmp_path)
    journal = tmp_path / running.JOURNAL
    journal.write_text(journal.read_text() + "}\n" + journal.read_text().splitlines()[-1] + "\n")
    with pytest.raises(SearchError, match="what is trained is kept") as refusal:
        search(recipe_with("trials: 2"), tmp_path)
    assert "\n" not in str(refusal.value)


def test_without_optuna_the_way_to_install_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(optional.importlib, "import_module", missing)
    with pytest.raises(MissingDependencyError, match=r"optuna cannot be .*pip install optuna"):
        search(recipe_with("trials: 1"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_equal_seeds_propose_equal_points(tmp_path: Path, trials_without_training: Replace) -> None:
    trials_without_training()
    first = search(recipe_with("trials: 12"), tmp_path / "a")
    assert search(recipe_with("trials: 12"), tmp_path / "b") == first
