"""What is said of records that are not in order: one line with how many they are, the first of them, and the way out."""
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from errors import InputError

SHOWN = 5                    # offenders named in a message
ENOUGH = 1000                # faults after which no more of a file is read: nobody wants to wait for the count of all


class Fault(NamedTuple):
    """A way of not being in order.

    Args:
        what: follows "has": "a negative size".
        remedy: a sentence.
    """
    what: str
    remedy: str


class Faults:
    """What is wrong with the records of one list. However many they are, only the first are kept.

    Args:
        source, kinds: how the message calls the file and its records: "dt.json", "detections".
    """

    def __init__(self, source: str, kinds: str):
        self.source, self.kinds = source, kinds
        self._count: Counter[Fault] = Counter()          # in the order in which they turned up
        self._names: dict[Fault, list[str]] = {}

    def add(self, fault: Fault, name: str, value: str = "") -> None:
        """One record; `value` is what shows the fault, such as "score nan"."""
        self._count[fault] += 1
        names = self._names.setdefault(fault, [])
        if len(names) < SHOWN:
            names.append(f"{name} with {value}" if value and not names else name)

    def add_where(self, fault: Fault, wrong: np.ndarray, shown: Callable[[int], tuple[str, str]]) -> None:
        """All records where (N,) `wrong` holds; `shown` gives name and value of the record at a place."""
        places = np.flatnonzero(wrong)
        for place in places[:SHOWN].tolist():
            self.add(fault, *shown(place))
        if len(places) > SHOWN:
            self._count[fault] += len(places) - SHOWN

    @property
    def are_enough(self) -> bool:
        return self._count.total() >= ENOUGH

    def refuse(self, total: int, complete: bool = True) -> None:
        """Raise InputError unless all records looked at were in order: it tells of the first kind of fault and counts others.

        Args:
            total: records looked at.
            complete: whether that is all of them.
        """
        if not self._count:
            return
        (fault, count), *others = self._count.items()
        names = ", ".join(self._names[fault]) + _more(count)
        besides = ", ".join(f"{more} {_have(more)} {other.what}" for other, more in others)
        kinds = self.kinds if total != 1 else {"categories": "category"}.get(self.kinds, self.kinds.removesuffix("s"))
        raise InputError(f"{self.source}: {count} of {'' if complete else 'the first '}{total} {kinds} {_have(count)} "
                         f"{fault.what}: {names}. {fault.remedy}{f' Besides, {besides}.' if besides else ''}")


def unique(ids: np.ndarray, source: str, kind: str) -> np.ndarray:
    """(N,) -> (N,) ascending; InputError when an id stands more than once."""
    if (ids[1:] > ids[:-1]).all():
        return ids
    ids, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise InputError(f"{source}: more than one {kind} has id {listed(ids[counts > 1])}. Give each {kind} an id of its own.")
    return ids


def offenders(values: np.ndarray, wrong: np.ndarray, kind: str, kinds: str) -> str:
    """How many of all values are wrong, and the first of them by value."""
    ids = list(dict.fromkeys(values[wrong].tolist()))
    return f"{int(wrong.sum())} of {len(values)} name {kind if len(ids) == 1 else kinds} {listed(ids)}"


def listed(ids: Sequence[int | str] | np.ndarray) -> str:
    """The first ids and how many more there are."""
    return (", ".join(str(number) for number in ids[:SHOWN]) + _more(len(ids))) if len(ids) else "none"


def _more(count: int) -> str:
    return "" if count <= SHOWN else f" and {count - SHOWN} more"


def _have(count: int) -> str:
    return "has" if count == 1 else "have"
