"""How a script ends when nobody reads what it prints."""
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_reader_that_has_seen_enough_costs_no_traceback() -> None:
    """As in `python -m data.check ... | head`."""
    code = "from errors import run; run(lambda: [print('x' * 1000) for _ in range(1000)] and 0)"
    writer = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    writer.stdout.read(10)
    writer.stdout.close()
    assert writer.stderr.read() == b"" and writer.wait(60) == 1
