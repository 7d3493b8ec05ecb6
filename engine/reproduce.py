"""Run what a table of the paper needs, and put its figures beside the paper's.

Table I, RS-TinyNet and YOLO11m on AI-TOD:   python -m engine.reproduce --table 1 data.root=/data/aitod
Table II, the same on DIOR:                  python -m engine.reproduce --table 2 --gpus 8 data.root=/data/DIOR
Table III, its eight rows and YOLO11m + P2:  python -m engine.reproduce --table 3 --gpus 8 data.root=/data/aitod
What it would take:                          python -m engine.reproduce --table 3 --dry-run data.root=/data/aitod
In miniature:                                python -m engine.reproduce --table 3 --output runs/mini data.root=runs/scenes \\
    data.train=annotations/train.json data.test=annotations/test.json model.scale=n train.epochs=2 train.image_size=256

First a few steps of each network are timed here, and the plan is printed with the hours that it will take. Then each run is
trained (train.py --resume) and tested (test.py). The same command goes on after a stop, and leaves out what is finished; with
all finished it only prints the table, which is kept as table3.txt and table3.md in --output. Settings at the end reach every
run; where they, or the data, are not the paper's, the table is marked "mechanism only" and holds none of the paper's figures.
Exit code 3: stopped by a signal and saved; otherwise that of the script that failed.
"""
import argparse
import json
import os
import shlex
import signal
import subprocess
import tempfile
from contextlib import nullcontext
from pathlib import Path

import torch

from engine.files import make_folder, write_text
from engine.reproduction import ROOT, Run, in_a_shell, launcher, obstacles, plan, table
from engine.signals import EXIT_STOPPED
from errors import InputError, run
from eval.tables import Table


class Children:
    """Start one process after the other; a signal that asks to stop goes to the present one, and none is started any more.

    A child is in a session of its own, as a terminal would send Ctrl-C to both of us, and train.py ends at once at the second.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

    def __init__(self):
        self.stopped = False
        self._child = None

    def __enter__(self) -> "Children":
        heard = [number for number in self.SIGNALS if signal.getsignal(number) != signal.SIG_IGN]      # nohup: a lost terminal
        self._before = {number: signal.signal(number, self._pass_on) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def call(self, command: list[str], output: Path | None = None, interrupt: signal.Signals = signal.SIGINT) -> int:
        """Run a command to its end; returns its exit code, EXIT_STOPPED when it or we were asked to stop.

        Args:
            output: a file for what it prints, errors apart.
            interrupt: what Ctrl-C sends to it.
        """
        self._interrupt = interrupt
        if not self.stopped:
            search = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
            with open(output, "w") if output else nullcontext() as file:
                self._child = subprocess.Popen(command, stdout=file, env={**os.environ, "PYTHONPATH": search},
                                               start_new_session=True)
                if self.stopped:            # between the last look and now
                    self._child.send_signal(signal.SIGTERM)
                code = self._child.wait()
            if code == 0:
                return 0
        # torchrun ends with 1, and test.py with the signal's number, whatever the signal was meant to do.
        return EXIT_STOPPED if self.stopped else max(code, 1)

    def _pass_on(self, number: int, frame: object) -> None:
        self.stopped = True
        if self._child:
            # torchrun dies of SIGUSR1 and leaves its ranks alone; train.py takes SIGTERM the same way.
            self._child.send_signal(self._interrupt if number == signal.SIGINT else signal.SIGTERM)


def reproduce(number: int, output: Path, gpus: int, overrides: list[str], only: list[str], dry_run: bool) -> int:
    """Plan, estimate and, but for a dry run, do it; returns the exit code.

    Args:
        only: names of the configs to run; empty: all.
    """
    runs = plan(number, output, gpus, overrides)
    chosen = choose(runs, only)
    for one in chosen:
        one.check_settings()
    open_runs = [one for one in chosen if one.metrics is None]
    if not dry_run:
        make_folder(output)
    with Children() as children:
        seconds, code = measured(children, open_runs)
        if code:
            return explain("the timing of steps", code)
        print(f"{plan_table(number, chosen, seconds).text()}\n", flush=True)
        for one in open_runs:
            if dry_run:
                print(f"{in_a_shell(one.train_command)}\n{in_a_shell(one.test_command)}")
                continue
            code = train_and_test(children, one)
            if code:
                return explain(one.subject.name, code)
            write_table(number, output, runs)
    if not dry_run:
        print(f"\n{write_table(number, output, runs).text()}\n\nwrote {output / f'table{number}.txt'} and table{number}.md")
    return 0


def choose(runs: list[Run], only: list[str]) -> list[Run]:
    """Those whose configs are named; all where none is."""
    names = [one.folder.name for one in runs]
    for name in only:
        if name not in names:
            raise InputError(f"--only: this table has no run {name}. It has {', '.join(names)}.")
    return [one for one in runs if not only or one.folder.name in only]


def measured(children: Children, runs: list[Run]) -> tuple[dict[Path, float], int]:
    """Seconds that a batch of each run takes here, by its config, and the exit code."""
    runs = [one for one in runs if one.batches_left]
    if not runs:
        return {}, 0
    print(f"timing a few steps of each of {len(runs)} run(s) ...", flush=True)
    with tempfile.TemporaryDirectory(prefix="reproduce.") as folder:
        result = Path(folder) / "seconds.json"
        files = [part for one in runs for part in ("--config", str(one.file))]
        # It has nothing to save, and SIGINT while torch is imported, which takes seconds, would print a traceback.
        code = children.call([*launcher(runs[0].gpus), "-m", "engine.measure", "--result", str(result), *files,
                              *runs[0].overrides], interrupt=signal.SIGTERM)
        if code:
            return {}, code
        seconds = json.loads(result.read_text())
    return {one.file: seconds[str(one.file)] for one in runs}, 0


def plan_table(number: int, runs: list[Run], seconds: dict[Path, float]) -> Table:
    """Each run, how far it is and how long it will take."""
    left, rows = 0.0, []
    for one in runs:
        if one.metrics is not None:
            rows.append((one.subject.name, f"finished in {duration(one.seconds)}", f"{one.batches:,}", "-", "-"))
            continue
        if one.batches_left:
            needed = one.batches_left * seconds[one.file]
            left += needed
            state = "to do" if one.batches_left == one.batches else f"{one.batches_left:,} batches left"
            rows.append((one.subject.name, state, f"{one.batches:,}", f"{seconds[one.file]:.3f}", duration(needed)))
        else:
            rows.append((one.subject.name, "to be tested", f"{one.batches:,}", "-", "-"))
    gpus, train, facts = runs[0].gpus, runs[0].config.train, runs[0].facts
    kind, kinds = ("GPU", "GPUs") if torch.cuda.is_available() and train.device != "cpu" else ("process", "processes")
    title = (f"Table {'I' * number} on {gpus} {kinds if gpus > 1 else kind}: {train.epochs} epochs of {facts.train_images:,} "
             f"images, {train.batch_size} a batch; {facts.test_images:,} images to test on")
    note = (f"About {duration(left)} of training, {left * gpus / 3600:,.3g} {kind}-hours. Testing, and validation where "
            "data.val is set, add to it.")
    differences = obstacles(number, runs)
    if differences:
        note += ("\nThe table will be marked \"Mechanism only\" and hold none of the paper's figures. What differs from its "
                 f"experiment: {'; '.join(differences)}.")
    return Table(title, ("run", "state", "batches", "s/batch", "left"), rows, note=note, left=("state",))


def duration(seconds: float) -> str:
    """In the unit that suits it."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"


def train_and_test(children: Children, one: Run) -> int:
    """Take a run to its end; returns the exit code."""
    # What test.py prints is long, and for AI-TOD's classes has the paper's tables in it, whatever was tested.
    for command, output in ((one.train_command, None), (one.test_command, one.folder / "test.txt")):
        print(f"$ {in_a_shell(command)}{f' > {shlex.quote(str(output))}' if output else ''}", flush=True)
        code = children.call(command, output)
        if code:
            return code
    one.finish()
    return 0


def explain(what: str, code: int) -> int:
    """Say how to go on after a process that did not come to its end; returns its exit code."""
    if code == EXIT_STOPPED:
        print("\nstopped; the same command goes on")
    else:
        go_on = "" if code == 2 else "; the same command goes on from there"      # what is wrong stays so until it is mended
        print(f"\n{what} ended with exit code {code}, for the reason above{go_on}")
    return code


def write_table(number: int, output: Path, runs: list[Run]) -> Table:
    """Keep the table of what is finished as text and Markdown."""
    result = table(number, runs)
    for ending, text in (("txt", result.text()), ("md", result.markdown())):
        write_text(output / f"table{number}.{ending}", text + "\n")
    return result


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and reproduce; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m engine.reproduce", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=int, choices=(1, 2, 3), required=True, help="of the paper")
    parser.add_argument("--output", type=Path, default=Path("runs/reproduce"),
                        help="folder of all runs (default: runs/reproduce)")
    parser.add_argument("--gpus", type=int, default=1, help="GPUs that share each run, by torchrun (default: 1)")
    parser.add_argument("--only", default="", metavar="NAME,NAME",
                        help="some of the runs, by the names of their configs, such as yolo11m,ablation_arb")
    parser.add_argument("--dry-run", action="store_true", help="print the plan, the hours and the commands")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that differ from the paper's")
    options = parser.parse_intermixed_args(arguments)
    only = [name.strip() for name in options.only.split(",") if name.strip()]
    return reproduce(options.table, options.output, options.gpus, options.overrides, only, options.dry_run)


if __name__ == "__main__":
    run(main)
