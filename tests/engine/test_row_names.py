"""What test.py calls a row: nobody names a detector detections.json."""
import json
from pathlib import Path

import pytest

import test as test_script


def test_a_row_of_detections_json_has_its_folder_s_name(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "retina_50/test"
    folder.mkdir(parents=True)
    truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "ship"}], "annotations": []}
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (folder / "detections.json").write_text("[]")
    arguments = ["--ground-truth", str(tmp_path / "gt.json"), "--detections", str(folder / "detections.json")]
    assert test_script.main([*arguments, "--markdown", str(tmp_path / "t.md")]) == 0
    assert capsys.readouterr().out.startswith("retina_50: ")
    assert (tmp_path / "t.md").read_text().startswith("### retina_50: ")
    assert (folder / "detections_aitod/metrics.json").is_file()         # the folder of results keeps the file's name
