"""The report of gpu-check: what a part printed is in it, whatever becomes of the part."""
import time
from pathlib import Path

from benchmarks.gpu_check import Report


def test_a_part_that_runs_too_long_ends_with_its_processes_and_leaves_what_it_printed(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    grandchild = f"import time, pathlib; time.sleep(2); pathlib.Path({str(alive)!r}).touch()"
    child = f"import subprocess, sys; print('first row', flush=True); subprocess.run([sys.executable, '-c', {grandchild!r}])"
    report = Report(tmp_path / "report.md", limit=1)
    report.command("Long", "-c", child)
    text = report.path.read_text()
    assert report.failed == ["Long"] and "FAILED" in text
    assert "\nfirst row\n" in text and "time limit of 0.0167 minutes" in text
    time.sleep(1.5)
    assert not alive.exists()


def test_a_part_that_fails_is_named_and_the_next_one_runs(tmp_path: Path) -> None:
    report = Report(tmp_path / "report.md", limit=60)
    report.command("Bad", "-c", "print('so far'); raise SystemExit('why')")
    assert report.command("Good", "-c", "print(6 * 7)") == "42\n"
    report.verdict("Accuracy", False, "AP50 0.100 on the test scenes, 0.30 wanted")
    assert report.failed == ["Bad", "Accuracy"]
    text = report.path.read_text()
    assert text.index("so far") < text.index("why") < text.index("## Good") < text.index("\n42\n") < text.index("AP50 0.100")
