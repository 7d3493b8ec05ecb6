"""One split as its files have it, however wrong they are: what the lenient readers make and what the checks look at."""
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.check.findings import Culprit


@dataclass
class Listing:
    """I images and N annotations; those of images that are not listed are not among them."""

    split: str
    file: Path                      # the annotation file or image list that was read
    names: list[str]                # I file names, as listed
    paths: list[str]                # I files, "" where there is none
    size: np.ndarray                # (I, 2) int64, the width and height that the annotations state; 0: none
    annotated: np.ndarray           # (I,) bool, whether its annotations could be read
    classes: tuple[str, ...]        # names that count, in the order of their labels
    left_out: dict[str, int]        # other names that the file declares, and their objects
    image: np.ndarray               # (N,) int64, index into the images
    label: np.ndarray               # (N,) int64, index into `classes`; -1: of none of them
    box: np.ndarray                 # (N, 4) float64 xyxy pixels; NaN where it is no box
    unfit: np.ndarray               # (N,) bool, crowds or difficult objects
    area: np.ndarray                # (N,) float64, as stated; NaN: not stated
    marks: list[str]                # N names of the annotations: "annotation 17", "object 2"
    note: str = ""                  # where the images are listed, if not where the configuration says

    @property
    def solid(self) -> np.ndarray:
        """(N,) bool: of a class that counts, and a box."""
        return (self.label >= 0) & ~np.isnan(self.box[:, 0])

    def count_by_class(self) -> list[int]:
        """Objects of each class, sound or not."""
        return np.bincount(self.label[self.label >= 0], minlength=len(self.classes)).tolist()

    def culprits(self, rows: np.ndarray, details: Iterator[str] | None = None) -> Iterator[Culprit]:
        """The annotations of these rows, (n,) int64."""
        for row in rows.tolist():
            yield Culprit(self.split, self.names[self.image[row]], self.marks[row], next(details) if details else "")

    def boxes_as_listed(self, rows: np.ndarray) -> Iterator[str]:
        """x, y, width, height of these rows, as text."""
        for x1, y1, x2, y2 in self.box[rows].tolist():
            yield f"{x1:.6g}, {y1:.6g}, {x2 - x1:.6g} x {y2 - y1:.6g}"
