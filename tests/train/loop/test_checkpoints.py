"""Checkpoints: safe to load, and refused where they are cut off, damaged or foreign."""

import io
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import nn

from gate2static.errors import CheckpointError
from gate2static.train.loop import checkpoints
from gate2static.train.loop.checkpoints import load_checkpoint, load_weights, save_checkpoint

CONTENT: dict[str, Any] = {part: {} for part in checkpoints.PARTS} | {"kind": "gated"}
OLDER = Path(__file__).parents[2] / "fixtures" / "written_by_0_1" / "ckpt.pt"


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ckpt.pt"


def write(path: Path, content: object) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getvalue())


def test_tensors_and_plain_values_come_back(path: Path) -> None:
    save_checkpoint(path, {**CONTENT, "model": {"w": torch.arange(3.0)}, "position": {"epoch": 2, "log": [{"a": 0.1}]}})
    content = load_checkpoint(path)
    assert torch.equal(content["model"]["w"], torch.arange(3.0))
    assert content["position"] == {"epoch": 2, "log": [{"a": 0.1}]}


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_checkpoint(tmp_path / name, {**CONTENT, "model": {"w": torch.arange(3.0)}})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_missing_checkpoint_is_named(path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"ckpt\.pt: no such checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(path: Path, share: float) -> None:
    save_checkpoint(path, {**CONTENT, "model": {"w": torch.zeros(5000)}})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match="cut off"):
        load_checkpoint(path)


def test_a_checkpoint_with_damaged_bytes_is_refused(path: Path) -> None:
    save_checkpoint(path, {**CONTENT, "model": {"w": torch.zeros(5000)}})
    whole = bytearray(path.read_bytes())
    at = whole.find(b"data.pkl") + 60
    whole[at : at + 40] = b"\xff" * 40
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match=r"damaged|nothing of it was loaded"):
        load_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_bomb_is_refused_and_not_executed(path: Path, tmp_path: Path, zipped: bool) -> None:
    target = tmp_path / "exploded"
    bomb = {"format": checkpoints.FORMAT, "version": 1, **CONTENT, "model": Bomb(target)}
    if zipped:
        write(path, bomb)
    else:
        path.write_bytes(pickle.dumps(bomb))
    with pytest.raises(CheckpointError, match=r"nothing of it was loaded|not a checkpoint") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)
    assert not target.exists()
    pickle.loads(pickle.dumps(Bomb(target)))
    assert target.exists(), "the bomb does not work, so this test shows nothing"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"w": torch.zeros(1)}}, "not a gate2static checkpoint, though torch can read it"),
        (torch.zeros(3), "not a gate2static checkpoint"),
        (
            {"format": checkpoints.FORMAT, "version": 2, **CONTENT},
            "has checkpoint format 2, this version of gate2static reads 1; update",
        ),
        ({"format": checkpoints.FORMAT, "version": 1, "kind": "gated"}, "damaged: lacks identity, recipe"),
    ],
)
def test_what_is_not_a_checkpoint_of_this_version_is_refused(path: Path, content: object, message: str) -> None:
    write(path, content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


def _refused(path: Path, content: bytes | bytearray, reason: str) -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=reason) as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("seed", range(40))
def test_one_flipped_bit_anywhere_is_refused(path: Path, seed: int) -> None:
    """Bits flipped in a tensor or in the pickle used to be accepted and to give other numbers: 35 of 140."""
    save_checkpoint(path, {**CONTENT, "model": {"w": torch.arange(300.0)}, "position": {"epoch": 2}})
    whole = bytearray(path.read_bytes())
    random = Random(seed)
    at = len(whole) - 1 - seed * 4 if seed < 25 else random.randrange(len(whole))
    whole[at] ^= 1 << random.randrange(8)
    _refused(path, whole, "damaged: |cut off")


def test_every_shorter_file_is_refused(path: Path) -> None:
    save_checkpoint(path, {**CONTENT, "model": {"w": torch.arange(300.0)}})
    whole = path.read_bytes()
    for length in (*range(0, len(whole), 97), *range(len(whole) - 100, len(whole))):
        _refused(path, whole[:length], "damaged: |cut off")


def test_a_bit_flipped_in_an_older_checkpoint_is_refused(path: Path) -> None:
    whole = OLDER.read_bytes()
    assert load_checkpoint(OLDER)["kind"] == "gated"
    with zipfile.ZipFile(OLDER) as archive:
        members = [member for member in archive.infolist() if member.file_size > 100]
    for member in members[::20]:
        flipped = bytearray(whole)
        start = member.header_offset + 30
        flipped[whole.index(archive_bytes(member), start) + member.file_size // 2] ^= 4
        _refused(path, flipped, "damaged: the checksum of")


def archive_bytes(member: zipfile.ZipInfo) -> bytes:
    with zipfile.ZipFile(OLDER) as archive:
        return archive.read(member)


def _rewritten(content: bytes, *, compressed: bool = False, twice: bool = False) -> bytes:
    """The archive as another program writes it."""
    rewritten = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(io.BytesIO(content)) as old:
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(rewritten, "w", kind) as new:
            for member in old.infolist():
                for _ in range(1 + twice):
                    new.writestr(member.filename, old.read(member))
    return rewritten.getvalue()


def test_an_archive_that_unpacks_to_more_than_it_holds_is_refused(path: Path) -> None:
    """A checkpoint of 4.3 MB used to take 4.8 GB."""
    buffer = io.BytesIO()
    torch.save({"format": checkpoints.FORMAT, "version": 1, **CONTENT, "model": {"w": torch.zeros(10**5)}}, buffer)
    plain = buffer.getvalue()
    _refused(path, _rewritten(plain, compressed=True), "damaged: .* members that unpack to .* bytes")
    _refused(path, _rewritten(plain, twice=True), "damaged: .* members that unpack to .* bytes")
    path.write_bytes(_rewritten(plain))
    load_checkpoint(path)


class Large:
    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (10**12,)


def test_only_what_makes_tensors_is_called(path: Path) -> None:
    """Torch also lets a file make a bytearray, or an empty tensor, of any size."""
    for content in (Large(), torch.Size([1]), {1}):
        write(path, {"format": checkpoints.FORMAT, "version": 1, **CONTENT, "position": {"x": content}})
        with pytest.raises(CheckpointError, match=r"more than tensors and plain values .*nothing of it was loaded"):
            load_checkpoint(path)


def test_a_digest_cannot_be_left_out(path: Path) -> None:
    save_checkpoint(path, CONTENT)
    _refused(path, _rewritten(path.read_bytes()), "damaged: its digest is missing or was altered")


@pytest.mark.parametrize(("part", "value"), [("kind", 3), ("recipe", None), ("position", [1]), ("identity", "x")])
def test_a_part_of_another_type_is_refused(path: Path, part: str, value: Any) -> None:
    save_checkpoint(path, {**CONTENT, part: value})
    with pytest.raises(CheckpointError, match=f"damaged: its {part} is"):
        load_checkpoint(path)


@pytest.mark.parametrize("where", ["/dev/urandom", "/proc/self/mem", "/proc/self/cmdline", "/tmp", "a\0b"])
def test_what_is_no_file_is_not_read(where: str) -> None:
    with pytest.raises(CheckpointError, match="cannot be read|cut off|damaged: "):
        load_checkpoint(Path(where))


def test_a_pipe_is_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="it is not a regular file"):
        load_checkpoint(path)


def test_another_models_weights_name_the_first_differences() -> None:
    wide = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(2, 2)})
    narrow = nn.ModuleDict({"a": nn.Linear(3, 1), "c": nn.Linear(2, 2)})
    before = {key: value.clone() for key, value in narrow.state_dict().items()}
    message = (
        r"here: for another model: c\.weight is missing; c\.bias is missing; b\.weight is not in the model and 3 more"
    )
    with pytest.raises(CheckpointError, match=message):
        load_weights(narrow, wide.state_dict(), where="here")
    with pytest.raises(CheckpointError, match=r"a\.weight is \(2, 3\), the model's is \(1, 3\)"):
        load_weights(nn.ModuleDict({"a": nn.Linear(3, 1)}), nn.ModuleDict({"a": wide["a"]}).state_dict(), where="here")
    assert all(torch.equal(value, before[key]) for key, value in narrow.state_dict().items())
