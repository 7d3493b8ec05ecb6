"""What an evaluation found, as pictures: precision-recall curves, sizes found and missed, classes confused."""
from collections.abc import Callable

import numpy as np

from engine.drawing import colour
from engine.sheet import INK, Colour, Sheet, text_width
from eval.coco import IOU_THRESHOLDS, RECALL_POINTS, Curves
from eval.diagnosis import Diagnosis, diagnose
from eval.scoring import Scored

GREY, FAINT = (120, 120, 120), (225, 225, 225)
FOUND, MISSED, FIGURE = (74, 124, 176), (212, 212, 212), (196, 78, 24)
SIZE_NAMES = {"vt": "very tiny", "t": "tiny", "s": "small", "m": "medium", "l": "large"}
LEGEND_ROWS = 21          # DIOR's twenty classes and their mean in one column
MOST_CLASSES = 100        # in one picture; more could not be told apart, and a thousand would make it 26,000 pixels wide


def draw_charts(scored: Scored) -> dict[str, np.ndarray]:
    """Name -> (H, W, 3) uint8 RGB."""
    diagnosis = diagnose(scored.truth, scored.detections)
    return {
        "precision_recall": precision_recall(scored.curves),
        "sizes": sizes(diagnosis, scored.curves),
        "confusion": confusion(diagnosis),
    }


def precision_recall(curves: Curves) -> np.ndarray:
    """Interpolated precision over recall of each class and their mean, at IoU 0.5 and 0.75, best class first."""
    # (2, R, K): all sizes, the highest limit of detections
    precision = curves.precision[[int(np.abs(IOU_THRESHOLDS - iou).argmin()) for iou in (0.5, 0.75)], :, :, 0, -1]
    present = np.flatnonzero(precision[0, 0] >= 0)
    present = present[np.argsort(-precision[0].mean(0)[present], kind="stable")]
    entries = [("all classes", precision[:, :, present].mean(2), INK, 0.0, 3.0)] if len(present) else []
    note = "The further up and right a curve, the better; it ends at the share of objects that is found at all."
    if len(present) > MOST_CLASSES:
        half = MOST_CLASSES // 2
        note += f" Of {len(present):,} classes only the {half} best and the {half} worst are drawn."
        present = np.concatenate((present[:half], present[-half:]))
    for k in present:
        entries.append((curves.category_names[k], precision[:, :, k], _tint(k), 0.0 if k % 24 < 12 else 7.0, 1.5))

    side, top, gap = 380, 90, 70
    names = max([text_width(e[0], bold=True) for e in entries], default=0) + 140
    columns = max(1, -(-len(entries) // LEGEND_ROWS))
    legend = gap + 2 * (side + gap) - 30
    sheet = Sheet(round(legend + columns * names), top + side + 56)
    sheet.text("Precision and recall", 16, 22, 15, bold=True)
    sheet.text(note, 16, 42, 12, GREY)
    for panel, iou in enumerate((0.5, 0.75)):
        left = gap + panel * (side + gap)
        sheet.text(f"IoU {iou} or more", left + side / 2, top - 18, 14, align="centre")
        _unit_axes(sheet, left, top, side)
        for _, values, tint, dash, width in reversed(entries):
            reached = np.flatnonzero(values[panel] > 0)
            if len(reached):
                last = reached[-1] + 1
                points = np.stack((left + RECALL_POINTS[:last] * side, top + (1 - values[panel][:last]) * side), 1)
                sheet.lines(points, tint, width, dash)
    for k, (name, values, tint, dash, width) in enumerate(entries):
        x, row = legend + k // LEGEND_ROWS * names, k % LEGEND_ROWS
        if row == 0:
            for shift, head in ((67, "AP50"), (22, "AP75")):
                sheet.text(head, x + names - shift, top - 8, 12, GREY, "right")
        y = top + 12 + 18 * row
        sheet.lines([(x, y), (x + 24, y)], tint, width, dash)
        sheet.text(name, x + 32, y, bold=k == 0)
        for shift, value in ((67, values[0].mean()), (22, values[1].mean())):
            sheet.text(f"{100 * value:.1f}", x + names - shift, y, align="right", bold=k == 0)
    return sheet.picture()


def _unit_axes(sheet: Sheet, left: float, top: float, side: float) -> None:
    """Recall and precision from 0 to 1."""
    for tick in np.linspace(0, 1, 6):
        x, y = left + tick * side, top + (1 - tick) * side
        sheet.lines([(x, top), (x, top + side)], FAINT)
        sheet.lines([(left, y), (left + side, y)], FAINT)
        sheet.text(f"{tick:.1f}", x, top + side + 14, align="centre")
        sheet.text(f"{tick:.1f}", left - 8, y, align="right")
    sheet.lines([(left, top), (left, top + side), (left + side, top + side)], GREY)
    sheet.text("recall", left + side / 2, top + side + 36, 14, align="centre")
    sheet.text("precision", left - 46, top + side / 2, 14, align="centre", upward=True)


def sizes(diagnosis: Diagnosis, curves: Curves) -> np.ndarray:
    """How many objects there are of each size, how many of them were found, and AP of each range of sizes."""
    sides = np.maximum(diagnosis.sides, 1.0)
    low, high = (np.floor(np.log2(sides.min())), np.ceil(np.log2(sides.max() + 1e-9))) if len(sides) else (2, 6)
    high = max(high, low + 2)
    per_octave = 4 if high - low > 4 else 8
    edges = np.linspace(low, high, int(high - low) * per_octave + 1)
    total = np.histogram(np.log2(sides), edges)[0]
    found = np.histogram(np.log2(sides[diagnosis.found]), edges)[0]

    left, top, width, height = 76, 128, 800, 340
    sheet = Sheet(left + width + 76, top + height + 62)

    def at(octave: float) -> float:
        return left + (octave - low) / (high - low) * width

    peak, step = _round_axis(total.max(initial=1))
    for value in np.arange(0, peak + step / 2, step):
        y = top + height * (1 - value / peak)
        sheet.lines([(left, y), (left + width, y)], FAINT)
        sheet.text(f"{value:,.0f}", left - 8, y, align="right")
    for k, (all_here, found_here) in enumerate(zip(total, found, strict=True)):
        x1, x2 = at(edges[k]) + 1, at(edges[k + 1]) - 1
        split = top + height * (1 - found_here / peak)
        sheet.box(x1, top + height * (1 - all_here / peak), x2, split, MISSED)
        sheet.box(x1, split, x2, top + height, FOUND)
    for octave in np.arange(low, high + 1):
        sheet.text(f"{2 ** octave:g}", at(octave), top + height + 14, align="centre")
        sheet.lines([(at(octave), top + height), (at(octave), top + height + 4)], GREY)
    sheet.lines([(left, top + height), (left + width, top + height)], GREY)
    sheet.text("size of the object: square root of its area, in pixels", left + width / 2, top + height + 38, 14,
               align="centre")
    sheet.text("number of objects", 16, top + height / 2, 14, align="centre", upward=True)
    for tick in range(0, 101, 20):
        y = top + height * (1 - tick / 100)
        sheet.lines([(left + width, y), (left + width + 4, y)], FIGURE)
        sheet.text(str(tick), left + width + 8, y, colour=FIGURE)
    sheet.text("AP in percent", left + width + 50, top + height / 2, 14, FIGURE, "centre", upward=True)
    _size_ranges(sheet, diagnosis, curves, at, (low, high), top, height)

    sheet.text("Objects by size", left, 22, 15, bold=True)
    share = diagnosis.found.mean() if len(diagnosis.found) else 0
    x = left
    for tint, label in ((FOUND, f"found: right class, IoU 0.5, score {diagnosis.score} or more ({share:.0%})"),
                        (MISSED, "missed")):
        sheet.box(x, 40, x + 12, 52, tint)
        sheet.text(label, x + 18, 46)
        x += text_width(label) + 50
    sheet.lines([(x, 46), (x + 18, 46)], FIGURE, 2.5)
    sheet.text("AP of a range of sizes", x + 24, 46)
    return sheet.picture()


def _size_ranges(sheet: Sheet, diagnosis: Diagnosis, curves: Curves, at: Callable[[float], float], span: tuple[float, float],
                 top: float, height: float) -> None:
    """The protocol's ranges of area as bands: name, bounds, share of the objects, and a line at the height of AP."""
    for a, (name, area) in enumerate(curves.protocol.area_ranges.items()):
        bounds = np.log2(np.sqrt(np.maximum(area, 1e-9)))
        x1, x2 = (at(v) for v in np.clip(bounds, *span))
        if a == 0 or x2 - x1 < 1:
            continue
        for x in (x1, x2):
            sheet.lines([(x, top - 56), (x, top + height)], GREY, 1, dash=4)
        inside = (diagnosis.sides**2 >= area[0]) & (diagnosis.sides**2 <= area[1])
        values = curves.precision[:, :, :, a, -1]
        middle = (x1 + x2) / 2
        lines = [SIZE_NAMES.get(name, name), f"{inside.mean():.0%} of objects" if len(inside) else ""]
        if (values > -1).any():
            figure = values[values > -1].mean()
            lines.append(f"AP {100 * figure:.1f}")
            y = top + height * (1 - figure)
            sheet.lines([(x1 + 2, y), (x2 - 2, y)], FIGURE, 2.5)
        for k, (line, tint) in enumerate(zip(lines, (INK, GREY, FIGURE), strict=False)):
            sheet.text(line, middle, top - 50 + 18 * k, 12, tint, "centre", bold=k != 1)


def _round_axis(peak: float) -> tuple[float, float]:
    """An upper end and a step, both round, for an axis that shows `peak`."""
    step = 10.0 ** np.floor(np.log10(max(peak, 1)))
    for divisor in (5, 2, 1):
        if peak / (step / divisor) <= 6:
            step /= divisor
            break
    step = max(step, 1.0)
    return float(np.ceil(peak / step) * step), float(step)


def confusion(diagnosis: Diagnosis) -> np.ndarray:
    """Which class was taken for which: rows are the objects' classes, columns the predicted ones."""
    shown = _most_confused(diagnosis.confusion)
    names = [diagnosis.class_names[k] for k in shown]
    kept = [*shown, len(diagnosis.class_names)]
    counts = diagnosis.confusion[np.ix_(kept, kept)]
    objects, predicted = diagnosis.confusion[shown].sum(1, keepdims=True), diagnosis.confusion[:, shown].sum(0)
    share = np.zeros(counts.shape)
    share[:-1] = counts[:-1] / np.maximum(objects, 1)
    share[-1, :-1] = counts[-1, :-1] / np.maximum(predicted, 1)

    size = len(counts)
    cell = 58 if size <= 12 else 44 if size <= 24 else 26
    rows, columns = [*names, "(nothing)"], [*names, "(missed)"]
    left = round(max(map(text_width, rows))) + 54
    top = round(max(map(text_width, columns))) + 96
    foot = ("Colour: share of the row; in the last row (false alarms) share of the column.", "Blue: right. Orange: wrong.")
    note = f"Detections with a score of {diagnosis.score} or more, each paired with one object at IoU 0.5."
    if len(shown) < len(diagnosis.class_names):
        note += f" Of {len(diagnosis.class_names):,} classes only the {len(shown)} that are confused most are drawn."
    sheet = Sheet(max(left + size * cell + 24, round(max(map(text_width, (*foot, note)))) + 40), top + size * cell + 54)
    for r in range(size):
        sheet.text(rows[r], left - 10, top + (r + 0.5) * cell, align="right")
        sheet.text(columns[r], left + (r + 0.5) * cell, top - 10, upward=True)
        for c in range(size):
            x, y = left + c * cell, top + r * cell
            if r == c == size - 1:
                sheet.box(x, y, x + cell, y + cell, (244, 244, 244))
                continue
            tint = _blend(FOUND if r == c else FIGURE, share[r, c])
            sheet.box(x, y, x + cell, y + cell, tint)
            if counts[r, c] and cell >= 40:
                dark = share[r, c] > 0.75
                sheet.text(_short(counts[r, c]), x + cell / 2, y + cell / 2, 12, (255, 255, 255) if dark else INK, "centre")
    for k in range(size + 1):
        heavy = GREY if k in (0, size - 1, size) else FAINT
        sheet.lines([(left + k * cell, top), (left + k * cell, top + size * cell)], heavy)
        sheet.lines([(left, top + k * cell), (left + size * cell, top + k * cell)], heavy)
    sheet.text("object", 16, top + size * cell / 2, 14, align="centre", upward=True)
    sheet.text("predicted as", left + size * cell / 2, 68, 14, align="centre")
    sheet.text("Classes confused", 16, 22, 15, bold=True)
    sheet.text(note, 16, 42, 12, GREY)
    for k, line in enumerate(foot):
        sheet.text(line, 16, top + size * cell + 18 + 18 * k, 12, GREY)
    return sheet.picture()


def _most_confused(confusion: np.ndarray) -> np.ndarray:
    """The classes to draw, ascending: all, or those most often taken for another or the other way round, then the largest."""
    between = confusion[:-1, :-1]
    confused = between.sum(0) + between.sum(1) - 2 * between.diagonal()
    order = np.lexsort((-confusion[:-1].sum(1), -confused))
    return np.sort(order[:MOST_CLASSES])


def _tint(label: int) -> Colour:
    """A class's colour, dark enough for a white sheet."""
    return tuple(int(0.8 * c) for c in colour(int(label)))


def _blend(tint: Colour, weight: float) -> Colour:
    """From white to a colour; small shares can still be told from none."""
    weight = 0.06 + 0.94 * weight if weight > 0 else 0.0
    return tuple(round(255 + (c - 255) * weight) for c in tint)


def _short(count: int) -> str:
    """A count in at most five characters."""
    for limit, unit in ((1e6, "M"), (1e4, "k")):
        if count >= limit:
            value = count / (1e6 if unit == "M" else 1e3)
            return f"{value:.1f}{unit}" if value < 100 else f"{value:.0f}{unit}"
    return str(count)
