"""Runs of several processes under torchrun: stopped, killed, spread over two machines. All end as one that nobody disturbed."""
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import multiprocessing
from torch.distributed.run import get_args_parser

import engine.trainer
import train
from engine import checkpoint
from engine.distributed import Ranks, _own_store
from errors import InputError, run
from tests.engine.test_distributed import free_port
from tests.engine.test_survival import assert_same_end

ROOT = Path(__file__).parents[2]
SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
PATIENCE = 300          # seconds that a test waits for what takes ten on idle cores; a hang is what it looks for
SETTINGS = ("train.epochs=8", "train.save_minutes=1e-9", "train.validate_every=4", "train.workers=1")


def start(run: object, folder: Path, *settings: str, torchrun: tuple[str, ...] = ("--nproc-per-node=2",)) -> subprocess.Popen:
    """train.py under torchrun, its output in folder.txt; `run` is a TinyRun."""
    command = [sys.executable, "-m", "torch.distributed.run", *torchrun, "train.py", "--config", str(run.config),
               "--output", str(folder), *SETTINGS, *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCHELASTIC_SIGNALS_TO_HANDLE": SIGNALS}
    if "--signals-to-handle" in get_args_parser().format_help():        # newer torchrun sets the variable by its option
        command[3:3] = ["--signals-to-handle", SIGNALS]
    with open(f"{folder}.txt", "a") as file:
        return subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=environment,
                                start_new_session=True)


def master() -> tuple[str, ...]:
    return ("--nproc-per-node=2", f"--master-port={free_port()}")


def wait_for(condition: Callable[[], bool], process: subprocess.Popen, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended before"
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def step(folder: Path) -> int:
    """The step of a run's last checkpoint."""
    return checkpoint.load(folder / "last.pt")["position"]["step"] if (folder / "last.pt").exists() else 0


def ranks_of(agent: subprocess.Popen) -> list[int]:
    """Process numbers of an agent's ranks, rank 0 first."""
    return [int(number) for number in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()]


@pytest.fixture(scope="module")
def undisturbed(shared_tiny_set: object, tmp_path_factory: pytest.TempPathFactory) -> object:
    """A run of two ranks in folder/whole."""
    from tests.engine.conftest import TinyRun

    run = TinyRun(shared_tiny_set, tmp_path_factory.mktemp("ranks"))
    assert start(run, run.folder / "whole", torchrun=master()).wait(PATIENCE) == 0
    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_torchrun_saves_on_all_ranks_and_a_resumed_run_ends_the_same(
    undisturbed: object, name: signal.Signals
) -> None:
    folder = undisturbed.folder / name.name
    agent = start(undisturbed, folder, torchrun=master())
    wait_for(lambda: step(folder) >= 3, agent)
    agent.send_signal(name)
    assert agent.wait(30) != 0
    text = Path(f"{folder}.txt").read_text()
    assert f"stopped by {name.name} and saved in" in text and text.count("and saved in") == 1
    assert 3 <= step(folder) < 24
    assert start(undisturbed, folder, "--resume", torchrun=master()).wait(PATIENCE) == 0
    assert_same_end(undisturbed.folder / "whole", folder)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_all_and_torchrun_goes_on_from_the_last_checkpoint(undisturbed: object, rank: int) -> None:
    folder = undisturbed.folder / f"killed {rank}"
    agent = start(undisturbed, folder, torchrun=(*master(), "--max-restarts=1"))
    wait_for(lambda: step(folder) >= 3, agent)
    os.kill(ranks_of(agent)[rank], signal.SIGKILL)
    assert agent.wait(PATIENCE) == 0, Path(f"{folder}.txt").read_text()
    assert_same_end(undisturbed.folder / "whole", folder)


@pytest.mark.slow
def test_without_restarts_a_killed_rank_ends_the_run_with_one_line(undisturbed: object) -> None:
    folder = undisturbed.folder / "lost"
    agent = start(undisturbed, folder, torchrun=master())
    wait_for(lambda: step(folder) >= 3, agent)
    os.kill(ranks_of(agent)[1], signal.SIGKILL)
    assert agent.wait(PATIENCE) != 0
    text = Path(f"{folder}.txt").read_text()
    assert "DistBackendError" not in text and text.count("RuntimeError") == 0, text
    assert start(undisturbed, folder, "--resume", torchrun=master()).wait(PATIENCE) == 0
    assert_same_end(undisturbed.folder / "whole", folder)


@pytest.mark.slow
def test_two_machines_of_one_rank_each_train_as_one_of_two(undisturbed: object) -> None:
    """Two agents on loopback. The second has a folder of its own, and holds no checkpoint to resume from."""
    folder, port = undisturbed.folder / "machine 0", free_port()

    def both(*settings: str) -> list[int]:
        agents = []
        for node in (0, 1):
            options = ("--nnodes=2", "--nproc-per-node=1", f"--node-rank={node}", "--master-addr=127.0.0.1",
                       f"--master-port={port}")
            agents.append(start(undisturbed, folder.with_name(f"machine {node}"), *settings, torchrun=options))
        return [agent.wait(PATIENCE) for agent in agents]

    assert both("train.max_steps=3") == [0, 0]      # an epoch: within one it could cut the batches of a step apart
    assert not (undisturbed.folder / "machine 1").exists()
    assert both("--resume") == [0, 0]
    one, other = (checkpoint.load(end / "last.pt") for end in (undisturbed.folder / "whole", folder))
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])


def resume_apart(rank: int, port: int, config: str, folders: tuple[str, str], settings: tuple[str, ...]) -> None:
    """One of two processes that share no folder."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    assert train.main(["--config", config, "--output", folders[rank], *settings]) == 0


def test_only_rank_0_needs_the_checkpoint(tiny_run: object) -> None:
    folders = str(tiny_run.folder / "run"), str(tiny_run.folder / "elsewhere")
    for settings in (("train.max_steps=1",), ("--resume", "train.max_steps=2")):
        multiprocessing.spawn(resume_apart, (free_port(), str(tiny_run.config), folders, settings), nprocs=2)
    assert step(Path(folders[0])) == 2 and not Path(folders[1]).exists()


def set_up_apart(rank: int, port: int, config: str, folder: str, slow: float) -> None:
    """One of two processes; rank 1 cannot read the data, or is `slow` seconds in reading them."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    original = engine.trainer.TrainingData

    def read(*arguments: object) -> object:
        Path(folder, f"{rank} reads").touch()
        if rank == 1:
            time.sleep(slow)
        return original(*arguments)

    engine.trainer.TrainingData = read
    settings = ["data.root=/nowhere"] if rank == 1 and not slow else []
    with open(Path(folder, str(rank)), "w") as file, redirect_stdout(file), redirect_stderr(file):
        run(lambda: train.main(["--config", config, "--output", f"{folder}/run", *settings]))


def start_apart(run: object, slow: float) -> list[multiprocessing.Process]:
    """Two processes of set_up_apart."""
    arguments = free_port(), str(run.config), str(run.folder), slow
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=set_up_apart, args=(rank, *arguments)) for rank in (0, 1)]
    for process in processes:
        process.start()
    return processes


def ends(run: object, processes: list[multiprocessing.Process]) -> list[tuple[int | None, str]]:
    """The exit code of each process, and what it said."""
    for process in processes:
        process.join(PATIENCE)
    return [(process.exitcode, (run.folder / str(rank)).read_text()) for rank, process in enumerate(processes)]


def test_a_rank_that_fails_in_set_up_ends_the_others_with_one_line(tiny_run: object) -> None:
    (code, zero), (other_code, one) = ends(tiny_run, start_apart(tiny_run, slow=0))
    assert (code, other_code) == (1, 2), zero + one
    assert zero.startswith("error: a process of this run was lost") and zero.count("\n") == 1
    assert one.startswith("error: data.train: /nowhere/train.json does not exist") and one.count("\n") == 1


@pytest.mark.slow
def test_a_signal_while_a_rank_waits_for_another_in_set_up_ends_both_with_3(tiny_run: object) -> None:
    """Python looks at signals between its own steps: rank 0 does when rank 1 has left, and their connection has failed."""
    processes = start_apart(tiny_run, slow=PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while len(list(tiny_run.folder.glob("* reads"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(2)               # rank 0 reads, and comes to wait where the model is spread
    for process in processes:
        os.kill(process.pid, signal.SIGTERM)
    assert ends(tiny_run, processes) == [(3, "stopped by SIGTERM before the first step\n")] * 2


def stop_apart(rank: int, port: int, config: str, folder: str) -> None:
    """One of two processes, asked to stop in the first step; rank 0 takes two seconds to write a checkpoint."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    step, save = engine.trainer.Trainer._optimizer_step, checkpoint.save

    def stopped_step(trainer: object, *arguments: object) -> tuple[bool, bool]:
        os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer, *arguments)

    def slow_save(path: Path, content: dict) -> None:
        time.sleep(2)
        save(path, content)

    engine.trainer.Trainer._optimizer_step, checkpoint.save = stopped_step, slow_save
    assert train.main(["--config", config, "--output", f"{folder}/run"]) == 3
    Path(folder, str(rank)).write_text(str(Path(folder, "run/last.pt").exists()))


def test_no_rank_of_a_stopped_run_ends_before_the_checkpoint_is_written(tiny_run: object) -> None:
    """srun --kill-on-bad-exit ends all machines when the first one ends."""
    multiprocessing.spawn(stop_apart, (free_port(), str(tiny_run.config), str(tiny_run.folder)), nprocs=2)
    assert [(tiny_run.folder / str(rank)).read_text() for rank in (0, 1)] == ["True", "True"]


def test_a_restarted_rank_does_not_find_what_an_attempt_before_left_in_torchruns_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun's store lives through restarts, and holds the address of the rank 0 that died."""
    port = free_port()
    store = torch.distributed.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                        "TORCHELASTIC_USE_AGENT_STORE": "True"}.items():
        monkeypatch.setenv(name, value)
    for attempt in ("0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
        own = _own_store(timedelta(seconds=30))
        assert not own.check(["address of rank 0"])
        own.set("address of rank 0", attempt)
        assert _own_store(timedelta(seconds=30)).get("address of rank 0") == attempt.encode()      # the other rank's
    del store


FAILING_RANK = """
import sys, time, torch
import torch.distributed as dist
from engine.distributed import Ranks, stands_in_group
from errors import InputError, run
dist.destroy_process_group = lambda: time.sleep(1000)       # as NCCL's, which waits for what the other rank has begun
def main():
    with Ranks("cpu") as ranks:
        if ranks.rank == 1:
            raise {error}
        ranks.all_sum(torch.ones(1))
run(main, stands_in_group)
"""


@pytest.mark.parametrize(("error", "code", "last"), [
    ("InputError('image.png is damaged. Restore it.')", 2, "error: image.png is damaged. Restore it."),
    ("ValueError('a bug')", 1, "ValueError: a bug"),
    ("SystemExit(2)", 2, ""),
])
def test_a_rank_that_fails_alone_says_why_and_ends_at_once(error: str, code: int, last: str) -> None:
    """The other one stands in a reduction then, which on GPUs nothing but its end brings to an end."""
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    other, failing = (
        subprocess.Popen([sys.executable, "-c", FAILING_RANK.format(error=error)], cwd=ROOT, stderr=subprocess.PIPE, text=True,
                         env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in (0, 1))
    try:
        said = failing.communicate(timeout=PATIENCE)[1]
        assert failing.returncode == code and said.strip().endswith(last) and ("Traceback" in said) == (code == 1), said
        assert other.wait(PATIENCE) != 0
    finally:
        other.kill()
        other.communicate()


def fail_on_main(rank: int, port: int, folder: str) -> None:
    """Rank 0 raises InputError, rank 1 ends with the same exit code and says nothing."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    ranks = Ranks("cpu")

    def refuse() -> None:
        raise InputError("the file is gone. Restore it.")

    assert ranks.from_main(lambda: {"a": torch.arange(3)})["a"].tolist() == [0, 1, 2]
    assert ranks.any(rank == 1, False) == [True, False] and ranks.all_max(rank, -rank) == [1, 0]
    try:
        ranks.from_main(refuse)
    except (InputError, SystemExit) as error:
        Path(folder, str(rank)).write_text(f"{type(error).__name__} {error}")
    ranks.close()


def test_an_input_error_of_rank_0_ends_all_ranks(tmp_path: Path) -> None:
    multiprocessing.spawn(fail_on_main, (free_port(), str(tmp_path)), nprocs=2)
    assert (tmp_path / "0").read_text() == "InputError the file is gone. Restore it."
    assert (tmp_path / "1").read_text() == "SystemExit 2"
