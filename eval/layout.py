"""Records that differ in nothing but their numbers: many at a time from bytes to arrays.

A program that writes detections writes each alike: the same keys in the same order with the same spaces. Layout learns this
from one record: the text between its numbers, the "pieces". In the bytes that follow, the commas then tell where every
number starts and ends, as each piece has a known number of them at known places. Nothing is taken on trust: every
byte of a record that is accepted was found to belong to a piece, character by character, or to a number in JSON's
grammar. The first record that is otherwise ends the run, and json reads it (eval/stream.py).

Shape letters: R records, S slots (numbers in a record), B bytes.
"""
import json
import re
from dataclasses import dataclass

import numpy as np

from eval.decimals import MAX_DIGITS, MAX_PLACES, decimals, eight_digits, integers

COMMA, DOT, MINUS, ZERO = (ord(character) for character in ",.-0")
_NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_STRING_OR_NUMBER = re.compile(rf'"(?:[^"\\]|\\.)*"|({_NUMBER})', re.DOTALL)
_WHOLE_NUMBER = re.compile(_NUMBER.encode())
_WIDTHS = (16, 8, 4, 2, 1)           # bytes compared at a time


@dataclass(frozen=True)
class Field:
    """A key to read.

    Args:
        kind: "integer" (int64), "number" (finite float64), "box" (four finite float64, the last two not negative) or
            "flag" (bool, of true, false, null, which is false, or a number, true where not 0).
        required: False when a record without it is in order.
    """
    kind: str
    required: bool = True


class Layout:
    """The text between the numbers of a record, and where the wanted fields stand among the numbers."""

    def __init__(self, pieces: list[bytes], slots: dict[str, tuple[int, ...]], fields: dict[str, Field]):
        self.head, self.after = pieces[0], pieces[1:]
        self.slots, self.fields = slots, fields
        self.size = np.array([len(piece) for piece in self.after])[:, None]
        self.comma_offset = np.array([piece.index(b",") for piece in self.after])[:, None]
        commas = np.array([piece.count(b",") for piece in self.after])
        self.commas = int(commas.sum())
        self.first_comma = np.cumsum(commas) - commas
        self.digits = sum(byte in b"0123456789" for piece in self.after for byte in piece)

    @classmethod
    def learn(cls, record: str, separator: str, fields: dict[str, Field]) -> "Layout | None":
        """From the text of a JSON value and what stands between it and the next one; None when it cannot serve."""
        if not record.startswith("{"):
            return None
        pieces, slot, place = [], 0, 0
        numbered = ""                                     # the record with the n-th number replaced by n
        for token in _STRING_OR_NUMBER.finditer(record):
            if token[1] is not None:
                pieces.append(record[place : token.start()])
                numbered += f"{pieces[-1]}{slot}"
                slot, place = slot + 1, token.end()
        if slot == 0:
            return None
        pieces.append(record[place:] + separator + pieces[0])
        if not all("," in piece for piece in pieces[1:]) or any("." in piece for piece in pieces):
            return None
        slots = {}
        values = json.loads(numbered + record[place:])
        for key, field in fields.items():
            if key not in values:
                if field.required:
                    return None
                continue
            found = values[key] if field.kind == "box" else [values[key]]
            if not isinstance(found, list) or [type(number) for number in found] != [int] * (4 if field.kind == "box" else 1):
                return None
            slots[key] = tuple(found)
        return cls([piece.encode() for piece in pieces], slots, fields)

    def scan(self, text: bytes) -> tuple[dict[str, np.ndarray], int, int]:
        """Read records of this layout from the start of a text, as long as there are.

        Returns:
            The fields that the layout has, each (R,), a box (R, 4); the number R of records, 0 where the first is of another
            kind; and the bytes that they take up, after which another record begins.
        """
        nothing = {}, 0, 0
        if not text.startswith(self.head):
            return nothing
        text = np.frombuffer(text, np.uint8, offset=len(self.head))
        numbers = self._find(text)
        if numbers.count == 0:
            return nothing
        # both reach to the first number of the record after the last
        stop = int(numbers.end[-1, -1]) + len(self.after[-1])
        eight, is_digit = eight_digits(text[:stop])
        good = numbers.check(text, is_digit, numbers.count * self.digits)
        columns = {}
        for key, slots in self.slots.items():
            kind = self.fields[key].kind
            read = numbers.integers if kind in ("integer", "flag") else numbers.floats
            values, fine = zip(*(read(text, eight, slot) for slot in slots), strict=True)
            good &= np.logical_and.reduce(fine)
            if kind == "box":
                good &= (values[2] >= 0) & (values[3] >= 0)
            columns[key] = np.stack(values, 1) if kind == "box" else values[0] != 0 if kind == "flag" else values[0]
        count = _leading(good)
        if count == 0:
            return nothing
        return ({key: column[:count] for key, column in columns.items()}, count,
                int(numbers.end[-1, count - 1]) + len(self.after[-1]))

    def _find(self, text: np.ndarray) -> "_Numbers":
        """The numbers of the records at the start of a text whose pieces are all as they should be.

        Two records of two slots, behind the head '{"a": '; the pieces after their numbers are ', "b": ' and '}, {"a": ':

            text     7, "b": 0.25}, {"a": 8, "b": -1}, {"a":
            marks     ,       .   ,        ,         ,          places in the text of commas and dots
            commas    0           2        3         4          which of the marks are commas
            slots    0       1            0       1             of record 0, of record 1

        A number ends `comma_offset` bytes before the first comma of its piece, and starts where the piece before it stops. Its
        dot, if it has one, is the mark before that comma.
        """
        marks = np.flatnonzero((text == COMMA) | (text == DOT))
        is_dot = text.take(marks) == DOT
        commas = np.flatnonzero(~is_dot)
        count = len(commas) // self.commas
        # of each number the first comma behind it: (S, R) places in `marks`
        comma = commas[: count * self.commas].reshape(count, self.commas).T[self.first_comma]
        end = marks.take(comma) - self.comma_offset
        start = np.empty_like(end)
        start[1:] = end[:-1] + self.size[:-1]
        start[0, :1] = 0
        start[0, 1:] = end[-1, :-1] + self.size[-1]
        # from here on every place lies within the text
        count = min(_leading((end > start).all(0)), np.searchsorted(end[-1], len(text) - self.size[-1, 0], side="right"))
        for slot, piece in enumerate(self.after):
            count = _leading(_spells(text, end[slot, :count], piece))
        comma, start, end = comma[:, :count], start[:, :count], end[:, :count]
        before = marks.take(comma - 1)
        has_dot = is_dot.take(comma - 1) & (before >= start) & (before < end)
        return _Numbers(start, np.where(has_dot, before, end), end, text)


class _Numbers:
    """Where S numbers of each of R records stand in a text.

    Args:
        start, dot, end: (S, R) int64; dot is the decimal point, the end where there is none.
    """

    def __init__(self, start: np.ndarray, dot: np.ndarray, end: np.ndarray, text: np.ndarray):
        self.start, self.dot, self.end = start, dot, end
        self.count = start.shape[1]
        self.negative = text.take(start) == MINUS
        self.first = start + self.negative
        self.whole = dot - self.first                                # digits before the point
        self.places = np.maximum(end - dot - 1, 0)                   # and after it
        zero = text.take(self.first) == ZERO
        self.leading_zero = zero & (self.whole > 1)
        # left to float(): too long for an int64, but for 0.000...
        self.odd = np.where(zero, self.places > MAX_PLACES, self.whole + self.places > MAX_DIGITS)

    def check(self, text: np.ndarray, is_digit: np.ndarray, digits_elsewhere: int) -> np.ndarray:
        """(R,) bool, all numbers of the record are JSON's; finds those that float() is to read, as exponents.

        Args:
            digits_elsewhere: digits of the text in pieces.
        """
        has_dot = self.dot < self.end
        if np.count_nonzero(is_digit) != int((self.whole + self.places).sum()) + digits_elsewhere:
            # some number holds other characters than digits, one point and a minus in front
            before = np.concatenate(([0], np.cumsum(is_digit)))
            self.odd |= before.take(self.end) - before.take(self.first) != self.whole + self.places
        fine = (self.whole > 0) & (has_dot <= (self.places > 0)) & ~self.leading_zero
        for slot, record in zip(*np.nonzero(self.odd), strict=True):
            fine[slot, record] = _WHOLE_NUMBER.fullmatch(self._text(text, slot, record)) is not None
        self.whole[self.odd] = self.places[self.odd] = 0
        self.odd &= fine                                             # float() is not asked about what is no number
        return fine.all(0)

    def integers(self, text: np.ndarray, eight: np.ndarray, slot: int) -> tuple[np.ndarray, np.ndarray]:
        """(R,) int64, and (R,) bool: it is an integer; 3.0 is one, 3e0 is left to json."""
        value = integers(eight, self.dot[slot], self.whole[slot])
        fine = ~self.odd[slot]
        if self.places[slot].any():
            fine &= integers(eight, self.end[slot], self.places[slot]) == 0
        return np.where(self.negative[slot], -value, value), fine

    def floats(self, text: np.ndarray, eight: np.ndarray, slot: int) -> tuple[np.ndarray, np.ndarray]:
        """(R,) float64 to the bits of float(), and (R,) bool: it is finite."""
        value, doubtful = decimals(eight, self.dot[slot], self.whole[slot], self.end[slot], self.places[slot])
        value = np.where(self.negative[slot], -value, value)
        for record in (*doubtful.tolist(), *np.flatnonzero(self.odd[slot]).tolist()):
            value[record] = float(self._text(text, slot, record))
        return value, np.isfinite(value)

    def _text(self, text: np.ndarray, slot: int, record: int) -> bytes:
        return text[self.start[slot, record] : self.end[slot, record]].tobytes()


def _spells(text: np.ndarray, place: np.ndarray, piece: bytes) -> np.ndarray:
    """(R,) bool: the piece stands at this place; it must not reach beyond the text."""
    same = np.ones(len(place), bool)
    width = next(w for w in _WIDTHS if w <= len(piece))
    # all runs of `width` bytes, overlapping, without copying them
    runs = np.ndarray((len(text) - width + 1,), f"V{width}", buffer=text, strides=(1,)) if len(place) else text
    words = f"u{min(width, 8)}"
    for offset in (*range(0, len(piece) - width, width), len(piece) - width):
        wanted = np.frombuffer(piece[offset : offset + width], words)
        found = runs[place + offset].view(words)
        for part, word in enumerate(wanted):
            same &= found[part :: len(wanted)] == word
    return same


def _leading(good: np.ndarray) -> int:
    """How many stand before the first that is False."""
    return len(good) if good.all() else int(good.argmin())
