"""One run to a folder: a second one that is started there by mistake is refused, before it writes."""
import errno
import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from engine.files import make_folder
from errors import InputError

PATIENCE = 10.0         # seconds that a killed run may take to be gone, when it is started again at once


class FolderLock:
    """Held by rank 0 from before its first write to its end. POSIX: it ends with the process, however that ends, and workers
    that are forked from it do not hold it on.

    Args:
        folder: of the run; made when the lock is taken.
        watched: a file that the caller reads between the making of this object and `take`.
    """

    def __init__(self, folder: Path, watched: Path | None = None):
        self.folder = folder
        self.path = folder / ".lock"
        self.file = None
        self.watched, self.seen = watched, _state(watched)

    def wait(self) -> None:
        """Until no other process holds it, as one that was stopped may still save; nothing is made. Raises InputError when that
        takes too long."""
        self._wait_until(self._is_free)
        self.seen = _state(self.watched)

    def take(self) -> None:
        """Raises InputError when another process holds it, or held it meanwhile and wrote the watched file."""
        make_folder(self.folder)
        self._wait_until(self._taken)
        if _state(self.watched) != self.seen:
            self.release()
            raise InputError(f"--output: another run wrote {self.watched} while this one was starting. Start it again with "
                             "--resume, or name another folder.")

    def release(self) -> None:
        """Let go, and leave no file behind."""
        if self.file is not None:
            self.path.unlink(missing_ok=True)
            os.close(self.file)
            self.file = None

    def _wait_until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not done():
            if time.monotonic() > deadline:
                raise InputError(f"--output: another run is writing into {self.folder}. Stop it, or name another folder.")
            time.sleep(0.2)

    def _is_free(self) -> bool:
        try:
            file = os.open(self.path, os.O_RDWR)
        except OSError:             # none has been made; what else is wrong is told when it is taken
            return True
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in (errno.EACCES, errno.EAGAIN)
        finally:
            os.close(file)          # and lets go
        return True

    def _taken(self) -> bool:
        file = os.open(self.path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                os.close(file)
                return False        # on a file system that knows no locks, go on without
        # A holder that ended meanwhile took the file away; the next one would lock another of that name.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(self.path)):
                self.file = file
                return True
        os.close(file)
        return False


def _state(path: Path | None) -> tuple[int, int, int] | None:
    """What differs once a file has been written anew; None where there is none."""
    try:
        status = path and path.stat()
    except OSError:
        return None
    return status and (status.st_ino, status.st_mtime_ns, status.st_size)
