"""Read a file of torch.save in which whole objects are pickled, without importing or running what it names.

A pickle is a program: it names callables of any module and has them called. This reader looks no name up. Objects of classes
of Ultralytics and torch.nn become records, which hold their state and do nothing; tensors are put together here, from the bytes
of the archive; plain containers are themselves. Whatever else a file asks for, it is refused.
"""
import math
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from engine.archive import opened
from errors import InputError, printable

STORAGES = {
    "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16, "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16,
    "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}
PACKAGES = ("ultralytics.nn.", "torch.nn.modules.")        # whose classes become records
CLASS_NAME = re.compile(r"(v\d+)?[A-Z]\w*")               # v10Detect too; a function begins with a small letter
# Further classes that become records: what a training of Ultralytics leaves beside its network. Older trainings wrote figures
# as numpy's scalars.
CLASSES = frozenset({
    "ultralytics.utils.IterableSimpleNamespace", "ultralytics.utils.loss.v8DetectionLoss", "ultralytics.utils.loss.BboxLoss",
    "ultralytics.utils.loss.DFLoss", "ultralytics.utils.tal.TaskAlignedAssigner", "torch.device",
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype", "_codecs.encode",
})


class Record:
    """An object whose class was not imported; what it was made of is left out, its state is kept.

    Attributes:
        kind: the full name of its class.
        state: what the pickle gave it, mostly a dict of its attributes; None without any.
    """

    __slots__ = ("state",)
    kind = ""

    def __new__(cls, *arguments: object) -> "Record":
        record = super().__new__(cls)
        record.state = None
        return record

    def __setstate__(self, state: object) -> None:
        self.state = state


def read(path: Path, wanted: str) -> object:
    """What a file holds: tensors on the CPU in the file's types, plain values, dict, list, tuple, set and Record.

    Args:
        wanted: as in engine.archive.opened.
    Raises:
        InputError: the file cannot be read, or asks for anything else.
    """
    with opened(path, wanted) as archive:
        pickles = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise InputError(f"{path}: not a file that torch.save wrote. Name {wanted}.")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise InputError(f"{path}: is compressed, as torch.save writes nothing. Unpack it, or name {wanted}.")
        with archive.open(pickles[0]) as file:
            return _Reader(file, archive, pickles[0].removesuffix("data.pkl"), path, wanted).load()


class _Reader(pickle.Unpickler):
    """What a pickle is given to call is made anew for each name, so that it can change nothing that lasts."""

    def __init__(self, file: zipfile.ZipExtFile, archive: zipfile.ZipFile, folder: str, path: Path, wanted: str):
        super().__init__(file)
        self.archive, self.folder, self.path, self.wanted = archive, folder, path, wanted
        self.storages: dict[tuple[str, torch.dtype], Tensor] = {}
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise InputError(f"{path}: was written on a machine of another byte order. Save it anew on one like this.")

    def find_class(self, module: str, name: str) -> Callable | torch.dtype:
        """What stands for a name. It is only compared, never looked up."""
        full = f"{module}.{name}"
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if full in ("__builtin__.set", "builtins.set"):
            return set
        if full == "collections.OrderedDict":
            # An OrderedDict would let the pickle put anything in the place of its methods.
            return type("Dict", (dict,), {"__slots__": (), "__setstate__": lambda *_: None})
        if full == "torch.Size":
            return tuple
        if full == "torch._utils._rebuild_tensor_v2":
            return lambda storage, offset, size, stride, *_: _tensor(storage, offset, size, stride)
        if full in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
            return lambda data, *_: data
        if full == "dill._dill._load_type":     # dill, with which some files are written, spells built-in types so
            return lambda kind: set if kind in ("set", "SetType") else self._refuse(f"{full}({kind!r})")
        if full in CLASSES or (module.startswith(PACKAGES) and CLASS_NAME.fullmatch(name)):
            return type("Record", (Record,), {"__slots__": (), "kind": full})
        return self._refuse(full)

    def persistent_load(self, pid: tuple) -> Tensor:
        """The numbers of a tensor, or of several that share them: (N,)."""
        tag, dtype, key, _, count = pid
        if tag != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("a storage of an unknown kind")
        if (key, dtype) not in self.storages:
            content = bytearray(self.archive.read(f"{self.folder}data/{key}"))
            filled = torch.frombuffer(content, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
            self.storages[key, dtype] = filled
        return self.storages[key, dtype]

    def _refuse(self, name: str) -> None:
        raise InputError(f"{self.path}: asks for {printable(name)}, which could run code; nothing was run. Name {self.wanted}.")


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """A view of a storage. torch refuses one that reaches beyond it."""
    if math.prod(size) > storage.numel():       # as strides of 0 would allow: a few bytes that fill the memory
        raise pickle.UnpicklingError("a tensor that is larger than its storage")
    return storage.as_strided(size, stride, offset)
