"""What ends a script with one line instead of a traceback.

Everything below a script raises InputError with a message of one line that names the culprit and the remedy; the script
prints that line and exits with code 2. MachineError is the same for what no input can mend. Any other exception is a bug
of ours and keeps its traceback.
"""
import sys
from collections.abc import Callable


class InputError(Exception):
    """Input that a user can mend: a file, a key, an annotation. The message is one line: who, what, where, the way out."""


class MachineError(Exception):
    """A machine or a process of the run failed. Likewise one line; exit code 1."""


def run(main: Callable[[], int | None]) -> None:
    """Run a script's main and turn the two errors into one line on stderr and an exit code."""
    try:
        code = main()
    except (InputError, MachineError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2 if isinstance(error, InputError) else 1
    sys.exit(code or 0)
