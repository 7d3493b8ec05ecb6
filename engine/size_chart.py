"""How many objects there are of each size, how many of them were found, and AP of each range of sizes, as a picture."""
from collections.abc import Callable

import numpy as np

from engine.sheet import FAINT, FIGURE, FOUND, GREY, INK, LINE, MISSED, Sheet, heading_size, text_width
from eval.coco import IOU_THRESHOLDS, Curves, inside_ranges, range_ap
from eval.diagnosis import Diagnosis
from eval.wording import SIZE_NAMES, bounds, curves_note, silence

WIDTH, HEIGHT = 800, 340        # of the plot
CAPTIONS = 3 * LINE + 8         # above it: name, share and AP of a range


def sizes(diagnosis: Diagnosis, curves: Curves) -> np.ndarray:
    """Bars of the objects by the square root of their area, lines at the AP of each range, and a table of the ranges."""
    octaves = np.log2(np.maximum(np.sqrt(diagnosis.area), 1.0))
    low, high = (np.floor(octaves.min()), np.ceil(octaves.max() + 1e-9)) if len(octaves) else (2, 6)
    high = max(high, low + 2)
    per_octave = 4 if high - low > 4 else 8
    edges = np.linspace(low, high, int(high - low) * per_octave + 1)
    total, found = np.histogram(octaves, edges)[0], np.histogram(octaves[diagnosis.found], edges)[0]
    peak, step = _round_axis(total.max(initial=1))

    ious = f"{IOU_THRESHOLDS[0]:.2f} to {IOU_THRESHOLDS[-1]:.2f}"
    notes = [f"{curves_note(curves.protocol)} AP: mean over the IoUs {ious} and over the classes."]
    notes += [] if len(octaves) else ["There is no object that counts."]
    warning = silence(diagnosis)
    wide, head = heading_size(notes, warning)
    left, top = max(76, round(text_width(f"{peak:,.0f}")) + 42), head + LINE + CAPTIONS
    rows = _table(diagnosis, curves)
    below = top + HEIGHT + 68
    sheet = Sheet(max(left + WIDTH + 76, wide), below + LINE * len(rows) + 14)

    def at(octave: float) -> float:
        return left + (octave - low) / (high - low) * WIDTH

    for value in np.arange(0, peak + step / 2, step):
        y = top + HEIGHT * (1 - value / peak)
        sheet.lines([(left, y), (left + WIDTH, y)], FAINT)
        sheet.text(f"{value:,.0f}", left - 8, y, align="right")
    for k, (all_here, found_here) in enumerate(zip(total, found, strict=True)):
        x1, x2 = at(edges[k]) + 1, at(edges[k + 1]) - 1
        split = top + HEIGHT * (1 - found_here / peak)
        sheet.box(x1, top + HEIGHT * (1 - all_here / peak), x2, split, MISSED)
        sheet.box(x1, split, x2, top + HEIGHT, FOUND)
    sheet.lines([(left, top + HEIGHT), (left + WIDTH, top + HEIGHT)], GREY)
    sheet.text("size of the object: square root of its area, in pixels", left + WIDTH / 2, top + HEIGHT + 38, 14,
               align="centre")
    sheet.text("number of objects", 16, top + HEIGHT / 2, 14, align="centre", upward=True)
    for tick in range(0, 101, 20):
        y = top + HEIGHT * (1 - tick / 100)
        sheet.lines([(left + WIDTH, y), (left + WIDTH + 4, y)], FIGURE)
        sheet.text(str(tick), left + WIDTH + 8, y, colour=FIGURE)
    sheet.text("AP in percent", left + WIDTH + 50, top + HEIGHT / 2, 14, FIGURE, "centre", upward=True)
    _ranges(sheet, diagnosis, curves, at, (low, high), top)

    sheet.heading("Objects by size", notes, warning)
    share = diagnosis.found.mean() if len(octaves) else 0
    x = 16.0
    for tint, label in ((FOUND, f"found: right class, IoU 0.5, score {diagnosis.score} or more ({share:.0%})"),
                        (MISSED, "missed")):
        sheet.box(x, head - 6, x + 12, head + 6, tint)
        sheet.text(label, x + 18, head)
        x += text_width(label) + 50
    sheet.lines([(x, head), (x + 18, head)], FIGURE, 2.5)
    sheet.text("AP of a range of sizes", x + 24, head)
    for k, row in enumerate(rows):
        for column, cell in enumerate(row):
            sheet.text(cell, left + (0, 300, 400, 500, 600, 700)[column], below + LINE * k, 12, GREY if k == 0 else INK,
                       "right" if column else "left")
    return sheet.picture()


def _table(diagnosis: Diagnosis, curves: Curves) -> list[tuple[str, ...]]:
    """Every range of sizes, drawn or not: its bounds, objects, the share of all, the share that was found, AP."""
    rows = [("", "side", "objects", "of all", "found", "AP")]
    all_inside = inside_ranges(diagnosis.area, curves.protocol)
    for a, (name, area) in enumerate(curves.protocol.area_ranges.items()):
        inside, figure = all_inside[:, a], range_ap(curves.precision, a)
        rows.append((SIZE_NAMES.get(name, name), bounds(area), f"{inside.sum():,}",
                     *((f"{inside.mean():.0%}", f"{diagnosis.found[inside].mean():.0%}") if inside.any() else ("-", "-")),
                     f"{100 * figure:.1f}" if figure >= 0 else "-"))
    return rows


def _ranges(sheet: Sheet, diagnosis: Diagnosis, curves: Curves, at: Callable[[float], float], span: tuple[float, float],
            top: float) -> None:
    """The ranges as bands: edges with their bounds below, and name, share of the objects and AP as far as there is room."""
    bands, marks, inside = [], set(), inside_ranges(diagnosis.area, curves.protocol)
    for a, (name, area) in enumerate(curves.protocol.area_ranges.items()):
        ends = np.log2(np.sqrt(np.maximum(area, 1e-9)))
        marks |= {float(end) for end in ends if span[0] <= end <= span[1]}
        start, stop = np.clip(ends, *span)
        if a > 0 and start < stop:
            bands.append((name, at(start), at(stop), inside[:, a], range_ap(curves.precision, a)))
    for mark in sorted(marks):
        sheet.lines([(at(mark), top - CAPTIONS), (at(mark), top + HEIGHT)], GREY, 1, dash=4)
    _ticks(sheet, at, span, sorted(marks), top + HEIGHT)

    taken = [[(at(mark), at(mark)) for mark in marks] for _ in range(3)]       # in each line of captions, from x to x
    for name, x1, x2, mine, figure in bands:
        share = f"{mine.mean():.0%}" if len(mine) else ""
        lines = [((SIZE_NAMES.get(name, name), name), INK), ((f"{share} of objects", share) if share else (), GREY)]
        if figure >= 0:
            y = top + HEIGHT * (1 - figure)
            inset = 2 if x2 - x1 > 8 else 0
            sheet.lines([(x1 + inset, y), (x2 - inset, y)], FIGURE, 2.5)
            lines.append(((f"AP {100 * figure:.1f}", f"{100 * figure:.1f}"), FIGURE))
        for row, (choices, tint) in enumerate(lines):
            for text in choices:                            # the longer one, the shorter one, or none: the table has it
                half = text_width(text, bold=row != 1) / 2
                place = (x1 + x2) / 2 - half, (x1 + x2) / 2 + half
                if x1 <= place[0] and all(place[1] + 4 <= start or stop <= place[0] - 4 for start, stop in taken[row]):
                    sheet.text(text, (x1 + x2) / 2, top - CAPTIONS + 8 + LINE * row, 12, tint, "centre", bold=row != 1)
                    taken[row].append(place)
                    break


def _ticks(sheet: Sheet, at: Callable[[float], float], span: tuple[float, float], marks: list[float], y: float) -> None:
    """Labels below the axis: first the bounds of ranges, in bold, then the powers of two that have room beside them."""
    taken = []
    powers = np.arange(span[0], span[1] + 1).tolist()
    for octave, bold in [*((mark, True) for mark in marks), *((power, False) for power in powers if power not in marks)]:
        label = f"{round(2**octave, 1):,g}"
        half = text_width(label, bold=bold) / 2
        sheet.lines([(at(octave), y), (at(octave), y + 4)], GREY)
        if all(abs(at(octave) - x) >= half + other + 6 for x, other in taken):
            sheet.text(label, at(octave), y + 14, align="centre", bold=bold)
            taken.append((at(octave), half))


def _round_axis(peak: float) -> tuple[float, float]:
    """An upper end and a step, both round, for an axis that shows `peak`."""
    step = 10.0 ** np.floor(np.log10(max(peak, 1)))
    for divisor in (5, 2, 1):
        if peak / (step / divisor) <= 6:
            step /= divisor
            break
    step = max(step, 1.0)
    return float(np.ceil(peak / step) * step), float(step)
