"""A pickle of whole objects is read without importing or running what it names; any other call in it is refused."""
import builtins
import functools
import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine import inert
from engine.starting_weights import read_starting_weights
from errors import InputError
from models import ModelConfig
from tests.engine.ultralytics_file import detection_model, network, stand_ins, write


class Planted:
    """Pickled as a call."""

    def __init__(self, function: Callable, *arguments: object):
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def touch(path: Path) -> str:
    return f"open({str(path)!r}, 'w').close()"


PLANTED = {
    "os.system": lambda path: Planted(os.system, f"touch {path}"),
    "eval": lambda path: Planted(eval, touch(path)),
    "exec": lambda path: Planted(exec, touch(path)),
    "getattr": lambda path: Planted(getattr, Path(path), "touch"),
    "functools.partial": lambda path: Planted(functools.partial, os.system, f"touch {path}"),
    "subprocess.Popen": lambda path: Planted(subprocess.Popen, ["touch", str(path)]),
    "builtins.open": lambda path: Planted(builtins.open, str(path), "w"),
    "pathlib": lambda path: Planted(Path(path).touch),
    "torch.hub": lambda path: Planted(torch.hub.load, str(path), "x"),
    "torch.load": lambda path: Planted(torch.load, str(path)),
    "importlib": lambda path: Planted(__import__("importlib").import_module, "ultralytics"),
    "numpy": lambda path: Planted(__import__("numpy").load, str(path), None, True),
}


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_planted_call_is_refused_by_name_and_does_not_run(tmp_path: Path, name: str, protocol: int) -> None:
    """Beside a whole and good network, as an attacker would leave it."""
    path, trace = tmp_path / "yolo11n.pt", tmp_path / "trace"
    with stand_ins() as make:
        torch.save({"model": detection_model(network(), make), "ema": None, "train_args": PLANTED[name](trace)}, path,
                   pickle_protocol=protocol)
    with pytest.raises(InputError, match="yolo11n.pt: asks for .*which could run code; nothing was run") as caught:
        read_starting_weights(path, ModelConfig("n"))
    assert "\n" not in str(caught.value) and not trace.exists()


def forge(path: Path, program: bytes) -> None:
    """A file of torch.save whose pickle is a program of the test's own."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", bytes(16))


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
REBUILD = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n"
PROGRAMS = {
    # name: (the program, words of the refusal)
    "a name below a module of records": (b"\x80\x04\x8c\x14ultralytics.nn.tasks\x8c\x09os.system\x93.", "tasks.os.system"),
    "a function beside the classes": (b"\x80\x02cultralytics.nn.tasks\ntorch_safe_load\n.", "torch_safe_load"),
    "a package of a like name": (b"\x80\x02cultralytics.nnx\nModel\n.", "ultralytics.nnx.Model"),
    "line breaks in a name": (b"\x80\x04\x8c\x01a\x8c\x04b\nc\r\x93.", r"a.b\\nc\\r"),
    "protocol 0": (b"cos\nsystem\n(S'touch /tmp/x'\ntR.", "os.system"),
    "an object by INST": (b"(S'touch /tmp/x'\nios\nsystem\n.", "os.system"),
    "a registered extension": (b"\x80\x02\x82\x01.", "not a readable checkpoint"),
    "another type of dill": (b"\x80\x02cdill._dill\n_load_type\nX\x08\x00\x00\x00FunctionType\x85R.".replace(
        b"\x08", b"\x0c"), "_load_type"),
    "a storage that is called": (b"\x80\x02ctorch\nFloatStorage\n)R.", "not a readable checkpoint"),
    "a class that is changed": (b"\x80\x02cultralytics.nn.tasks\nA\nN}X\x04\x00\x00\x00kindNs\x86b.", "not a readable"),
    "a tensor beyond its storage": (REBUILD + b"(" + STORAGE + b"K\x02K\x04\x85K\x01\x85\x89)tR.", "not a readable checkpoint"),
    "a tensor larger than its storage": (REBUILD + b"(" + STORAGE + b"K\x00J\x00\x00\x00\x7f\x85K\x00\x85\x89)tR.",
                                         "larger than its storage"),
    "numbers that are not there": (REBUILD + b"(" + STORAGE.replace(b"\x000X", b"\x007X") + b"tR.", "not a readable"),
    "another persistent thing": (b"\x80\x02X\x01\x00\x00\x00aQ.", "not a readable checkpoint"),
    "nothing": (b"", "not a readable checkpoint"),
    "cut off": (b"\x80\x02(", "not a readable checkpoint"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_forged_programs_end_in_one_line(tmp_path: Path, name: str) -> None:
    program, words = PROGRAMS[name]
    forge(tmp_path / "forged.pt", program)
    with pytest.raises(InputError, match=words) as caught:
        read_starting_weights(tmp_path / "forged.pt", ModelConfig("n"))
    assert "\n" not in str(caught.value) and "forged.pt" in str(caught.value)


def test_a_good_program_is_read(tmp_path: Path) -> None:
    """The forger's parts, put together honestly: the refusals above are not of his tools."""
    forge(tmp_path / "a.pt", REBUILD + b"(" + STORAGE + b"K\x00K\x02K\x02\x86K\x02K\x01\x86\x89)tR.")
    assert torch.equal(inert.read(tmp_path / "a.pt", "x"), torch.zeros(2, 2))
    forge(tmp_path / "b.pt", b"\x80\x02cdill._dill\n_load_type\nX\x07\x00\x00\x00SetType\x85R]K\x03a\x85R.")
    assert inert.read(tmp_path / "b.pt", "x") == {3}


def test_a_pickle_cannot_change_what_outlasts_it(tmp_path: Path) -> None:
    """BUILD with a state for slots sets attributes, also of functions and classes that the reader handed out."""
    for target in (b"ctorch._utils\n_rebuild_parameter\n", b"cultralytics.nn.tasks\nA\n", b"ccollections\nOrderedDict\n"):
        forge(tmp_path / "a.pt", b"\x80\x02" + target + b"N}X\x01\x00\x00\x00aK\x01s\x86b.")
        with pytest.raises(InputError):
            read_starting_weights(tmp_path / "a.pt", ModelConfig("n"))
    assert not hasattr(inert.Record, "a") and not hasattr(inert._tensor, "a")


def test_records_do_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a.pt", ema=None)
    model = inert.read(tmp_path / "a.pt", "x")["model"]
    assert type(model).__mro__[1:] == (inert.Record, object) and not callable(model)
    assert model.kind == "ultralytics.nn.tasks.DetectionModel" and model.state["yaml"]["nc"] == 80
    assert model.state["args"].kind == "ultralytics.utils.IterableSimpleNamespace"
