"""The published numbers of AI-TOD and DIOR, from published.toml, which names their sources."""
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

FILE = Path(__file__).with_name("published.toml")


@dataclass(frozen=True)
class Published:
    """What is printed of one data set; splits are train, val, trainval and test. What nobody printed is absent."""

    title: str
    source: str
    classes: tuple[str, ...]
    images: dict[str, int]                                                  # by split
    all_boxes: int                                                          # of the whole set
    boxes: dict[str, int] = field(default_factory=dict)                     # by split
    by_class: dict[str, tuple[int, ...]] = field(default_factory=dict)      # boxes by split, in the order of `classes`
    from_xview: dict[str, int] = field(default_factory=dict)                # images by split that are crops of xView scenes
    mean_side: float | None = None                                          # root of the area, pixels
    below_16: float | None = None                                           # share of the boxes under 16 px
    leaked_boxes: int | None = None                                         # seen in a crop of the other split, too


def load_published() -> dict[str, Published]:
    """All sets by their names: aitod_v1, aitod_v2, dior."""
    sets = {}
    for name, entry in tomllib.loads(FILE.read_text(encoding="utf-8")).items():
        by_class = {split: tuple(counts) for split, counts in entry.pop("by_class", {}).items()}
        sets[name] = Published(**{**entry, "classes": tuple(entry["classes"])}, by_class=by_class)
    return sets


def plain(name: str) -> str:
    """A class name without what its spellings differ in: capitals, hyphens, underscores, spaces."""
    return "".join(c for c in name.lower() if c.isalnum())
