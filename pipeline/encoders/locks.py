"""Who may change what in the row cache: advisory locks, which vanish with the process."""

from __future__ import annotations

import errno
import fcntl
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ResourceError
from pipeline.files import open_shared

USED = "used"
"""Empty file of a meaning: it carries the lock on the whole, and its time is the last use."""


class Presence:
    """A lock on a meaning as a whole: shared by those who write rows, exclusive to remove it.

    Raises FileNotFoundError when the folder was removed meanwhile, BlockingIOError when `alone`
    and somebody writes. Given up by `close`, or with the object.
    """

    def __init__(self, folder: Path, *, alone: bool) -> None:
        descriptor = open_shared(folder / USED)
        self.close = weakref.finalize(self, os.close, descriptor)
        # Those who share wait for a removal, which takes no time.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
        if not same(descriptor, folder / USED):
            raise FileNotFoundError(folder / USED)


def lock(descriptor: int) -> bool:
    """Lock a file for this process alone; False when another has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def same(descriptor: int, path: Path) -> bool:
    """Return whether an open file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def refusals(folder: Path) -> Iterator[None]:
    """Turn a full disk, or one without locks, into a ResourceError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                f"{folder}: no space left for encoded rows. Rows encoded before are kept. "
                f"Free some space, or set SPECTRAN_CACHE to another disk, and run again."
            ) from error
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise ResourceError(
                f"{folder}: this disk offers no file locks ({error.strerror}), so several writers "
                f"would harm each other. Set SPECTRAN_CACHE to another disk."
            ) from error
        raise
