"""Fixtures for tests of the engine: a run that takes seconds."""
from pathlib import Path

import pytest

import train

SETTINGS = """
[data]
root = "{root}"
train = "train.json"
val = "train.json"
test = "train.json"

[model]
scale = "n"

[assigner]
min_box_side = 16

[train]
epochs = 2
batch_size = 4
nominal_batch = 8
image_size = 64
warmup_epochs = 1
close_mosaic = 1
ema_updates = 5
workers = 0
device = "cpu"
"""


class TinyRun:
    """Runs of train.py on a TinySet: three batches an epoch, two epochs, two batches a step after the warm-up."""

    def __init__(self, tiny_set: object, folder: Path):
        self.data = tiny_set
        self.folder = folder
        self.config = folder / "tiny.toml"
        self.config.write_text(SETTINGS.format(root=tiny_set.root))

    def train(self, output: str, *arguments: str) -> int:
        """Train into folder/output; returns the exit code."""
        return train.main(["--config", str(self.config), "--output", str(self.folder / output), *arguments])


@pytest.fixture
def tiny_run(tiny_set: object, tmp_path: Path) -> TinyRun:
    return TinyRun(tiny_set, tmp_path)


@pytest.fixture(scope="session")
def trained(shared_tiny_set: object, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A run of one epoch in folder/run, for all tests; they write elsewhere."""
    run = TinyRun(shared_tiny_set, tmp_path_factory.mktemp("trained"))
    assert run.train("run", "train.epochs=1", "data.val=") == 0
    return run
