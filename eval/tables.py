"""Figures as tables: our own class by class, and beside the paper's where the data set is the paper's.

The paper's tables stand in paper_tables.toml, with their source. A Table renders as aligned text for a terminal or as
Markdown for a README.
"""
import textwrap
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from eval.coco import AITOD, COCO, OLRP_PARTS, Protocol
from eval.scoring import VOC
from eval.voc import DEFINITIONS
from eval.wording import ap_note, olrp_note, protocol_name, voc_note

PAPER = Path(__file__).with_name("paper_tables.toml")
NOTE_WIDTH = 100         # characters of a line in a terminal, unless the table is wider
DATA_SETS = {1: "aitod", 2: "dior", 3: "aitod"}          # of Tables I to III
TITLES = {"aitod": "AI-TOD", "dior": "DIOR"}
DIOR_ROWS = {"AP50_voc07": "VOC07", "AP50_voc12": "VOC12", "AP50_coco": "COCO", "AP50": "COCO"}


class Subject(NamedTuple):
    """What was scored.

    Args:
        name: of our row.
        num_images: that it was scored on.
        num_objects: in them; None: not known.
        parameters, modules: of the network and which of MDCA, ARB and PFDH it has; None for detections without a model.
    """

    name: str
    num_images: int
    parameters: int | None = None
    modules: tuple[bool, bool, bool] | None = None
    num_objects: int | None = None


class Result(NamedTuple):
    """A finished run, or one that is still to come."""

    subject: Subject
    metrics: dict | None = None         # as in metrics.json


class Table(NamedTuple):
    """A table of texts.

    Args:
        rows: as wide as `header`; the first column and those in `left` are set left, the others right.
        ours: how many of the last rows are ours; they stand below a line, or in bold.
        note: a line or more below, or "".
    """

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    ours: int = 0
    note: str = ""
    left: tuple[str, ...] = ()

    def text(self) -> str:
        """Aligned columns."""
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        pads = [str.ljust if self._is_left(k) else str.rjust for k in range(len(self.header))]
        lines = ["  ".join(pad(cell, width) for pad, cell, width in zip(pads, row, widths, strict=True)).rstrip()
                 for row in (self.header, *self.rows)]
        rule = "-" * max(map(len, lines))
        lines.insert(1, rule)
        if self.ours:
            lines.insert(len(lines) - self.ours, rule)
        width = max(len(rule), NOTE_WIDTH)
        return "\n".join([self.title, *lines, *(textwrap.fill(line, width) for line in self.note.splitlines())])

    def markdown(self) -> str:
        """A table of GitHub's Markdown under a heading."""
        aligned = tuple(":---" if self._is_left(k) else "---:" for k in range(len(self.header)))
        first = len(self.rows) - self.ours
        rows = [tuple(c and f"**{c}**" for c in row) if k >= first else row for k, row in enumerate(self.rows)]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (self.header, aligned, *rows)]
        return "\n".join([f"### {self.title}", "", *lines, *(["", self.note] if self.note else [])])

    def _is_left(self, k: int) -> bool:
        return k == 0 or self.header[k] in self.left


def all_tables(metrics: dict, subject: Subject, protocol: Protocol) -> list[Table]:
    """Our tables and, for the classes of AI-TOD or DIOR and figures as the paper takes them, its tables with our row below.

    Args:
        metrics: as in metrics.json, by `protocol`; one with ranges or limits of its own stands beside nothing.
    """
    paper = tomllib.loads(PAPER.read_text(encoding="utf-8"))
    tables = [own_table(metrics, subject, protocol)]
    if OLRP_PARTS[0] in metrics:
        tables.append(olrp_table(metrics, subject, protocol))
    protocol = replace(protocol, olrp=False)
    classes = known_classes(list(metrics["per_class"]))
    if protocol == AITOD and classes == "aitod":
        tables.append(_table1(metrics, subject, paper))
        if subject.parameters is not None:
            tables.append(_table3(metrics, subject, paper))
    if protocol in (COCO, VOC) and classes == "dior":
        tables.append(_table2(metrics, subject, paper))
    return tables


def own_table(metrics: dict, subject: Subject, protocol: Protocol) -> Table:
    """Metrics in percent but for oLRP, all classes first, then class by class; "-" where there is no object."""
    columns = [name for name in metrics if name not in ("per_class", *OLRP_PARTS)]
    rows = [(name, *(_percent(values[c]) for c in columns)) for name, values in
            (("all", metrics), *metrics["per_class"].items())]
    title = f"{subject.name}: {_images(subject)}, {protocol_name(protocol)}, in percent"
    note = voc_note() if columns == list(DEFINITIONS) else ap_note(protocol)
    return Table(title, ("class", *columns), rows, note=note)


def olrp_table(metrics: dict, subject: Subject, protocol: Protocol) -> Table:
    """oLRP and its parts in percent and the score where it is lowest; "-" for what is not defined."""
    parts, score = OLRP_PARTS[:-1], OLRP_PARTS[-1]
    rows = [(name, *(_percent(values[part]) for part in parts), f"{values[score]:.3g}" if values.get(score, -1) >= 0 else "-")
            for name, values in (("all", metrics), *metrics["per_class"].items())]
    title = f"{subject.name}: {_images(subject)}, {protocol_name(protocol)}, oLRP in percent (lower is better)"
    return Table(title, ("class", *OLRP_PARTS), rows, note=olrp_note())


def _table1(metrics: dict, subject: Subject, paper: dict) -> Table:
    data = paper["aitod"]
    return _beside(data, _row1(metrics, subject, data), subject, left=("Backbone",))


def _row1(metrics: dict, subject: Subject, data: dict) -> list[tuple[str, ...]]:
    return [(subject.name, "-", "-", *(_percent(metrics[name]) for name in data["columns"][3:]))]


def _table2(metrics: dict, subject: Subject, paper: dict) -> Table:
    data = paper["dior"]
    return _beside(data, _rows2(metrics, subject, data), subject)


def _rows2(metrics: dict, subject: Subject, data: dict) -> list[tuple[str, ...]]:
    values = {_plain(name): figures for name, figures in metrics["per_class"].items()}
    return [(f"{subject.name}, {label}", *(_percent(values[_plain(c)][key]) for c in data["classes"]), _percent(metrics[key]))
            for key, label in DIOR_ROWS.items() if key in metrics]


def _table3(metrics: dict, subject: Subject, paper: dict) -> Table:
    data = paper["ablation"]
    rows = [["YOLOv11m", *row] for row in data["rows"]]
    ours = (subject.name, *map(_cell, subject.modules), *(_percent(metrics[name]) for name in ("AP", "AP50", "AP75")),
            f"{subject.parameters:,}")
    data = {**data, "columns": ["Baseline", *data["columns"]], "rows": rows,
            **{key: paper["aitod"][key] for key in ("test_images", "test_objects")}}
    return _beside(data, [ours], subject, left=("MDCA", "ARB", "PFDH"))


def unlike_paper(number: int, class_names: list[str], num_images: int, num_objects: int) -> list[str]:
    """Why figures of a test set cannot stand beside Table I, II or III (`number`), in phrases; empty where they can."""
    paper = tomllib.loads(PAPER.read_text(encoding="utf-8"))
    name = DATA_SETS[number]
    data, found = paper[name], []
    if known_classes(class_names) != name:
        found.append(f"classes other than {TITLES[name]}'s")
    if num_images != data["test_images"]:
        found.append(f"tested on {num_images:,} images instead of {data['test_images']:,}")
    objects = data.get("test_objects", num_objects)
    if abs(num_objects - objects) > objects / 1000:
        found.append(f"tested on {num_objects:,} objects instead of {objects:,}")
    return found


def reproduction(number: int, results: list[Result], obstacles: list[str]) -> Table:
    """Runs of Table I, II or III (`number`) beside the paper's figures, or alone where something stands against it.

    Args:
        results: in the order of their rows; those of Table III in the order of models.table3.ROWS.
        obstacles: why the figures are not the paper's experiment; then none of the paper's figures is in the table.
    """
    paper = tomllib.loads(PAPER.read_text(encoding="utf-8"))
    done = sum(result.metrics is not None for result in results)
    state = f"{done} of {len(results)} runs finished"
    if obstacles:
        return _mechanism(number, results, obstacles, state, paper)
    if number == 3:
        return _ablation(results, state, paper)
    data = paper[DATA_SETS[number]]
    rows = []
    for subject, metrics in results:
        if metrics is not None:
            rows += _row1(metrics, subject, data) if number == 1 else _rows2(metrics, subject, data)
    theirs = [tuple(map(_cell, row)) for row in data["rows"]]
    return Table(f"{data['table']}, reproduced: {state}", tuple(data["columns"]), [*theirs, *rows], len(rows),
                 "The last rows are ours." if rows else "", ("Backbone",) if number == 1 else ())


def _mechanism(number: int, results: list[Result], obstacles: list[str], state: str, paper: dict) -> Table:
    """Our figures alone."""
    keys = {1: paper["aitod"]["columns"][3:], 2: list(DEFINITIONS), 3: ["AP", "AP50", "AP75"]}[number]
    rows = [(result.subject.name, *(_percent((result.metrics or {}).get(key, -1)) for key in keys),
             f"{result.subject.parameters:,}") for result in results]
    note = ("Mechanism only: these runs show that every step works, and say nothing about the paper's figures, none of which "
            f"stand here. What differs from its experiment: {'; '.join(obstacles)}.")
    name = paper["ablation" if number == 3 else DATA_SETS[number]]["table"]
    return Table(f"Mechanism only, the rows of {name}: {state}", ("Model", *keys, "Params"), rows, note=note)


def _ablation(results: list[Result], state: str, paper: dict) -> Table:
    """Table III with the paper's figure to the right of each of ours."""
    data = paper["ablation"]
    printed = {tuple(row[:3]): row[3:] for row in data["rows"]}
    keys = data["columns"][3:6]
    rows = []
    for result in results:
        subject = result.subject
        # YOLO11m + P2 has none of the modules either, and no row in the paper
        theirs = printed[subject.modules] if not subject.name.endswith("P2") else ("-",) * 4
        ours = [*(_percent((result.metrics or {}).get(key, -1)) for key in keys), f"{subject.parameters:,}"]
        rows.append((subject.name, *(cell for pair in zip(ours, map(_cell, theirs), strict=True) for cell in pair)))
    header = ("Model", *(cell for key in (*keys, "Params") for cell in (key, "paper")))
    return Table(f"{data['table']}, reproduced: {state}", header, rows)


def _beside(data: dict, ours: list[tuple[str, ...]], subject: Subject, left: tuple[str, ...] = ()) -> Table:
    rows = [tuple(map(_cell, row)) for row in data["rows"]]
    note = ""
    last = "row is" if len(ours) == 1 else "rows are"
    objects = data.get("test_objects")
    if subject.num_images != data["test_images"]:
        note = (f"Not comparable: the paper's figures are of {data['test_images']:,} test images, the last {last} of "
                f"{subject.num_images:,} images.")
    elif objects and subject.num_objects and abs(subject.num_objects - objects) > objects / 1000:
        note = (f"Not comparable: the paper's figures are of {objects:,} objects, the last {last} of {subject.num_objects:,} "
                "in as many images: other annotations, such as AI-TOD-v2's.")
    return Table(f"{data['table']} of the RS-TinyNet paper, with {subject.name} below", tuple(data["columns"]), [*rows, *ours],
                 len(ours), note, left)


def known_classes(names: list[str]) -> str:
    """"aitod" or "dior" where these are the classes of that benchmark, in whatever order and spelling, else ""."""
    paper = tomllib.loads(PAPER.read_text(encoding="utf-8"))
    same = (name for name in ("aitod", "dior") if sorted(map(_plain, names)) == sorted(map(_plain, paper[name]["classes"])))
    return next(same, "")


def _plain(name: str) -> str:
    """A class name without what its spellings differ in: capitals, hyphens, spaces."""
    return "".join(c for c in name.lower() if c.isalnum())


def _images(subject: Subject) -> str:
    return f"{subject.num_images:,} image{'s' if subject.num_images != 1 else ''}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if value >= 0 else "-"


def _cell(value: bool | int | float | str) -> str:
    """A value of the TOML file as the paper prints it; the counts of parameters with commas."""
    if isinstance(value, bool):
        return "x" if value else ""
    if isinstance(value, int):
        return f"{value:,}" if value >= 10_000 else str(value)
    return f"{value:.1f}" if isinstance(value, float) else value
