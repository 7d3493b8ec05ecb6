"""A JSON file read from front to back in bounded memory: single values by json, long lists of records by their layout."""
import codecs
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from typing import NoReturn

import numpy as np
from tqdm import tqdm

from errors import InputError
from eval.layout import Field, Layout

CHUNK = 1 << 19                      # bytes scanned at a time: the arrays made of them stay in the processor's cache
PROBE = 1 << 14                      # bytes scanned where the last scan found little
BATCH = 1024                         # records read by json at a time, at most
MARGIN = 16                          # an error this close to the end of a window may come from the cut: -Infinity, \uD83D
LARGEST = 30 << 20                   # bytes; glibc takes no notice of blocks above 32 MiB
PROGRESS = 50_000_000                # bytes from which a progress bar is shown
GZIP = b"\x1f\x8b"
BROKEN = OSError, EOFError, zlib.error                   # the last two of a gzip file
_DECODER = json.JSONDecoder()
_CONTINUATION = bytes(range(0x80, 0xC0))                 # bytes that go on a character of UTF-8
_SPACE, _SPACE_BYTES = re.compile(r"[ \t\n\r]*"), re.compile(rb"[ \t\n\r]*")


class JsonFile:
    """A position in a JSON file; a context manager.

    The file may be compressed by gzip, whatever its name, and start with a byte order mark. Every method raises InputError
    where the text is not JSON, naming file, line and column, or cannot be read.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        try:
            self._source = open(path, "rb")                                          # noqa: SIM115
        except OSError as error:
            raise self._unreadable(error) from error
        self.size = os.fstat(self._source.fileno()).st_size
        try:
            self._before = self._open()  # bytes of the text before the buffer,
        except BROKEN as error:
            self._source.close()
            raise self._unreadable(error) from error
        except InputError:
            self._source.close()
            raise
        self._buffer, self._at = b"", 0
        self._line, self._column = 1, 0  # and where that is: kept up as a pipe cannot be read again
        self._ended = False
        # None: shown on a terminal only
        self._bar = tqdm(total=self.size, unit="B", unit_scale=True, desc=os.path.basename(self.path), leave=False,
                         disable=None if self.size >= PROGRESS else True)

    def __enter__(self) -> "JsonFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._file.close()
        self._source.close()

    def peek(self) -> str:
        """Go past spaces; the next character, '' at the end of the file."""
        while True:
            self._at = _SPACE_BYTES.match(self._buffer, self._at).end()
            if self._at < len(self._buffer):
                return chr(self._buffer[self._at])
            if self._ended:
                return ""
            self._fill(1)

    def take(self, characters: str, wanted: str) -> str:
        """Go past the next character, which must be one of these; `wanted` says so in JSON's terms."""
        found = self.peek()
        if not found or found not in characters:
            self._refuse(wanted, self._at)
        self._at += 1
        return found

    def finish(self) -> None:
        """Nothing may follow."""
        if self.peek():
            self._refuse("Extra data", self._at)

    def value(self, size: int = CHUNK) -> object:
        """Go past the next value and return it; `size` is a guess at its bytes that spares reading it twice."""
        self.peek()
        texts = self._texts(size)
        while True:
            text, complete = next(texts)
            try:
                value, stop = _DECODER.raw_decode(text)
            except (ValueError, RecursionError) as error:
                self._refuse_if_certain(error, text, 0, complete)
            else:
                if stop < len(text) or complete:          # else a number may go on
                    self._at += _size(text, stop)
                    return value

    def members(self) -> Iterator[str]:
        """The keys of an object that starts here. Each time the file stands at the key's value, which must be gone past."""
        self.take("{", "Expecting value")
        if self.peek() == "}":
            self._at += 1
            return
        while True:
            if self.peek() != '"':
                self._refuse("Expecting property name enclosed in double quotes", self._at)
            key = self.value()
            self.take(":", "Expecting ':' delimiter")
            self.peek()
            yield key
            if self.take(",}", "Expecting ',' delimiter") == "}":
                return

    def records(self, fields: dict[str, Field]) -> Iterator[dict[str, np.ndarray] | list]:
        """The elements of a list that starts here, in order and in batches.

        Yields:
            Arrays of the fields, as from Layout.scan, for records that hold what they should, or a list of what json makes
            of the elements, which may be anything.
        """
        self.take("[", "Expecting value")
        if self.peek() == "]":
            self._at += 1
            return
        # glibc returns freed blocks to the kernel and takes them anew, page by page, unless a larger one was freed before
        # (mallopt(3), M_MMAP_THRESHOLD). One that is never touched costs nothing, and halves the time of reading.
        np.empty(LARGEST, np.uint8)
        layout, reach, batch, more = None, CHUNK, 1, True
        while more:
            window = self._window(reach)
            columns, count, size = layout.scan(window) if layout else ({}, 0, 0)
            if count:
                self._at += size
                yield columns
            if 2 * size > len(window):
                reach, batch = min(2 * reach, CHUNK), 1
                continue
            # Here stands a record of another kind, or the last one. The longer that goes on, the more is left to json.
            values, record, separator, more = self._elements(batch)
            yield values
            reach, batch = PROBE, min(2 * batch, BATCH)
            layout = Layout.learn(record, separator, fields) if more else None

    def _elements(self, limit: int) -> tuple[list, str, str, bool]:
        """Go past 1 to `limit` elements of a list, at one of which the file stands, and the comma or bracket after them.

        Returns:
            The elements; the text of the last one; what stands between it and the next one; and whether there is a next one.
        """
        texts = self._texts(CHUNK)
        while True:
            text, complete = next(texts)
            values, place, start, stop, more = [], 0, 0, 0, True
            try:
                while more and len(values) < limit:
                    value, end = _DECODER.raw_decode(text, place)
                    after = _SPACE.match(text, end).end()
                    beyond = _SPACE.match(text, after + 1).end()
                    if beyond >= len(text) and not complete:
                        break                             # a number may go on, and what follows is not seen
                    if text[after : after + 1] not in (",", "]"):
                        raise json.JSONDecodeError("Expecting ',' delimiter", text, after)
                    values.append(value)
                    more = text[after] == ","
                    start, stop, place = place, end, beyond if more else after + 1
            except (ValueError, RecursionError) as error:
                if not values:                            # else these come first, and the next call finds it again
                    self._refuse_if_certain(error, text, place, complete)
            if values:
                self._at += _size(text, place)
                return values, text[start:stop], text[stop:place], more

    def _texts(self, size: int) -> Iterator[tuple[str, bool]]:
        """The text ahead, more of it each time, and whether it reaches the end of the file."""
        while True:
            window = self._window(size)
            complete = self._ended and self._at + len(window) == len(self._buffer)
            try:
                # a character may be cut at the end of the window
                yield codecs.getincrementaldecoder("utf-8")().decode(window, final=complete), complete
            except UnicodeDecodeError as error:
                raise InputError(f"{self.path}: not JSON: byte {self._before + self._at + error.start} is not UTF-8 text. "
                                 "Give a COCO JSON file.") from error
            size *= 4

    def _window(self, size: int) -> bytes:
        self._fill(size)
        return self._buffer[self._at : self._at + size]

    def _fill(self, size: int) -> None:
        """Have `size` bytes ahead, fewer at the end of the file."""
        missing = size - (len(self._buffer) - self._at)
        if missing <= 0 or self._ended:
            return
        asked = max(missing, CHUNK)
        try:
            read = self._file.read(asked)
        except BROKEN as error:
            raise self._unreadable(error) from error
        self._ended = len(read) < asked
        self._line, self._column = self._place_of(self._at)
        self._before += self._at
        self._buffer = self._buffer[self._at :] + read
        self._at = 0
        if not self._bar.disable:                         # then it is no pipe, and has a place
            self._bar.update(self._source.tell() - self._bar.n)

    def _refuse_if_certain(self, error: Exception, text: str, place: int, complete: bool) -> None:
        """Raise unless more text could mend what json says of the value at `place`."""
        if isinstance(error, json.JSONDecodeError):
            message, place = error.msg, error.pos
            # a string that does not end is reported at its start
            certain = place < len(text) - MARGIN and not message.startswith("Unterminated")
        else:                                             # too many digits, or nested too deep
            message, certain = str(error), True
        if certain or complete:
            self._refuse(message, self._at + _size(text, place))

    def _refuse(self, message: str, place: int) -> NoReturn:
        """Raise InputError for this place in the buffer, by line and column as in an editor."""
        line, column = self._place_of(place)
        raise InputError(f"{self.path}: not JSON: {message} at line {line}, column {column + 1}. "
                         "Mend it or write it again; was the writing cut off?")

    def _place_of(self, place: int) -> tuple[int, int]:
        """Line from 1 and column from 0, in characters, of a place in the buffer."""
        text = self._buffer[:place]
        newline = text.rfind(b"\n")
        rest = text[newline + 1 :]
        column = len(rest) if rest.isascii() else len(rest.translate(None, _CONTINUATION))
        if newline < 0:
            return self._line, self._column + column
        return self._line + text.count(b"\n"), column

    def _open(self) -> int:
        """Set `_file` to the text, past what stands before JSON; returns the bytes of a mark that were skipped."""
        self._file, start = self._source, self._source.peek(4)
        if start.startswith(GZIP):
            self._file = gzip.GzipFile(fileobj=self._source)
            start = self._file.peek(4)
        if start.startswith(codecs.BOM_UTF8):
            return len(self._file.read(len(codecs.BOM_UTF8)))
        encoding = json.detect_encoding(start[:4])
        if encoding != "utf-8" and (start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
                                    or start[:4].strip(b"\0")[:1] in (b"[", b"{")):
            name = encoding.upper().replace("-LE", "LE").replace("-BE", "BE")
            raise InputError(f"{self.path}: is {name} text, but JSON files are UTF-8. Write it again as UTF-8, or convert it "
                             f"by 'iconv -f {name} -t UTF-8'.")
        return 0

    def _unreadable(self, error: Exception) -> InputError:
        if isinstance(error, gzip.BadGzipFile | EOFError | zlib.error):
            return InputError(f"{self.path}: a gzip file that is damaged or was cut off ({error}). Write it again.")
        return InputError(f"{self.path}: cannot be read ({error.strerror}). Check the path.")


def _size(text: str, stop: int) -> int:
    """Bytes of the first `stop` characters."""
    return stop if text.isascii() else len(text[:stop].encode())
