"""The zip archive of a checkpoint: its digest, and what is looked at before torch reads it.

Torch checks neither the archive's checksums nor what its pickled part may ask for. So an archive is looked through
first, without unpacking anything: members as large as the file says, no functions but those that make tensors, and the
SHA-256 of everything in the archive's comment. Older archives have no digest; their members' checksums are checked.
"""

import hashlib
import io
import pickletools
import re
import zipfile
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from gate2static.errors import CheckpointError
from gate2static.train.loop.foreign_files import MARKS, what_bytes_are, what_pickle_is

_END = b"PK\x05\x06"
_END_BYTES = 22
_COMMENT = re.compile(rb"sha256:([0-9a-f]{64})")
_COMMENT_BYTES = 71
_MOST_MEMBERS = 2**20
_LARGEST_PICKLE = 2**24
_TENSOR_PARTS = re.compile(r"torch \w+Storage|torch\._utils _rebuild_(tensor_v2|parameter)|collections OrderedDict")
"""Functions and classes that tensors and state dicts are pickled with, as module and name."""
_BLOCK_BYTES = 2**20


def seal(archive: io.BytesIO) -> None:
    """Writes the digest of an archive into its comment.

    Args:
        archive: An archive as torch saves it, without a comment; it gets one.
    """
    content = archive.getbuffer()
    assert content[-_END_BYTES : -_END_BYTES + 4] == _END
    content[-2:] = _COMMENT_BYTES.to_bytes(2, "little")
    digest = hashlib.sha256(content).hexdigest()
    content.release()  # while it is exposed, the buffer cannot grow
    archive.seek(0, io.SEEK_END)
    archive.write(b"sha256:" + digest.encode())


def check_archive(file: BinaryIO, path: Path) -> bool:
    """Refuses an archive that is damaged, or that is not one of ours, before anything of it is unpacked.

    Args:
        file: The open file, which is left at its start.
        path: The file's path, for the error message.

    Returns:
        Whether the archive has a digest, which then is right.

    Raises:
        CheckpointError: The archive is cut off, altered, compressed, or holds more than tensors and plain values.
    """
    try:
        size_bytes = file.seek(0, io.SEEK_END)
        # A zip file has its directory at the end, so a file that was cut off is recognised at once.
        if not zipfile.is_zipfile(file):
            file.seek(0)
            if foreign := what_bytes_are(file.read(16)):
                raise CheckpointError(f"{path}: not a checkpoint but {foreign}")
            raise CheckpointError(
                f"{path}: not a checkpoint, or one that was cut off ({size_bytes} bytes, no zip directory at the end); "
                "train again or use another copy"
            )
        is_sealed = _has_right_digest(file, size_bytes, path)
        with zipfile.ZipFile(file) as archive:
            _check_members(archive, size_bytes, path)
            if not is_sealed and (damaged := archive.testzip()) is not None:
                raise _damaged(path, f"the checksum of {damaged[:60]!r} is wrong")
            _check_pickle(archive, path)
        file.seek(0)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise _damaged(path, str(error)[:160]) from None
    return is_sealed


def _has_right_digest(file: BinaryIO, size_bytes: int, path: Path) -> bool:
    """Returns whether a file ends with its digest.

    Raises:
        CheckpointError: It ends with another digest.
    """
    file.seek(max(0, size_bytes - _COMMENT_BYTES))
    comment = _COMMENT.fullmatch(file.read())
    if comment is None:
        return False
    file.seek(0)
    digest = hashlib.sha256()
    rest = size_bytes - _COMMENT_BYTES
    while rest and (block := file.read(min(rest, _BLOCK_BYTES))):
        digest.update(block)
        rest -= len(block)
    if digest.hexdigest() != comment[1].decode():
        raise _damaged(path, "its digest is wrong")
    return True


def _check_members(archive: zipfile.ZipFile, size_bytes: int, path: Path) -> None:
    """Refuses members that are compressed, overlap, or have a name twice: torch writes none of these."""
    members = archive.infolist()
    names = {member.filename for member in members}
    is_stored = all(
        member.compress_type == zipfile.ZIP_STORED and member.file_size == member.compress_size for member in members
    )
    unpacked_bytes = sum(member.file_size for member in members)
    if not is_stored or unpacked_bytes > size_bytes or len(names) < len(members) or len(members) > _MOST_MEMBERS:
        raise _damaged(path, f"{len(members)} members that unpack to {unpacked_bytes:,} bytes, of {size_bytes:,}")


def _check_pickle(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuses a pickled part that names anything but the means of tensors; it is read and not run."""
    pickled = [member for member in archive.infolist() if member.filename.endswith("data.pkl")]
    if len(pickled) != 1 or pickled[0].file_size > _LARGEST_PICKLE:
        raise CheckpointError(f"{path}: not a gate2static checkpoint: an archive that torch did not write")
    content = archive.read(pickled[0])
    others = (argument for opcode, argument, _ in pickletools.genops(content) if _is_other(opcode, argument))
    first = list(islice(others, 1))
    if not first:
        return
    marks = {argument for _, argument, _ in pickletools.genops(content) if argument in MARKS}
    foreign = what_pickle_is(marks) or "only use checkpoints that gate2static wrote"
    raise CheckpointError(
        f"{path}: holds more than tensors and plain values ({str(first[0])[:60]!r}), so nothing of it was loaded: "
        f"{foreign}"
    )


def _is_other(opcode: pickletools.OpcodeInfo, argument: Any) -> bool:
    """Returns whether an opcode names something else than the means of tensors."""
    if opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
        return True
    return opcode.name == "GLOBAL" and not _TENSOR_PARTS.fullmatch(str(argument))


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path}: damaged: {reason}; use another copy")
