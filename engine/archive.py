"""Open what torch.save writes, a zip archive, and say in one line what is wrong with a file that is none or is damaged."""
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from errors import InputError, printable


@contextmanager
def opened(path: Path, wanted: str) -> Iterator[zipfile.ZipFile]:
    """The archive, whose check sums hold. What the block raises while it reads means that the file cannot be read.

    Args:
        wanted: what to name instead, such as "a best.pt or last.pt that train.py wrote".
    Raises:
        InputError: there is no such file, it is none of torch's, or it is damaged.
    """
    try:
        with open(path, "rb") as file:
            if file.read(2) != b"PK":       # anything else would be guessed at
                raise InputError(f"{path}: not a file that torch.save wrote. Name {wanted}.")
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()     # torch does not compare the check sums that it writes
            if damaged:
                raise InputError(
                    f"{path}: is damaged, as the check sum of {printable(damaged)} tells. Copy it once more from where "
                    "it came."
                )
            yield archive
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint. Name {wanted}.") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder. Name a file: {wanted}.") from None
    except Exception as error:      # the bytes of a strange file can make a reader raise anything
        reason = printable(str(error).splitlines()[0][:100]) if str(error) else type(error).__name__
        raise InputError(f"{path}: not a readable checkpoint ({reason}). It may have been cut off in a copy.") from None
