"""Every row of Table III, at scale n, learns eight real images by heart. Minutes each: run with -m slow."""
import json
from pathlib import Path

import pytest

import train

ROOT = Path(__file__).parents[2]
CPU = Path("/proc/cpuinfo")
AMP = "bf16" if CPU.exists() and "avx512_bf16" in CPU.read_text() else "off"        # where the CPU multiplies it
ROWS = ("yolo11n", "yolo11n_p2", "ablation_mdca", "ablation_arb", "ablation_pfdh", "ablation_mdca_arb", "ablation_arb_pfdh",
        "ablation_mdca_pfdh", "ablation_mdca_arb_pfdh", "rs_tinynet_n")
SETTINGS = (
    "train.image_size=640", "train.batch_size=4", "train.nominal_batch=4", "train.epochs=300", "train.validate_every=20",
    "train.lr=0.005", "train.final_lr=0.2", "train.warmup_epochs=5", "train.warmup_bias_lr=0.01", "train.ema_updates=500",
    "train.workers=2", f"train.amp={AMP}",
    *(f"augment.{name}=0" for name in ("mosaic", "translate", "scale", "flip_lr", "hsv_h", "hsv_s", "hsv_v")),
)


@pytest.fixture(scope="session")
def eight_images(real_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first two images of each kind that hold 5 to 60 objects: airports, ships, storage tanks, streets."""
    root = real_set.parent / "tinyrs4"
    content = json.loads((root / "annotations/train.json").read_text())
    objects = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    kinds = {}
    for image in content["images"]:
        if 5 <= len(objects[image["id"]]) <= 60:
            kinds.setdefault(image["labelled_categories"][0], []).append(image)
    content["images"] = [image for kind in kinds.values() for image in kind[:2]]
    content["annotations"] = [a for image in content["images"] for a in objects[image["id"]]]
    assert len(content["images"]) == 8
    path = tmp_path_factory.mktemp("eight") / "eight.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_eight_images_are_learned_by_heart(row: str, real_set: Path, eight_images: Path, tmp_path: Path) -> None:
    arguments = ["--config", str(ROOT / f"configs/tinyrs4/{row}.toml"), "--output", str(tmp_path / row), *SETTINGS,
                 f"data.root={real_set.parent / 'tinyrs4'}", f"data.train={eight_images}", f"data.val={eight_images}"]
    assert train.main(arguments) == 0
    lines = [json.loads(line) for line in (tmp_path / row / "log.jsonl").read_text().splitlines()]
    best = max(line["val"]["AP50"] for line in lines if "val" in line)
    print(f"{row}: AP50 {best:.3f}")
    assert best > 0.9
