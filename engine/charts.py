"""What an evaluation found, as pictures: precision-recall curves, sizes found and missed, classes confused."""
import numpy as np

from engine.drawing import colour
from engine.sheet import FAINT, FIGURE, FOUND, GREY, INK, Colour, Sheet, drawable_names, heading_size, text_width
from engine.size_chart import sizes
from eval.coco import IOU_THRESHOLDS, RECALL_POINTS, Curves
from eval.diagnosis import Diagnosis, diagnose
from eval.scoring import Scored
from eval.wording import curves_note, silence

BEYOND = (200, 200, 200)  # curves without a colour of their own
LEGEND_ROWS = 21          # DIOR's twenty classes and their mean in one column
MOST_CURVES = 24          # with a colour of their own: twelve hues, solid and dashed
MOST_COUNTS = 25          # classes whose cells of the confusion are large enough for a count
MOST_CLASSES = 100        # in the confusion; more could not be told apart, and a thousand would make it 26,000 pixels wide


def draw_charts(scored: Scored) -> dict[str, np.ndarray]:
    """Name -> (H, W, 3) uint8 RGB."""
    diagnosis = diagnose(scored.truth, scored.detections)
    return {
        "precision_recall": precision_recall(scored.curves),
        "sizes": sizes(diagnosis, scored.curves),
        "confusion": confusion(diagnosis),
    }


def precision_recall(curves: Curves) -> np.ndarray:
    """Interpolated precision over recall of each class and their mean, at IoU 0.5 and 0.75, best class first.

    Of more than MOST_CURVES classes the best and the worst have colours, the others are faint.
    """
    # (2, R, K): all sizes, the highest limit of detections
    precision = curves.precision[[int(np.abs(IOU_THRESHOLDS - iou).argmin()) for iou in (0.5, 0.75)], :, :, 0, -1]
    present = np.flatnonzero(precision[0, 0] >= 0)
    present = present[np.argsort(-precision[0].mean(0)[present], kind="stable")]
    names, notes = _names(curves.category_names)
    notes = [curves_note(curves.protocol), "The further up and right a curve, the better. A class's curve ends at the share of "
             "its objects that is found at all; from there on it counts as 0 in the mean.", *notes]
    chosen, others = present, present[:0]
    if len(present) > MOST_CURVES:
        half = MOST_CURVES // 2
        chosen, others = np.concatenate((present[:half], present[-half:])), present[half:-half]
        notes.append(f"Of {len(present):,} classes the {half} best and the {half} worst have colours; the others are faint.")
    entries = [("all classes", precision[:, :, present].mean(2), INK, 0.0, 3.0)] if len(present) else []
    for rank, k in enumerate(chosen):
        place = k if len(names) <= MOST_CURVES else rank
        entries.append((names[k], precision[:, :, k], _tint(place), 0.0 if place % MOST_CURVES < 12 else 7.0, 1.5))
    columns = [entries[start : start + LEGEND_ROWS] for start in range(0, len(entries), LEGEND_ROWS)]
    if len(others):
        columns = [entries[: half + 1], entries[half + 1 :]]
    else:
        notes += [] if len(present) else ["No class has an object that counts."]

    wide, head = heading_size(notes)
    side, top, gap = 380, head + 30, 70
    width = max([text_width(e[0], bold=True) for e in entries], default=0) + 140
    legend = gap + 2 * (side + gap) - 30
    sheet = Sheet(max(round(legend + len(columns) * width), wide), top + side + 56)
    sheet.heading("Precision and recall", notes)
    for panel, iou in enumerate((0.5, 0.75)):
        left = gap + panel * (side + gap)
        sheet.text(f"IoU {iou} or more", left + side / 2, top - 18, 14, align="centre")
        _unit_axes(sheet, left, top, side)
        for values, tint, dash, thick in [*((precision[:, :, k], BEYOND, 0.0, 1.0) for k in others),
                                          *(entry[1:] for entry in reversed(entries))]:
            reached = np.flatnonzero(values[panel] > 0)
            if len(reached):
                last = reached[-1] + 1
                points = np.stack((left + RECALL_POINTS[:last] * side, top + (1 - values[panel][:last]) * side), 1)
                sheet.lines(points, tint, thick, dash)
    for c, column in enumerate(columns):
        x = legend + c * width
        for shift, head in ((67, "AP50"), (22, "AP75")):
            sheet.text(head, x + width - shift, top - 8, 12, GREY, "right")
        for row, (name, values, tint, dash, thick) in enumerate(column):
            y, bold = top + 12 + 18 * row, c == row == 0
            sheet.lines([(x, y), (x + 24, y)], tint, thick, dash)
            sheet.text(name, x + 32, y, bold=bold)
            for shift, value in ((67, values[0].mean()), (22, values[1].mean())):
                sheet.text(f"{100 * value:.1f}", x + width - shift, y, align="right", bold=bold)
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


def confusion(diagnosis: Diagnosis) -> np.ndarray:
    """Which class was taken for which: rows are the objects' classes, columns the predicted ones.

    A cell's colour tells of trouble: where they are wrong, the larger share of the row or the column, so that a rare class that
    a frequent one is taken for can be seen; where they are right, the smaller one.
    """
    shown = _most_confused(diagnosis.confusion)
    names, notes = _names(diagnosis.class_names)
    names = [names[k] for k in shown]
    kept = [*shown, len(diagnosis.class_names)]
    counts = diagnosis.confusion[np.ix_(kept, kept)]
    objects, predicted = diagnosis.confusion[kept].sum(1, keepdims=True), diagnosis.confusion[:, kept].sum(0)
    of_row, of_column = counts / np.maximum(objects, 1), counts / np.maximum(predicted, 1)
    of_row[-1], of_column[:, -1] = 0, 0             # false alarms and misses have no class to be shares of
    share = np.where(np.eye(len(counts), dtype=bool), np.minimum(of_row, of_column), np.maximum(of_row, of_column))

    size = len(counts)
    cell = 58 if size <= 12 else 44 if size <= MOST_COUNTS + 1 else 26
    rows, columns = [*names, "(nothing)"], [*names, "(missed)"]
    foot = ("Blue, right: the smaller share of its row (objects) or column (predictions).",
            "Orange, wrong: the larger share of its row or column.")
    notes = [f"Detections with a score of {diagnosis.score} or more, each paired with one object at IoU 0.5.", *notes]
    if len(shown) < len(diagnosis.class_names):
        notes.append(f"Of {len(diagnosis.class_names):,} classes only the {len(shown)} that are confused most are drawn.")
    warning = silence(diagnosis)
    left = round(max(map(text_width, rows))) + 54
    wide, head = heading_size(notes, warning)
    top = head + 36 + round(max(map(text_width, columns)))
    sheet = Sheet(max(left + size * cell + 24, wide, heading_size(foot)[0]), top + size * cell + 54)
    sheet.heading("Classes confused", notes, warning)
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
    sheet.text("predicted as", left + size * cell / 2, head + 8, 14, align="centre")
    for k, line in enumerate(foot):
        sheet.text(line, 16, top + size * cell + 18 + 18 * k, 12, GREY)
    return sheet.picture()


def _most_confused(confusion: np.ndarray) -> np.ndarray:
    """The classes to draw, ascending: all, or those most often taken for another or the other way round, then the largest."""
    between = confusion[:-1, :-1]
    confused = between.sum(0) + between.sum(1) - 2 * between.diagonal()
    order = np.lexsort((-confusion[:-1].sum(1), -confused))
    return np.sort(order[:MOST_CLASSES])


def _names(names: list[str]) -> tuple[list[str], list[str]]:
    """Names as they can be drawn, and a line for the reader where they are others."""
    drawn = drawable_names(names)
    numbered = any(new.startswith("class ") and new != name for name, new in zip(names, drawn, strict=True))
    return drawn, ["Class names that cannot be drawn are numbers here, in the order of the category ids."] if numbered else []


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
