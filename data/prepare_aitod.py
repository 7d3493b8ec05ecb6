"""AI-TOD from its parts: xView's training scenes, the download AI-TOD_wo_xview, and the published annotation files.

    python -m data.prepare_aitod --xview DIR --aitod DIR --annotations FILE... --output DIR

OUTPUT can be data.root of configs/aitod and configs/aitod_v2 then: images/ holds every image once, whatever its split, and
annotations/ the annotation files, byte for byte, under the names that the configs expect. Images named N__X_Y.png are cut from
xView's N.tif, 800 x 800 px at X, Y; the others are linked (copied, where links are not possible) from the download. No source
is changed. A run that was interrupted goes on with the same command. See docs/aitod.md.
"""
import argparse
import fcntl
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
from tqdm import tqdm

from data import aitod_layout as layout
from data.aitod_annotations import Annotations, counts_table, gather, merged, read_lists
from data.aitod_images import Picture, Pictures, Scene, is_whole, write_whole
from errors import InputError, run

MARK = "prepare_aitod.json"         # in OUTPUT: that it is ours, and its colours
WORKSHOP = ".unfinished"            # in OUTPUT: files that are being written
CROP_BYTES = 1_300_000              # of a crop's PNG; aerial images of this size took 0.97 MB on average
TOGETHER = 256                      # images that are linked in one go
WHERE_XVIEW = ("xView's training images come from http://xviewdataset.org (an account is needed). Take the .tar: several users "
               "could not unpack train_images.zip from 1602.tif on.")
WHERE_AITOD = ("AI-TOD_wo_xview is linked on https://github.com/jwwangchn/AI-TOD; its author keeps all images, crops included, "
               "at https://huggingface.co/datasets/jwwangchn/AI-TOD too.")


@dataclass
class Plan:
    """What the annotation files ask for, and where it comes from. Images by their file name."""

    wanted: set[str]
    done: int = 0
    scenes: dict[Path, list[tuple[layout.Crop, Path]]] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    lost_crops: dict[str, list[str]] = field(default_factory=dict)      # by scene
    lost_images: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """How many images have no source."""
        return sum(map(len, self.lost_crops.values())) + len(self.lost_images)

    def missing(self) -> str:
        """What is missing, with the first five names, in one line."""
        parts = []
        if self.lost_crops:
            scenes = sorted(self.lost_crops, key=int)
            parts.append(f"{len(scenes):,} scene(s) of xView ({sum(map(len, self.lost_crops.values())):,} crops), such as "
                         f"{', '.join(f'{s}.tif' for s in scenes[:5])}")
        if self.lost_images:
            parts.append(f"{len(self.lost_images):,} image(s) of AI-TOD_wo_xview, such as {', '.join(self.lost_images[:5])}")
        return "; ".join(parts)


def make_plan(files: list[Annotations], xview: list[Path], aitod: list[Path], output: Path, natural: bool) -> Plan:
    """Find a source for each image that is not in OUTPUT yet."""
    plan = Plan({name for entry in files for name in entry.images})
    scenes = _find_scenes(xview, output)
    found = _find_pngs(aitod, output, {name.rpartition("/")[2] for name in plan.wanted})
    for name in sorted(plan.wanted):
        target, crop = output / "images" / name, layout.crop_of(name)
        sources = found.get(target.name, [])
        if is_whole(target):
            plan.done += 1
        elif crop and crop.scene in scenes:
            plan.scenes.setdefault(scenes[crop.scene], []).append((crop, target))
        elif sources and not (crop and natural):        # a crop that someone has cut, in colours like the official ones
            plan.pictures.append(Picture(sources, target))
        elif crop:
            plan.lost_crops.setdefault(crop.scene, []).append(name)
        else:
            plan.lost_images.append(name)
    return plan


def make_images(plan: Plan, workshop: Path, natural: bool, workers: int) -> list[str]:
    """Carry a plan out; returns what went wrong with single images."""
    for folder in {p.target.parent for p in plan.pictures} | {t.parent for crops in plan.scenes.values() for _, t in crops}:
        folder.mkdir(parents=True, exist_ok=True)
    jobs = [Scene(source, crops) for source, crops in plan.scenes.items()]
    jobs += [Pictures(plan.pictures[k : k + TOGETHER]) for k in range(0, len(plan.pictures), TOGETHER)]
    troubles = []
    total = plan.done + sum(map(len, jobs))
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=total, initial=plan.done, desc="images", unit="image", disable=None) as bar,
    ):
        running = {pool.submit(job.make, workshop, natural): job for job in jobs}
        try:
            for finished in as_completed(running):
                troubles += finished.result()
                bar.update(len(running[finished]))
        finally:
            pool.shutdown(cancel_futures=True)      # a full disk, Ctrl-C: no further job is begun
    return troubles


def prepare(
    xview: list[Path], aitod: list[Path], annotations: list[Path], lists: list[Path], output: Path, *,
    natural: bool = False, partial: bool = False, workers: int | None = None,
) -> int:
    """Assemble AI-TOD in OUTPUT and print what was found, done and counted.

    Args:
        natural: the crops in true colours, in place of AI-TOD's exchanged ones.
        partial: go on although sources are missing.
        workers: threads; None: one for each core.
    Returns:
        The exit code: 0, or 1 when images are missing and `partial` let that pass.
    Raises:
        InputError: of one line, as everywhere.
    """
    output = output.absolute()
    if not xview and not aitod:
        raise InputError("--xview, --aitod: neither is given. Name the folder of xView's TIFFs and that of AI-TOD_wo_xview.")
    if workers is not None and workers < 1:
        raise InputError(f"--workers: {workers} is too small. Use 1 or more.")
    _examine(output, natural)
    print("reading the annotation files")
    files, notes = gather(annotations, read_lists(lists))
    plan = make_plan(files, xview, aitod, output, natural)
    _introduce(files, notes, plan, natural)
    if plan.lost and not partial:
        raise InputError(f"{plan.lost:,} of {len(plan.wanted):,} images have no source: {plan.missing()}. Add the folders that "
                         "hold them, or --partial to make the others.")
    _check_room(plan, files, output)
    _check_annotations(files, output)
    with _hold(output, natural) as workshop:
        troubles = make_images(plan, workshop, natural, workers or os.cpu_count() or 1)
        if troubles and not partial:
            raise InputError(f"{_incomplete(plan, output)}: {_few(troubles)}. Then start the same command again: what is done "
                             "stays.")
        _write_annotations(files, output, workshop)
    print("\n" + "\n\n".join(counts_table(version, files) for version in sorted({entry.version for entry in files})) + "\n")
    if plan.lost or troubles:
        print(f"{_incomplete(plan, output)}: {'; '.join(filter(None, [plan.missing(), _few(troubles)]))}\n"
              "Training refuses files that list a missing image. Start the same command again when they are there.")
        return 1
    _tell_configs(files, output)
    return 0


def _find_scenes(folders: list[Path], output: Path) -> dict[str, Path]:
    """N -> N.tif, wherever below the folders; of several those in a folder named train_images."""
    found: dict[str, list[Path]] = {}
    archives = []
    for file in _walk(folders, "--xview", output):
        number = re.fullmatch(r"([1-9]\d*)\.tiff?", file.name, re.IGNORECASE)
        if number:
            found.setdefault(number[1], []).append(file)
        elif re.search(r"\.(zip|tar|tgz|gz)$", file.name):
            archives.append(file)
    if folders and not found:
        packed = f"Unpack {archives[0]} first" if archives else "Name xView's folder train_images"
        raise InputError(f"--xview: no N.tif in {', '.join(map(str, folders))}. {packed}.")
    for number, files in found.items():
        if len(files) == 1:
            continue
        found[number] = files = [f for f in files if f.parent.name == "train_images"] or files
        if len({f.stat().st_size for f in files if f.exists()}) > 1:
            raise InputError(f"--xview: {files[0]} and {files[1]} are different files for scene {number}. Name the folder of "
                             "the one to use.")
    return {number: files[0] for number, files in found.items()}


def _find_pngs(folders: list[Path], output: Path, names: set[str]) -> dict[str, list[Path]]:
    """The places of each of these files, wherever below the folders."""
    found: dict[str, list[Path]] = {}
    for file in _walk(folders, "--aitod", output):
        if file.name in names:
            found.setdefault(file.name, []).append(file)
    return {name: sorted(files) for name, files in found.items()}


def _walk(folders: list[Path], key: str, output: Path) -> Iterator[Path]:
    """All files below the folders, but for OUTPUT's own."""
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{key}: {folder} is not a folder. Name one.")
        for base, below, names in os.walk(folder, followlinks=True):
            below[:] = sorted(b for b in below if os.path.abspath(os.path.join(base, b)) != str(output))
            for name in names:
                yield Path(base, name)


def _introduce(files: list[Annotations], notes: list[str], plan: Plan, natural: bool) -> None:
    """Say what was found, what will be done, and what is missing."""
    for entry in files:
        print(f"{entry.title}: {len(entry.images):,} images, {sum(entry.boxes):,} boxes"
              f"{f' ({entry.path})' if not entry.parts else ''}")
    for note in notes:
        print(f"  {note}")
    crops = sum(map(len, plan.scenes.values()))
    print(f"{len(plan.wanted):,} images: {plan.done:,} are there already, {crops:,} crops to be cut from {len(plan.scenes):,} "
          f"scenes of xView, {len(plan.pictures):,} to be linked, {plan.lost:,} without a source")
    if plan.lost:
        print(f"missing: {plan.missing()}")
        print(*[f"  {text}" for text, lost in ((WHERE_XVIEW, plan.lost_crops), (WHERE_AITOD, plan.lost_images)) if lost],
              sep="\n")
    if crops and natural:
        print("colours: as in xView, unlike the official AI-TOD, whose crops of xView have red and blue exchanged")
    elif crops:
        print("colours: red and blue of the crops are exchanged, as in the official AI-TOD (--natural-colours: they are not)")


def _check_room(plan: Plan, files: list[Annotations], output: Path) -> None:
    place = next(p for p in (output, *output.parents) if p.exists())
    device = place.stat().st_dev
    need = CROP_BYTES * sum(map(len, plan.scenes.values()))
    need += sum(os.path.getsize(p) for entry in files for p in entry.parts or (entry.path,))
    sources = (os.stat(p.sources[0]) for p in plan.pictures if p.sources[0].exists())
    need += sum(s.st_size for s in sources if s.st_dev != device)          # those will be copied
    free = shutil.disk_usage(place).free
    if need > free:
        raise InputError(f"--output: about {need / 1e9:.1f} GB are needed, but {place} has {free / 1e9:.1f} GB free. Make "
                         "room, or name a folder on another disk.")


def _examine(output: Path, natural: bool) -> None:
    """See that OUTPUT is new, or was begun by this tool in the same colours."""
    if not output.exists():
        return
    if not output.is_dir():
        raise InputError(f"--output: {output} is a file. Name a folder.")
    mark = output / MARK
    if not mark.exists():
        if any(output.iterdir()):
            raise InputError(f"--output: {output} holds something that this tool did not make. Name a folder of its own.")
        return
    text = mark.read_text(encoding="utf-8", errors="replace")
    if text and text != _mark(natural):         # empty: killed before it was written, so nothing was
        raise InputError(f"--output: {output} was begun {'without' if natural else 'with'} --natural-colours. Keep to that, or "
                         "name another folder.")


def _mark(natural: bool) -> str:
    return json.dumps({"made by": "python -m data.prepare_aitod", "natural colours": natural}) + "\n"


@contextmanager
def _hold(output: Path, natural: bool) -> Iterator[Path]:
    """Keep other runs out of OUTPUT; yields the folder for unfinished files, which is empty then and gone afterwards."""
    workshop = output / WORKSHOP
    try:
        output.mkdir(parents=True, exist_ok=True)
        mark = os.open(output / MARK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(f"--output: {output} cannot be written ({error.strerror}). Name another folder.") from None
    loudness = cv2.utils.logging.getLogLevel()
    try:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"--output: another run is at work in {output}. Wait until it has ended.") from None
        except OSError:             # a file system without locks
            pass
        if not os.fstat(mark).st_size:
            os.write(mark, _mark(natural).encode())
        shutil.rmtree(workshop, ignore_errors=True)     # of a run that was killed
        workshop.mkdir()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)       # what is wrong with a TIFF is told once, by us
        try:
            yield workshop
        finally:
            shutil.rmtree(workshop, ignore_errors=True)
    finally:
        cv2.utils.logging.setLogLevel(loudness)
        os.close(mark)


def _check_annotations(files: list[Annotations], output: Path) -> None:
    """See that none would have to be replaced: before the work, not after it."""
    for entry in files:
        target = _annotation_file(entry, output)
        if target.exists() and target.read_bytes() != _annotation_bytes(entry):
            raise InputError(f"{target}: is there already, with other content than {entry.path}. Remove it, or name another "
                             "--output.")


def _write_annotations(files: list[Annotations], output: Path, workshop: Path) -> None:
    (output / "annotations").mkdir(exist_ok=True)
    for entry in files:
        target = _annotation_file(entry, output)
        if not target.exists():
            write_whole(target, _annotation_bytes(entry), workshop)


def _annotation_file(entry: Annotations, output: Path) -> Path:
    return output / "annotations" / layout.annotation_name(entry.version, entry.split)


def _annotation_bytes(entry: Annotations) -> bytes:
    return merged(*entry.parts) if entry.parts else entry.path.read_bytes()


def _incomplete(plan: Plan, output: Path) -> str:
    absent = sum(not is_whole(output / "images" / name) for name in plan.wanted)
    return f"{absent:,} of {len(plan.wanted):,} images were not made"


def _few(troubles: list[str]) -> str:
    """The first five of them in one line."""
    return ". ".join(sorted(troubles)[:5]) + (f". And {len(troubles) - 5:,} more" if len(troubles) > 5 else "")


def _tell_configs(files: list[Annotations], output: Path) -> None:
    """The commands that work now, and what others would need."""
    for version in sorted({entry.version for entry in files}):
        mine = {entry.split for entry in files if entry.version == version}
        for needed, config in (({"trainval", "test"}, "rs_tinynet_m"), ({"train", "val", "test"}, "rs_tinynet_m_dev")):
            config = f"configs/{'aitod' if version == 1 else 'aitod_v2'}/{config}.toml"
            absent = ", ".join(split for split in layout.SPLITS if split in needed - mine)
            print(f"python train.py --config {config} data.root={output}" if not absent else
                  f"for {config} the annotations of {absent} are missing")


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and assemble the set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--xview", type=Path, nargs="+", default=[], metavar="DIR",
                        help="xView's train_images (N.tif), or a folder above it")
    parser.add_argument("--aitod", type=Path, nargs="+", default=[], metavar="DIR",
                        help="AI-TOD_wo_xview as unpacked, in any folders; finished crops that lie there serve where --xview "
                        "lacks their scene")
    parser.add_argument("--annotations", type=Path, nargs="+", required=True, metavar="FILE",
                        help="annotation files of AI-TOD or AI-TOD-v2, of any name, or their folder")
    parser.add_argument("--lists", type=Path, nargs="+", default=[], metavar="FILE",
                        help="aitod_xview_{train,val,trainval,test}.txt of AI-TOD's tool, or their folder: to know splits by")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the new data set")
    parser.add_argument("--natural-colours", action="store_true", help="do not exchange red and blue of the crops")
    parser.add_argument("--partial", action="store_true", help="make what can be made where sources are missing; exit code 1")
    parser.add_argument("--workers", type=int, default=None, help="threads (default: one for each core)")
    options = parser.parse_args(arguments)
    try:
        return prepare(options.xview, options.aitod, options.annotations, options.lists, options.output,
                       natural=options.natural_colours, partial=options.partial, workers=options.workers)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 3


if __name__ == "__main__":
    run(main)
