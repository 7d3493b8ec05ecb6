"""test.py with files alone: what the protocol sets can be changed, and nothing that belongs to a checkpoint."""
import json
from pathlib import Path

import pytest

import test as test_script
from errors import InputError

TRUTH = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "ship"}],
         "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]}]}
FOUND = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 8], "score": 0.9}]


def test_own_ranges_limits_and_olrp_reach_the_metrics(tmp_path: Path) -> None:
    (tmp_path / "gt.json").write_text(json.dumps(TRUTH))
    (tmp_path / "dt.json").write_text(json.dumps(FOUND))
    arguments = ["--ground-truth", str(tmp_path / "gt.json"), "--detections", str(tmp_path / "dt.json"), "--protocol", "coco"]
    assert test_script.main([*arguments, "eval.area_ranges=big:64:200", "eval.limits=3,5", "eval.olrp=true"]) == 0
    metrics = json.loads((tmp_path / "dt_coco/metrics.json").read_text())
    assert {"AP_big", "AR3", "AR5", "oLRP"} <= set(metrics) and "AP_s" not in metrics
    assert metrics["oLRP"] == pytest.approx(0.4) and metrics["oLRP_Loc"] == pytest.approx(0.2)     # IoU 0.8
    with pytest.raises(InputError, match="'eval.conf=0.1': belongs to a checkpoint"):
        test_script.main([*arguments, "eval.conf=0.1"])
