"""One run of benchmarks/loader.py: epochs of one tool's training loader, with times and memory printed as JSON.

    python benchmarks/loader_run.py ours|ultralytics none|disk|ram WORKERS EPOCHS DATA SCRATCH

DATA is a COCO set (images/, annotations/train.json). SCRATCH holds the same as Ultralytics reads it, and the caches on disk.
Needs nothing but the tool itself, so that the peer's interpreter can run it.
"""
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

SIDE, BATCH = 800, 16
AUGMENT = dict(mosaic=1.0, hsv_h=0.015, hsv_s=0.7, hsv_v=0.4, translate=0.1, scale=0.5)


def ours(cache: str, workers: int, data: Path, scratch: Path) -> tuple[str, Iterable]:
    """What to call it, and something whose every iteration is an epoch."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from data.cache import open_cache
    from data.coco import load_coco
    from data.loader import train_loader
    from data.transforms import AugmentConfig
    listing = data / "annotations/train.json"
    source = load_coco(listing, data / "images", training=True)
    if cache != "none":
        pixels = open_cache(source, cache, data, scratch / "pixel_cache", listing)
        source.decoded = pixels.image
        if cache == "ram":
            pixels.drop_name()
    augment = AugmentConfig(flip_lr=0.5, **AUGMENT)
    loader = train_loader(source, SIDE, BATCH, augment, seed=0, mosaic_epochs=1 << 30, workers=workers)

    class Epochs:
        epoch = 0

        def __iter__(self):
            loader.batch_sampler.set_position(self.epoch, 0)
            self.epoch += 1
            return (batch.images for batch in loader)

    return "ours", Epochs()


def ultralytics(cache: str, workers: int, data: Path, scratch: Path) -> tuple[str, Iterable]:
    """The same of Ultralytics' data set and loader, as its trainer builds them."""
    import ultralytics
    from ultralytics.cfg import get_cfg
    from ultralytics.data import build_dataloader, build_yolo_dataset
    settings = get_cfg(overrides=dict(
        task="detect", imgsz=SIDE, cache=False if cache == "none" else cache, deterministic=False, fliplr=0.5, **AUGMENT,
    ))
    names = {k: str(k) for k in range(int((scratch / "classes").read_text()))}
    dataset = build_yolo_dataset(
        settings, str(scratch / "images"), BATCH, {"names": names, "channels": 3}, mode="train", rect=False, stride=32
    )
    if (dataset.cache or "none") != cache:      # it goes on without when it finds too little memory or disk
        raise SystemExit(f"ultralytics does not cache ({cache})")
    loader = build_dataloader(dataset, BATCH, workers, shuffle=True, rank=-1)

    class Epochs:
        def __iter__(self):
            return (batch["img"] for batch in loader)

    return f"ultralytics {ultralytics.__version__}", Epochs()


def children() -> list[int]:
    """The loader's workers."""
    return [int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]


def processor_seconds() -> float:
    """Of this process and its workers so far."""
    ticks = 0
    for pid in [os.getpid(), *children()]:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory() -> tuple[float, float]:
    """MB that the largest worker has for itself, and in all (with what it shares: the mapped cache and batches)."""
    own, every = 0, 0
    for pid in children():
        status = Path(f"/proc/{pid}/status").read_text()
        values = [int(status.split(name)[1].split()[0]) / 1024 for name in ("RssAnon:", "VmRSS:")]
        own, every = max(own, values[0]), max(every, values[1])
    return own, every


def main() -> None:
    tool, cache, workers, epochs = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    data, scratch = Path(sys.argv[5]), Path(sys.argv[6])
    name, loader = (ours if tool == "ours" else ultralytics)(cache, workers, data, scratch)
    import cv2
    figures = {"rates": [], "per_core": [], "own": [], "all": []}
    for epoch in range(1 + epochs):     # the first starts the workers and meets every page for the first time
        count, start, start_cpu = 0, time.perf_counter(), processor_seconds()
        for images in loader:
            assert images.shape[1:] == (3, SIDE, SIDE) and str(images.dtype) == "torch.uint8"
            count += len(images)
        if epoch:
            elapsed, used = time.perf_counter() - start, processor_seconds() - start_cpu
            for key, value in zip(figures, (count / elapsed, count / used, *memory()), strict=True):
                figures[key].append(value)
    print(json.dumps({"name": name, "opencv": cv2.__version__, **figures}))
    sys.stdout.flush()
    os._exit(0)                         # workers of either tool need not be waited for


if __name__ == "__main__":
    main()
