"""A golden loss curve: twenty steps of the whole pipeline, from files to weights, on a CPU.

The curve was the same with one thread and two, and on every torch and Python that README.md names. A change that moves it
changes training: if that is the intent, take the curve that the failing test prints, and say why in the commit.
"""
import json

import numpy as np

# Box, class and DFL loss of each step.
CURVE = (
    (0.00041, 2.19716, 0.00023),
    (0.00802, 2.18783, 0.00470),
    (0.00369, 2.14687, 0.00221),
    (0.00605, 2.10309, 0.00352),
    (0.00006, 2.01562, 0.00003),
    (0.00054, 1.93102, 0.00030),
    (0.02358, 1.86518, 0.01672),
    (0.00274, 1.76014, 0.00151),
    (0.00396, 1.66152, 0.00289),
    (0.00033, 1.55106, 0.00019),
    (0.00035, 1.42221, 0.00021),
    (0.00646, 1.29334, 0.00370),
    (0.00671, 1.20295, 0.00432),
    (0.00042, 1.09307, 0.00024),
    (0.00029, 0.98451, 0.00018),
    (0.00556, 0.94990, 0.00330),
    (0.00047, 0.79951, 0.00028),
    (0.00187, 0.76790, 0.00107),
    (0.00885, 0.72161, 0.00527),
    (0.00075, 0.66829, 0.00050),
)
SETTINGS = ("train.epochs=20", "train.batch_size=12", "train.nominal_batch=12", "train.close_mosaic=5", "train.lr=0.03",
            "train.warmup_epochs=1", "train.warmup_bias_lr=0.03", "train.image_size=96", "data.val=")


def test_twenty_steps_give_the_losses_that_they_always_gave(tiny_run: object) -> None:
    assert tiny_run.train("run", *SETTINGS) == 0
    lines = (tiny_run.folder / "run/log.jsonl").read_text().splitlines()
    curve = [[json.loads(line)["loss"][name] for name in ("box", "cls", "dfl")] for line in lines]
    print(*(f"    ({', '.join(f'{v:.5f}' for v in step)})," for step in curve), sep="\n")
    np.testing.assert_allclose(curve, CURVE, rtol=1e-3, atol=1e-5)
