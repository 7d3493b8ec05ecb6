"""Which published set this is, and its numbers beside ours."""
from dataclasses import dataclass

from data.aitod_layout import AS_MANY_AS_V2
from data.check.places import family
from data.published import Published, load_published, plain

MAY_BE = {"train": ("train", "trainval"), "val": ("val", "test"), "test": ("test",)}
TOLERANCE = 0.1         # images may differ by this share for a split to be taken for a published one


@dataclass(frozen=True)
class Comparison:
    """A published set of the same classes."""

    published: Published
    parts: dict[str, str]       # our split -> the published split that it is; empty: the images are others
    names: dict[str, int]       # our class names -> their places in the published order


def compare(classes: tuple[str, ...], splits: dict[str, dict]) -> Comparison | None:
    """The published set whose classes these are, whatever their spelling and order; None when there is none.

    Args:
        splits: figures by split (see data/check/figures.py).
    """
    sets = {name: s for name, s in load_published().items() if {*map(plain, s.classes)} == {*map(plain, classes)}}
    if not sets:
        return None
    first = next(iter(sets.values()))
    parts = {}
    for name, split in splits.items():
        for part in sorted(MAY_BE[name], key=lambda part: abs(first.images[part] - split["images"]))[:1]:
            if abs(first.images[part] - split["images"]) <= TOLERANCE * first.images[part]:
                parts[name] = part
    chosen = first
    if len(sets) > 1:                                           # AI-TOD v1 or v2, which label the same images
        versions = [f[0] for split in splits.values() if (f := family(split["file"].rpartition("/")[2]))]
        ours, of_v1 = sum(splits[name]["boxes"] for name in parts), sum(first.boxes[part] for part in parts.values())
        second = max(versions) == 2 if versions else ours > AS_MANY_AS_V2 * of_v1
        chosen = sets["aitod_v2" if second else "aitod_v1"]
    order = [plain(name) for name in chosen.classes]
    return Comparison(chosen, parts, {name: order.index(plain(name)) for name in classes})
