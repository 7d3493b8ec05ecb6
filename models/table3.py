"""The variants of the paper's Table III and what each costs.

    python -m models.rs_tinynet --table      parameters beside the paper's, and operations
"""
import argparse

import torch
from torch.utils.flop_counter import FlopCounterMode

from models.rs_tinynet import ModelConfig, build_model

# Table III of the paper, row by row: what is switched on, with the widths that its counts reveal (docs/decisions.md), and
# the parameters that it prints. YOLO11m + P2 is not in the paper: it tells what the stride-4 level alone costs.
ROWS = (
    ("YOLO11m", ModelConfig(), 20_059_176),
    ("YOLO11m + P2", ModelConfig(p2=True), None),
    ("MDCA", ModelConfig(mdca=True), 20_553_992),
    ("ARB", ModelConfig(arb=True), 30_294_440),
    ("PFDH", ModelConfig(pfdh=True, pfdh_width=64), 21_339_925),
    ("MDCA + ARB", ModelConfig(mdca=True, arb=True, mdca_kernel=1), 30_789_252),
    ("ARB + PFDH", ModelConfig(arb=True, pfdh=True), 32_159_637),
    ("MDCA + PFDH", ModelConfig(mdca=True, pfdh=True), 22_059_206),
    ("MDCA + ARB + PFDH", ModelConfig(mdca=True, arb=True, pfdh=True, mdca_kernel=1), 32_159_657),
)
FOOTNOTE = """\
* The paper prints 22,059,206, which is even. PFDH holds 2 x 2 + 3 x 3 + 4 x 4 = 29 biases that weigh inputs, and everything
  else comes in even numbers, so that a network with PFDH has an odd count, as in the other three rows: no choice of widths
  gives the paper's number. Built like its neighbours, the row has 21,924,397."""


def count_gflops(config: ModelConfig, image_size: int) -> float:
    """10^9 operations of the convolutions and matrix products of one deployed forward pass, a multiply-add counted as two."""
    with torch.device("meta"):
        model = build_model(config).deploy()
        image = torch.zeros(1, 3, image_size, image_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    return counter.get_total_flops() / 1e9


def table(image_size: int = 800) -> str:
    """The rows as aligned text."""
    head = f"{'':<19}{'parameters':>12}{'paper':>13}{'difference':>12}{'deployed':>13}{f'GFLOPs at {image_size}':>15}"
    lines = [head]
    for name, config, paper in ROWS:
        with torch.device("meta"):
            model = build_model(config)
            ours = model.reported_parameters()
            deployed = sum(p.numel() for p in model.deploy().parameters())
        printed = f"{paper:,}" if paper else "-"
        difference = f"{ours - paper:+,}" if paper and ours != paper else "0" if paper else "-"
        mark = "*" if paper and ours != paper else " "
        lines.append(f"{name + mark:<19}{ours:>12,}{printed:>13}{difference:>12}{deployed:>13,}"
                     f"{count_gflops(config, image_size):>15.1f}")
    return "\n".join([*lines, FOOTNOTE])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", required=True, help="print the table")
    parser.parse_args()
    print(table())
