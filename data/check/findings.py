"""What was found: how often, where, and what to do about it."""
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from data.check.kinds import KINDS, LEVELS, Kind

KEPT = 1000             # culprits of a kind that are kept by name; all are counted


class Culprit(NamedTuple):
    """One place where something is wrong; what does not apply is empty."""

    split: str              # of two splits "train/test"
    image: str = ""         # its file name, as the annotations have it
    annotation: str = ""    # "annotation 17" by its id (COCO), "object 2" of the image's XML file (VOC)
    detail: str = ""

    def __str__(self) -> str:
        name = self.image
        if self.annotation:
            name = f"{self.annotation} of {name}" if name else self.annotation
        return " ".join(part for part in (name, f"({self.detail})" if name and self.detail else self.detail) if part)


class Finding:
    """All culprits of one kind."""

    def __init__(self, name: str):
        self.name = name
        self.counts: Counter[str] = Counter()       # by split
        self.places = 0                             # all culprits; fewer than counted where one stands for several
        self.culprits: list[Culprit] = []           # the first KEPT of them
        self.hints: list[str] = []                  # what is known of this set beyond the kind's remedy

    @property
    def kind(self) -> Kind:
        return KINDS[self.name]

    @property
    def remedy(self) -> str:
        """Sentences, of the kind and of this set."""
        return " ".join(part for part in (self.kind.remedy, *self.hints) if part)

    def to_dict(self) -> dict:
        """Plain values, for JSON."""
        culprits = [{key: value for key, value in c._asdict().items() if value} for c in self.culprits]
        return {"kind": self.name, "level": self.kind.level, "title": self.kind.title, "count": sum(self.counts.values()),
                "counts": dict(self.counts), "effect": self.kind.effect, "remedy": self.remedy, "culprits": culprits}


class Findings:
    """A collection that grows while a set is looked through."""

    def __init__(self):
        self._by_name: dict[str, Finding] = {}

    def add(self, name: str, split: str, image: str = "", annotation: str = "", detail: str = "") -> None:
        """One culprit of a kind."""
        self.add_many(name, split, 1, [Culprit(split, image, annotation, detail)])

    def add_many(self, name: str, split: str, count: int, culprits: Iterable[Culprit], places: int | None = None) -> None:
        """`count` of a kind at `places` (None: each at its own), of which the first KEPT are taken from `culprits`."""
        if not count:
            return
        finding = self._by_name.setdefault(name, Finding(name))
        finding.counts[split] += count
        finding.places += count if places is None else places
        finding.culprits += islice(culprits, KEPT - len(finding.culprits))

    def hint(self, name: str, text: str) -> None:
        """Add a sentence to the remedy of a kind that was found."""
        if name in self._by_name and text and text not in self._by_name[name].hints:
            self._by_name[name].hints.append(text)

    def hints(self, name: str) -> list[str]:
        """What was added to the remedy of a kind."""
        return self._by_name[name].hints if name in self._by_name else []

    def stops(self, split: str) -> bool:
        """Whether something of a split keeps train.py or test.py from reading it."""
        return any(f.kind.level == "stops" and f.counts[split] for f in self._by_name.values())

    def ordered(self) -> list[Finding]:
        """By level, then as in KINDS."""
        names = list(KINDS)
        return sorted(self._by_name.values(), key=lambda f: (LEVELS.index(f.kind.level), names.index(f.name)))

    @property
    def exit_code(self) -> int:
        """1 when something stops or hurts, otherwise 0."""
        return int(any(f.kind.level != "note" for f in self._by_name.values()))
