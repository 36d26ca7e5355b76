"""A real data base server, where one can be started."""

import gc
import os
import pwd
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gate2static.errors import SearchError
from gate2static.search import search
from tests.forking import exit_code_of_fork
from tests.search.conftest import recipe_with

Server = tuple[str, Callable[[], None], Callable[[], None]]


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The address of a server with an empty data base, what stops the server at once, and what starts it again."""
    pytest.importorskip("psycopg", reason="psycopg, Python's driver for PostgreSQL, is not installed")
    if not shutil.which("initdb") or not shutil.which("pg_ctl"):
        pytest.skip("PostgreSQL's initdb and pg_ctl are not on the path")
    owner = pwd.getpwuid(os.getuid()).pw_name
    if os.getuid() == 0:  # the server refuses to run as root
        owner = "postgres"
        if not shutil.which("runuser") or not any(entry.pw_name == owner for entry in pwd.getpwall()):
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    as_owner = ["runuser", "-u", owner, "--"] if os.getuid() == 0 else []
    folder = Path("/tmp") / tmp_path_factory.mktemp("postgresql").name  # which the server's user may enter
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.chown(folder, owner)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = folder / "data"
    settings = ["-F", "-k", str(folder), "-h", "127.0.0.1", "-p", str(port)]
    made = subprocess.run([*as_owner, "initdb", "-D", data, "-U", "search", "-A", "trust", "-N"], capture_output=True)
    control = ["pg_ctl", "-D", str(data), "-w", "-l", str(folder / "log")]

    def start() -> None:
        subprocess.run([*as_owner, *control, "-o", " ".join(settings), "start"], capture_output=True, check=True)

    def stop() -> None:
        subprocess.run([*as_owner, *control, "-m", "immediate", "stop"], capture_output=True)

    try:
        made.check_returncode()
        start()
    except subprocess.CalledProcessError:
        pytest.skip("PostgreSQL could not be started here")
    try:
        yield f"postgresql+psycopg://search:secret@127.0.0.1:{port}/postgres", stop, start
    finally:
        stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of connections whose server is gone, which nobody closes
def test_postgresql_hands_out_trials_until_it_is_gone(
    postgresql: Server, tmp_path: Path, trials_without_training: Callable[..., None]
) -> None:
    address, stop, start = postgresql
    trials_without_training()
    recipe = recipe_with("trials: 6, sampler: random")
    second = os.fork()
    if second == 0:
        try:
            search(recipe, tmp_path / "a", storage=address)
        finally:
            os._exit(0)
    search(recipe, tmp_path / "a", storage=address)
    assert os.waitpid(second, 0)[1] == 0
    slots = Counter(int(line.split()[0]) for line in (tmp_path / "a" / "begun").read_text().splitlines())
    assert slots == Counter(range(6))

    def dies() -> None:
        trials_without_training(lambda slot: os.kill(os.getpid(), 9))
        search(recipe_with("trials: 8, sampler: random"), tmp_path / "a", storage=address)

    assert exit_code_of_fork(dies) == -9
    trials_without_training()
    records = search(recipe_with("trials: 8, sampler: random"), tmp_path / "a", storage=address)
    assert records == search(recipe_with("trials: 8, sampler: random"), tmp_path / "b")

    trials_without_training(lambda slot: stop())
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if "is gone" in line:
            start()

    search(recipe_with("trials: 9, sampler: random"), tmp_path / "a", storage=address, say=say)
    about_storage = [line for line in lines if "storage" in line]
    assert len(about_storage) == 2
    assert about_storage[1].endswith("@127.0.0.1:" + address.rpartition(":")[2] + " is back")

    with pytest.raises(SearchError, match=r"storage postgresql.*://search:\*\*\*@.* cannot be used.*is kept") as gone:
        search(recipe_with("trials: 10, sampler: random"), tmp_path / "a", storage=address)
    assert "\n" not in str(gone.value)
    del gone
    gc.collect()
    assert len(list((tmp_path / "a" / "trials").iterdir())) == 10
