"""test.py with files alone: what it takes, where it writes, and what it says before and besides the figures."""
import gzip
import json
import os
import tomllib
from pathlib import Path

import pytest

import test as test_script
from engine import testing
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


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Arguments that name a ground truth and detections of it."""
    (tmp_path / "gt.json").write_text(json.dumps(TRUTH))
    (tmp_path / "dt.json").write_text(json.dumps(FOUND))
    return ["--ground-truth", str(tmp_path / "gt.json"), "--detections", str(tmp_path / "dt.json")]


def refused(arguments: list[str]) -> str:
    with pytest.raises(InputError) as caught:
        test_script.main(arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading fails the test."""
    monkeypatch.setattr(testing, "read_ground_truth_arrays", lambda path: pytest.fail("was read"))


@pytest.mark.usefixtures("unread")
def test_a_bad_place_for_results_is_refused_before_anything_is_read(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked.md").write_text("mine")
    locked = {tmp_path / "locked", tmp_path / "locked.md"}
    access = os.access                                          # root may write everywhere
    monkeypatch.setattr(os, "access", lambda path, mode: path not in locked and access(path, mode))
    for option, value, told in (
        ("--output", "file", "--output: {} cannot be a folder (File exists). "),
        ("--output", "file/deep", "--output: {} cannot be a folder (Not a directory). "),
        ("--output", "locked", "--output: nothing may be written into {}. "),
        ("--markdown", ".", "--markdown: {} is a folder. Name a file, such as "),
        ("--markdown", "file/table.md", f"--markdown: {tmp_path / 'file'} cannot be a folder (File exists). "),
        ("--markdown", "locked/table.md", "--markdown: {} may not be written. "),
        ("--markdown", "locked.md", "--markdown: {} may not be written. "),
    ):
        assert refused([*files, option, str(tmp_path / value)]).startswith(told.format(tmp_path / value))
    assert (tmp_path / "file").read_text() == (tmp_path / "locked.md").read_text() == "mine"


def test_no_folder_is_made_for_files_that_are_not_there(files: list[str], tmp_path: Path) -> None:
    for option in ("--ground-truth", "--detections"):
        arguments = [*files, option, str(tmp_path / "nowhere/x.json")]
        assert "nowhere/x.json: cannot be read (No such file" in refused(arguments)
        assert "is a folder. Name a JSON file in it." in refused([*files, option, str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"gt.json", "dt.json"}


def test_results_stand_beside_the_detections_under_their_name(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "dt.v2.json.gz").write_bytes(gzip.compress(json.dumps(FOUND).encode()))
    assert test_script.main([*files, "--detections", str(tmp_path / "dt.v2.json.gz")]) == 0
    assert (tmp_path / "dt.v2_aitod/metrics.json").exists()


def test_detections_from_a_pipe_need_an_output(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader, writer = os.pipe()
    for path in (str(pipe), f"/dev/fd/{reader}"):
        assert refused([*files, "--detections", path]) == (
            f"--output: is needed, as no folder is beside the pipe {path}. Name one for the results.")
    os.write(writer, json.dumps(FOUND).encode())
    os.close(writer)
    assert test_script.main([*files, "--detections", f"/dev/fd/{reader}", "--output", str(tmp_path / "out")]) == 0
    os.close(reader)
    assert (tmp_path / "out/metrics.json").exists() and capsys.readouterr().out.startswith("out: ")
    # a file by way of /dev is one for which nobody would look there
    with open(tmp_path / "dt.json", "rb") as file:
        assert "--output: is needed" in refused([*files, "--detections", f"/dev/fd/{file.fileno()}"])


def test_a_markdown_that_fails_in_the_end_costs_nothing_else(files: list[str], tmp_path: Path) -> None:
    """On a device that is always full."""
    message = refused([*files, "--output", str(tmp_path / "out"), "--markdown", "/dev/full"])
    assert message == (f"--markdown: /dev/full could not be written (No space left on device); all else is in "
                       f"{tmp_path / 'out'}. Name another file.")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"metrics.json", "pictures"}
    assert len(list((tmp_path / "out/pictures").iterdir())) == 3


def test_what_belongs_to_a_checkpoint_is_not_passed_over(files: list[str]) -> None:
    assert refused([*files, "--split", "test"]).startswith("--split: belongs to a checkpoint; ")
    assert "--protocol" in refused([*files, "eval.protocol=voc"])
    assert refused([*files, "eval.olrps=true"]) == "test.py: unknown key 'eval.olrps'. Did you mean 'eval.olrp'?"


def test_ground_truth_in_which_nothing_counts_is_told(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    crowd, hard = ({**TRUTH["annotations"][0], mark: 1, "id": number} for number, mark in ((2, "iscrowd"), (3, "difficult")))
    told = {"aitod": "as every annotation is marked iscrowd.", "voc": "as every annotation is marked iscrowd or difficult."}
    cases = [([], "aitod", "the ground truth holds no annotation."), ([crowd], "aitod", told["aitod"]),
             ([crowd, hard], "voc", told["voc"]), ([crowd, hard], "aitod", None), ([crowd, *TRUTH["annotations"]], "voc", None)]
    for annotations, protocol, words in cases:
        (tmp_path / "gt.json").write_text(json.dumps({**TRUTH, "annotations": annotations}))
        assert test_script.main([*files, "--protocol", protocol]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("No figure is defined: ")]
        assert len(lines) == (words is not None) and all(line.endswith(words) for line in lines), (annotations, lines)


def test_with_diors_classes_the_protocol_of_its_papers_is_named(files: list[str], tmp_path: Path,
                                                               capsys: pytest.CaptureFixture) -> None:
    names = tomllib.loads((Path(__file__).parents[2] / "configs/dior/base.toml").read_text())["data"]["classes"]
    for classes, protocol, told in ((names, "aitod", True), (map(str.lower, names), "coco", True), (names, "voc", False),
                                    (names[1:], "aitod", False)):
        categories = [{"id": k, "name": name} for k, name in enumerate(classes, start=1)]
        (tmp_path / "gt.json").write_text(json.dumps({**TRUTH, "categories": categories}))
        assert test_script.main([*files, "--protocol", protocol]) == 0
        assert ("--protocol voc" in capsys.readouterr().out) == told
