"""One run to a folder: a second one that is started there by mistake is refused, before it writes."""
import errno
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from engine.files import make_folder
from errors import InputError

PATIENCE = 10.0         # seconds that a killed run may take to be gone, when it is started again at once


class FolderLock:
    """Held by rank 0 from before its first write to its end. POSIX: it ends with the process, however that ends, and workers
    that are forked from it do not hold it on.

    Args:
        folder: of the run; made if need be.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / ".lock"
        self.file = None

    def take(self) -> None:
        """Raises InputError when another process holds it."""
        make_folder(self.folder)
        deadline = time.monotonic() + PATIENCE
        while not self._taken():
            if time.monotonic() > deadline:
                raise InputError(f"--output: another run is writing into {self.folder}. Stop it, or name another folder.")
            time.sleep(0.2)

    def release(self) -> None:
        """Let go, and leave no file behind."""
        if self.file is not None:
            self.path.unlink(missing_ok=True)
            os.close(self.file)
            self.file = None

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
