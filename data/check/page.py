"""A survey as one page of text, and as plain values for JSON."""
import textwrap
from collections import Counter

from data.check.compare import Comparison
from data.check.figures import RANGES
from data.check.findings import Finding
from data.check.kinds import LEVELS
from data.check.survey import Survey

WIDTH = 116
SHOWN = 3               # culprits of a kind
MOST_CLASSES = 24       # rows
MEANING = {
    "stops": "train.py or test.py refuses it", "hurts": "wrong data to learn from, or wrong figures",
    "note": "handled, or worth knowing",
}


def page(survey: Survey, title: str, looked: str) -> str:
    """The text.

    Args:
        title: what was checked.
        looked: how the images were looked at.
    """
    found = survey.findings.ordered()
    lines = [title, f"{survey.looked_at:,} image files {looked}", ""]
    if survey.splits:
        rows = [[name, f"{s['images']:,}", f"{s['boxes']:,}", s["file"] + (f" ({s['note']})" if s["note"] else "")]
                for name, s in survey.splits.items()]
        lines += [*_table([["", "images", "boxes", ""], *rows]), ""]
    for finding in found:
        lines += _finding(finding)
    if not found:
        lines.append("Nothing is wrong.")
    if survey.splits:
        lines += ["", *_classes(survey), "", *_objects(survey)]
    kinds = Counter(finding.kind.level for finding in found)
    counted = ", ".join(f"{kinds[level]} {level} ({MEANING[level]})" for level in LEVELS if kinds[level])
    verdict = f"Kinds of findings: {counted or 'none'}. Exit code {survey.findings.exit_code}."
    return "\n".join([*lines, "", *textwrap.wrap(verdict, WIDTH)])


def to_dict(survey: Survey) -> dict:
    """The page's content as plain values."""
    published = None
    if survey.comparison:
        published = vars(survey.comparison.published) | {"is": survey.comparison.parts}
    return {"exit_code": survey.findings.exit_code, "images_looked_at": survey.looked_at,
            "findings": [finding.to_dict() for finding in survey.findings.ordered()], "splits": survey.splits,
            "published": published}


def _finding(finding: Finding) -> list[str]:
    kind = finding.kind
    counts = ", ".join(f"{split} {count:,}" if split != "all" else f"{count:,}" for split, count in finding.counts.items())
    head = f"{kind.level:<6} {kind.title}: {counts}"
    first = finding.culprits[:SHOWN]
    several = len(finding.counts) > 1
    named = "; ".join(f"{c.split}: {c}" if several else str(c) for c in first if str(c))
    more = finding.places - len(first)
    if named and more:
        named += f"; and {more:,} more"
    advice = f"{kind.effect} {finding.remedy}"
    indented = {"width": WIDTH, "initial_indent": " " * 7, "subsequent_indent": " " * 7, "break_long_words": False,
                "break_on_hyphens": False}
    return [head, *textwrap.wrap(named, **indented), *textwrap.wrap(advice, **indented)]


def _classes(survey: Survey) -> list[str]:
    """Objects by class and split, beside the published numbers of the splits that are known."""
    splits, comparison = survey.splits, survey.comparison
    known = comparison.published if comparison else None
    head, columns = ["objects by class"], []
    names = list(dict.fromkeys(name for split in splits.values() for name in split["by_class"]))
    for name, split in splits.items():
        head.append(name)
        columns.append({**split["by_class"], "": split["boxes"]})
        part = comparison.parts.get(name) if comparison else None
        if part in (known.by_class if known else ()):
            head.append(f"published ({part})")
            columns.append({c: known.by_class[part][k] for c, k in comparison.names.items()} | {"": known.boxes[part]})
    shown = names if len(names) <= MOST_CLASSES else names[: MOST_CLASSES - 1]
    rest = names[len(shown) :]
    rows = [[name, *(f"{column.get(name, 0):,}" for column in columns)] for name in shown]
    if rest:
        rows.append([f"{len(rest)} more", *(f"{sum(column.get(name, 0) for name in rest):,}" for column in columns)])
    rows.append(["total", *(f"{column['']:,}" for column in columns)])
    lines = _table([head, *rows])
    left_out = {name: sum(split["left_out"].values()) for name, split in splits.items()}
    if any(left_out.values()):
        lines.append("of other classes, which data.classes leaves out: " + ", ".join(f"{k} {v:,}" for k, v in left_out.items()))
    return lines + (_published(comparison) if comparison else [])


def _published(comparison: Comparison) -> list[str]:
    known = comparison.published
    images = ", ".join(f"{part} {count:,}" for part, count in known.images.items())
    text = f"{known.title}: {images} images; {known.all_boxes:,} boxes in all. {known.source}."
    if not comparison.parts:
        text = f"The classes are those of {known.title}, the images are others. {text}"
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False)


def _objects(survey: Survey) -> list[str]:
    """Sizes, objects an image, and what the grid overlooks."""
    splits = survey.splits.values()
    known = survey.comparison.published if survey.comparison else None
    of_known = known is not None and known.mean_side is not None
    rows = [["size of objects (root of the area, px)", *survey.splits, *([known.title] if of_known else [])],
            ["mean", *(f"{s['side']['mean']:.1f}" for s in splits), *([f"{known.mean_side:.1f}"] if of_known else [])],
            ["median", *(f"{s['side']['median']:.1f}" for s in splits)],
            ["under 16", *(f"{s['side']['below_16']:.1%}" for s in splits), *([f"{known.below_16:.1%}"] if of_known else [])]]
    low = 0
    for name, high in RANGES.items():
        label = f"{name}: {low} to {high}" if high < 1e9 else f"{name}: above {low}"
        rows.append([label, *(f"{s['side']['shares'][name]:.1%}" for s in splits)])
        low = high
    rows.append(["objects an image: least, median, most",
                 *("{min:,} {median:,.0f} {max:,}".format(**s["per_image"]) if s["per_image"] else "-" for s in splits)])
    rows += [[f"contain no cell centre, finest stride {finest}", *(f"{s['no_cell'][finest]:.1%}" for s in splits)]
             for finest in next(iter(splits))["no_cell"]]
    return _table(rows)


def _table(rows: list[list[str]]) -> list[str]:
    """Aligned columns: the first and a last one of names to the left, numbers to the right."""
    columns = max(map(len, rows))
    rows = [row + [""] * (columns - len(row)) for row in rows]
    widths = [max(len(row[k]) for row in rows) for k in range(columns)]
    left = {0, *([] if rows[0][-1] else [columns - 1])}
    cells = ([cell.ljust(w) if k in left else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))]
             for row in rows)
    return ["  ".join(row).rstrip() for row in cells]
