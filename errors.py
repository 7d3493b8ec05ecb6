"""The one exception that means "your input is wrong", and how a script reports it.

Everything below a script raises InputError with a message of one line that names the culprit and the remedy; the script
prints that line and exits with code 2. Any other exception is a bug of ours and keeps its traceback.
"""
import sys
from collections.abc import Callable


class InputError(Exception):
    """Input that a user can mend: a file, a key, an annotation. The message is one line: who, what, where, the way out."""


def run(main: Callable[[], int | None]) -> None:
    """Run a script's main and turn an InputError into one line on stderr and exit code 2."""
    try:
        code = main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    sys.exit(code or 0)
