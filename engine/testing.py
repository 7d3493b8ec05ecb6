"""What test.py does: score a checkpoint on a split, or a file of detections against a file of annotations."""
import os
from contextlib import suppress
from pathlib import Path

import torch

from data.tiling import Tiling
from engine import checkpoint
from engine import config as configs
from engine.charts import draw_charts
from engine.datasets import is_voc, open_split, read_truth, split_file
from engine.distributed import Ranks
from engine.drawing import write_picture
from engine.failures import in_one_line
from engine.files import make_folder, write_json
from engine.scenes import predict_source
from errors import InputError
from eval.files import read_detections, read_ground_truth_arrays, write_detections
from eval.scoring import Scored, score
from eval.tables import Subject, all_tables, known_classes
from eval.wording import row_name
from models import ModelConfig, build_model

SCORING_KEYS = ("eval.area_ranges", "eval.limits", "eval.olrp")


def test_checkpoint(
    path: Path, split: str, output: Path | None, overrides: list[str], markdown: Path | None = None,
    tiling: Tiling | None = None,
) -> int:
    """Detect on a split, write detections.json, metrics.json and pictures, print the tables; returns the exit code.

    For a VOC set, ground_truth.json is the same annotations in COCO's form, with the ids of detections.json.

    Args:
        markdown: a file to write the tables to.
        tiling: how larger images are cut; None: all are fitted to train.image_size.
    """
    model, content = checkpoint.load_for_inference(path)
    config = checkpoint.settings_for(content, path, overrides)
    with Ranks(config.train.device) as ranks:
        class_names = tuple(content["class_names"])
        source = open_split(config, split, class_names, training=False)
        output = output or path.parent / split
        if ranks.is_main:
            _make_places(output, markdown)
            _remove_leftovers(output)
            truth = read_truth(config, split, class_names)      # now, not after hours of detecting
            print(f"{path}: {source.summary()}")
        with in_one_line(config, ranks.world_size, training=False, side=tiling.tile if tiling else None):
            found = predict_source(model, source, config, ranks, source.category_ids, tiling)
        if found is None:
            return 0
        write_detections(output / "detections.json", found.detections)
        if is_voc(split_file(config, split)):       # else detections.json would have nothing to be scored against again
            write_json(output / "ground_truth.json", truth)
        scored = score(truth, found.detections, config.eval.scoring())
        _report(scored, subject_of(model.config, len(source)), output, markdown)
        if found.capped_images:
            where = " in a tile" if tiling else ""
            print(f"{found.capped_images} image(s) had more than eval.max_det={config.eval.max_det} detections{where}; the "
                  "weakest were left out")
        return 0


def test_files(
    ground_truth: Path, detections: Path, protocol: str, output: Path | None, overrides: list[str], markdown: Path | None = None
) -> int:
    """Score a COCO results file by one of eval.scoring.PROTOCOLS; otherwise as test_checkpoint.

    Args:
        output: None: a folder beside the detections, named after them and the protocol.
        overrides: what changes in the protocol, such as eval.olrp=true.
    """
    config = configs.from_dict({"eval": {"protocol": protocol}}, "test.py", overrides)
    for override in overrides:
        if override.partition("=")[0] not in SCORING_KEYS:
            raise InputError(f"'{override}': belongs to a checkpoint. With files alone --protocol, {', '.join(SCORING_KEYS)} "
                             "can be set.")
    for path in (ground_truth, detections):
        _check_is_there(path)
    name = Path(detections.name.removesuffix(".gz")).stem
    if _is_pipe(detections):
        if output is None:
            raise InputError(f"--output: is needed, as no folder is beside the pipe {detections}. Name one for the results.")
        name = output.resolve().name                            # better than 63, of /dev/fd/63
    output = output or detections.with_name(f"{name}_{protocol}")
    _make_places(output, markdown)
    truth = read_ground_truth_arrays(ground_truth)
    scored = score(truth, read_detections(detections, truth), config.eval.scoring())
    called = name if _is_pipe(detections) else row_name(detections)
    _report(scored, Subject(called, len(scored.truth.image_ids)), output, markdown)
    return 0


def _check_is_there(path: Path) -> None:
    """Raise InputError for what cannot be a file to read, so that no folder is made for its results."""
    try:
        path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check the path.") from None
    if path.is_dir():
        raise InputError(f"{path}: is a folder. Name a JSON file in it.")


def _is_pipe(path: Path) -> bool:
    """Whether nothing can lie beside it. /dev/stdin may look like a file, as after `< file`."""
    return not path.is_file() or path.parent in (Path("/dev"), Path("/dev/fd")) or path.is_relative_to("/proc")


def _make_places(output: Path, markdown: Path | None) -> None:
    """Make the folders of the results, now, not after hours of detecting. Raises InputError where that cannot be."""
    make_folder(output)
    if markdown is None:
        return
    if markdown.is_dir():
        raise InputError(f"--markdown: {markdown} is a folder. Name a file, such as {markdown / 'table.md'}.")
    try:
        markdown.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--markdown: {markdown.parent} cannot be a folder ({error.strerror}). Name another file.") from None
    if not os.access(markdown if markdown.exists() else markdown.parent, os.W_OK):
        raise InputError(f"--markdown: {markdown} may not be written. Name another file.")


def _remove_leftovers(output: Path) -> None:
    """Remove what tests that were killed while writing left beside their results; another one may be writing there now."""
    for path in output.glob(".*.json.*.tmp"):
        process = path.suffixes[-2][1:]
        if process.isdecimal() and _is_gone(int(process)):
            with suppress(OSError):
                path.unlink()


def _is_gone(process: int) -> bool:
    """Whether a process has ended; one with our own number has, in a container that counts from 1 again."""
    if process == os.getpid():
        return True
    try:
        os.kill(process, 0)         # no signal, but looks for the process
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:         # someone else's
        return False
    return False


def subject_of(config: ModelConfig, num_images: int) -> Subject:
    """What a model is called in a table, such as YOLO11n + ARB, and what it is made of."""
    switches = (config.mdca, config.arb, config.pfdh)
    modules = [name for name, on in zip(("MDCA", "ARB", "PFDH"), switches, strict=True) if on]
    name = " + ".join([f"YOLO11{config.scale}", *modules])
    if len(modules) == 3:
        name = f"RS-TinyNet-{config.scale}"
    elif config.p2 and not (config.mdca or config.pfdh):        # with one of these it is there anyway
        name += " + P2"
    with torch.device("meta"):                                  # counted before its BatchNorms are folded away
        parameters = build_model(config).reported_parameters()
    return Subject(name, num_images, parameters, switches)


def _report(scored: Scored, subject: Subject, output: Path, markdown: Path | None) -> None:
    write_json(output / "metrics.json", scored.metrics)
    subject = subject._replace(num_objects=len(scored.truth.boxes))
    tables = all_tables(scored.metrics, subject, scored.curves.protocol)
    print("\n\n".join(table.text() for table in tables) + "\n")
    for note in _notes(scored):
        print(note)
    for name, picture in draw_charts(scored).items():
        write_picture(output / "pictures" / f"{name}.png", picture)
    if markdown:            # last: whatever becomes of it, the rest is there
        try:
            markdown.write_text("\n\n".join(table.markdown() for table in tables) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"--markdown: {markdown} could not be written ({error.strerror}); all else is in {output}. Name "
                             "another file.") from None
    print(f"wrote {output / 'metrics.json'}, {output / 'pictures'}{f' and {markdown}' if markdown else ''}")


def _notes(scored: Scored) -> list[str]:
    """What figures alone do not say."""
    truth, is_voc_protocol = scored.truth, scored.curves.protocol.name == "voc"
    notes = []
    if not len(truth.boxes):
        notes.append("No figure is defined: the ground truth holds no annotation.")
    elif (truth.crowd | truth.difficult if is_voc_protocol else truth.crowd).all():
        marks = "iscrowd or difficult" if is_voc_protocol else "iscrowd"
        notes.append(f"No figure is defined: no object counts, as every annotation is marked {marks}.")
    if not is_voc_protocol and known_classes(truth.category_names) == "dior":
        notes.append("The classes are DIOR's, for which papers give VOC's mAP50: --protocol voc takes it.")
    return notes
