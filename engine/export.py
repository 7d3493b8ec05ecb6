"""Write a trained network as one file that runs without this project: ONNX, or torch.export's own format.

    python -m engine.export --checkpoint runs/yolo11n/best.pt                                   writes runs/yolo11n/best.onnx
    python -m engine.export --checkpoint runs/yolo11n/best.pt --format torchexport --output yolo11n.pt2
    python -m engine.export --checkpoint runs/yolo11n/best.pt --image-size 608 800              608 px high, 800 wide

The file takes images (B, 3, H, W), RGB, float32 in 0..1, any number of them at the size that was chosen, and gives boxes
(B, A, 4), xyxy in pixels, and scores (B, A, C); thresholds and NMS are the reader's. BatchNorm is folded, the auxiliary head is
dropped. What was written is run at once and must equal PyTorch. ONNX needs the packages in requirements-export.txt.
"""
import argparse
import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from engine import checkpoint
from engine.files import make_folder
from errors import InputError, MachineError, run
from models import RSTinyNet, decode

ENDINGS = {"onnx": ".onnx", "torchexport": ".pt2"}
NEEDED = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4                # in scores, and in boxes in shares of the stride of their cell
Outputs = tuple[Tensor, Tensor]         # boxes, scores


class Detector(nn.Module):
    """A network and its decoding."""

    def __init__(self, network: RSTinyNet):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Outputs:
        """Images (B, 3, H, W) in 0..1 -> boxes (B, A, 4), xyxy pixels, and scores (B, A, C)."""
        return decode(self.network(images).main)


def export(path: Path, form: str, output: Path | None, image_size: list[int] | None) -> int:
    """Write and check; returns the exit code. A file that stands in the place is replaced when the new one is whole.

    Args:
        path: a checkpoint of train.py.
        form: onnx or torchexport.
        output: the file to write; None: the checkpoint's name with another ending.
        image_size: one or two numbers, height and width in pixels; None: the size that the network was trained at.
    Raises:
        InputError: a package is missing, or an argument cannot be meant.
        MachineError: the file does not give what PyTorch gives; nothing is written.
    """
    if form == "onnx":
        require(NEEDED)
    output = output or path.with_suffix(ENDINGS[form])
    _check_output(output, path, ENDINGS[form])
    network, content = checkpoint.load_for_inference(path)
    height, width = _size(image_size or [content["config"]["train"]["image_size"]])
    make_folder(output.parent)
    detector = Detector(network)
    about = {
        "class_names": content["class_names"],
        "strides": list(network.head.strides),
        "image_size": [height, width],
        "input": "images (B, 3, H, W), RGB, float32 in 0..1; smaller ones padded right and below with 114/255",
        "outputs": "boxes (B, A, 4), xyxy in pixels of the input; scores (B, A, C), one for each class; without NMS",
    }
    beside = output.with_name(f".{output.stem}.{os.getpid()}.tmp{ENDINGS[form]}")      # torch looks at the ending
    try:
        with torch.no_grad():
            write, runner = {"onnx": (write_onnx, run_onnx), "torchexport": (write_torchexport, run_torchexport)}[form]
            write(capture(detector, height, width), about, beside)
            differences = compare(detector, runner, beside, height, width)
        os.replace(beside, output)
    finally:
        beside.unlink(missing_ok=True)
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB, {height} x {width} px, {len(content['class_names'])} classes\n"
          f"equals PyTorch on 1 and 3 images: boxes to {differences[0]:.1e} px, scores to {differences[1]:.1e}")
    return 0


def require(packages: tuple[str, ...]) -> None:
    """Raises InputError unless all can be imported."""
    missing = []
    for name in packages:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise InputError(f"--format onnx: needs {', '.join(missing)}, not installed here. Install them with "
                         "'pip install -r requirements-export.txt', or use --format torchexport.")


def _check_output(output: Path, path: Path, ending: str) -> None:
    """Raises InputError where a file would be lost that is no earlier export, weights above all."""
    better = path.with_suffix(ending).name
    if output.is_dir():
        raise InputError(f"--output: {output} is a folder. Name a file, such as {output / better}.")
    if output.exists() and path.exists() and output.samefile(path):
        raise InputError(f"--output: {output} is the checkpoint itself, which would be lost. Name another one, ending "
                         f"in {ending}.")
    if output.suffix.lower() == ".pt":
        raise InputError(f"--output: {output} ends as checkpoints do. Name a file that ends in {ending}.")
    if output.exists() and output.suffix not in ENDINGS.values():
        raise InputError(f"--output: {output} is there and looks like no earlier export. Name a file that ends in {ending}, "
                         "or move this one away.")


def _size(image_size: list[int]) -> tuple[int, int]:
    """Height and width of one or two numbers."""
    if len(image_size) > 2 or any(side < 32 or side % 32 for side in image_size):
        given = " ".join(map(str, image_size))
        raise InputError(f"--image-size: {given} is neither a side nor height and width, in multiples of 32 px. "
                         "Use 800, or 608 800.")
    return image_size[0], image_size[-1]


def capture(detector: Detector, height: int, width: int) -> torch.export.ExportedProgram:
    """The detector as a graph for any number of images."""
    batch = torch.export.Dim("batch", min=1, max=2**16)
    images = torch.zeros(7, 3, height, width)       # an example; 7 is no number of the network, so none is taken for it
    return torch.export.export(detector, (images,), dynamic_shapes={"images": {0: batch}}, strict=False)


def write_onnx(program: torch.export.ExportedProgram, about: dict, path: Path) -> None:
    """ONNX with the facts about it in its metadata: texts, and JSON for lists."""
    import onnx
    program = program.run_decompositions({torch.ops.aten.upsample_nearest2d.vec: resize_nearest})
    made = torch.onnx.export(program, (), input_names=["images"], output_names=["boxes", "scores"], dynamo=True, optimize=True,
                             verbose=False)
    model = made.model_proto
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]       # torch's guesses of shapes within, with other names for the batch
    onnx.helper.set_model_props(model, {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)
                                        for k, v in about.items()})
    onnx.save(model, path)


def resize_nearest(x: Tensor, size: list[int] | None, scales: list[float] | None) -> Tensor:
    """Nearest-neighbour interpolation for ONNX, where a size names the number of images too, which torch 2.6 then freezes."""
    if size is None:
        return NotImplemented
    (height, width), (rows, columns) = x.shape[2:], size
    if (height, width) == (rows, columns):
        return x
    if rows % height == columns % width == 0:
        return torch.ops.aten.upsample_nearest2d.vec(x, None, [rows / height, columns / width])
    return x[:, :, (torch.arange(rows) * height // rows)[:, None], torch.arange(columns) * width // columns]


def run_onnx(path: Path) -> Callable[[Tensor], Outputs]:
    """A call that runs an ONNX file."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: tuple(map(torch.from_numpy, session.run(["boxes", "scores"], {"images": images.numpy()})))


def write_torchexport(program: torch.export.ExportedProgram, about: dict, path: Path) -> None:
    """torch.export's archive with the facts about it in about.json."""
    torch.export.save(program, path, extra_files={"about.json": json.dumps(about, ensure_ascii=False)})


def run_torchexport(path: Path) -> Callable[[Tensor], Outputs]:
    """A call that runs torch.export's archive."""
    return torch.export.load(path).module()


def compare(
    detector: Detector, runner: Callable[[Path], Callable[[Tensor], Outputs]], path: Path, height: int, width: int
) -> tuple[float, float]:
    """The largest differences in boxes, in pixels, and scores, on one and on three images of noise, coarse and fine.

    Raises:
        MachineError: they are larger than rounding makes them, or the file does not run.
    """
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, 3, height // 16, width // 16, generator=generator)
    images = (interpolate(coarse, (height, width)) + torch.rand(3, 3, height, width, generator=generator)) / 2
    strides = detector.network(images[:1]).main.anchors.strides
    try:
        other = runner(path)
        one, three = other(images[:1]), other(images)
    except Exception as error:      # whatever a runtime raises
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise MachineError(f"export: what was written does not run ({reason}); nothing was kept. {_versions()}") from error
    expected = detector(images)
    boxes, scores = (torch.cat((a - c[:1], b - c)).abs() for a, b, c in zip(one, three, expected, strict=True))
    largest = float(boxes.max()), float(scores.max())
    if not torch.all(boxes < TOLERANCE * strides[:, None]) or not torch.all(scores < TOLERANCE):        # nor may they be NaN
        raise MachineError(f"export: what was written differs from PyTorch by {largest[0]:.1e} px and {largest[1]:.1e} in "
                           f"scores; nothing was kept. {_versions()}")
    return largest


def _versions() -> str:
    return f"torch {torch.__version__} may be too old or too new for this network; try another."


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and export; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m engine.export", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="best.pt or last.pt that train.py wrote")
    parser.add_argument("--format", choices=tuple(ENDINGS), default="onnx", help="default: onnx")
    parser.add_argument("--output", type=Path, help="file to write (default: the checkpoint's name, ending in .onnx or .pt2)")
    parser.add_argument("--image-size", type=int, nargs="+", metavar="PX",
                        help="side, or height and width (default: train.image_size of the checkpoint)")
    options = parser.parse_args(arguments)
    return export(options.checkpoint, options.format, options.output, options.image_size)


if __name__ == "__main__":
    run(main)
