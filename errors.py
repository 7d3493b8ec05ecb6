"""What ends a script with one line instead of a traceback.

Everything below a script raises InputError with a message of one line that names the culprit and the remedy; the script
prints that line and exits with code 2. MachineError is the same for what no input can mend. A full disk is input of that
kind, wherever it is met. Any other exception is a bug of ours and keeps its traceback.
"""
import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn


class InputError(Exception):
    """Input that a user can mend: a file, a key, an annotation. The message is one line: who, what, where, the way out."""


class MachineError(Exception):
    """A machine or a process of the run failed. Likewise one line; exit code 1."""


def printable(text: str) -> str:
    """What a file says, for a terminal: one line of at most 200 characters, without control codes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:200])


def listed(names: Sequence[object]) -> str:
    """The first eight of many names, and how many more there are."""
    return ", ".join(map(str, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def run(main: Callable[[], int | None], must_leave_at_once: Callable[[], bool] = lambda: False) -> NoReturn:
    """Run a script's main, and end the process with its exit code.

    Args:
        must_leave_at_once: whether Python may not clean up at its end, asked when main has ended.
    """
    try:
        code = _run_in_one_line(main)
    except (Exception, SystemExit) as error:
        if not must_leave_at_once():
            raise
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        code = error.code if isinstance(error, SystemExit) else 1
    if must_leave_at_once():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run_in_one_line(main: Callable[[], int | None]) -> int:
    """The exit code of a main; the errors above become one line on stderr."""
    try:
        return main() or 0
    except (InputError, MachineError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except BrokenPipeError:             # `... | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())      # else Python complains when it flushes
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        what = error.filename or "the results"
        print(f"error: {what}: could not be written ({error.strerror}). Make room, or name another --output.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
