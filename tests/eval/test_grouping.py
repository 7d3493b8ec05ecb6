"""Blocks of detections end where groups do, hold the objects of their groups, and bound the memory of all that use them."""
import io
import tracemalloc

import numpy as np
import pytest
from tqdm import tqdm

from eval import coco, grouping, voc
from eval.diagnosis import diagnose
from eval.files import DetectionArrays, ground_truth_arrays
from eval.grouping import blocks


def test_blocks_are_whole_groups_with_their_objects(monkeypatch):
    monkeypatch.setattr(grouping, "BLOCK", 3)
    group = np.array([0, 0, 2, 2, 2, 2, 2, 5, 6])
    found = [(place.start, place.stop, own.tolist()) for place, own in blocks(group, np.array([6, 2, 1, 5, 0]))]
    assert found == [(0, 2, [4]), (2, 7, [1]), (7, 9, [0, 3])]
    assert list(blocks(group[:0], np.array([1]))) == []


def test_many_detections_move_a_progress_bar_on_a_terminal_only(monkeypatch):
    monkeypatch.setattr(grouping, "BLOCK", 3)
    monkeypatch.setattr(grouping, "PROGRESS", 9)
    seen = []

    class Bar(tqdm):
        def __init__(self, **settings):
            seen.append(settings["disable"])
            super().__init__(**settings | {"disable": False, "file": io.StringIO()})

        def close(self):
            seen.append((self.n, self.total))
            super().close()

    monkeypatch.setattr(grouping, "tqdm", Bar)
    for count in (8, 9):
        list(blocks(np.arange(count) // 2, np.array([1])))
    assert [value for value in seen if not isinstance(value, tuple)] == [True, None]         # None: tqdm asks the terminal
    assert seen[-1] == (9, 9)


@pytest.mark.parametrize("use", [coco.evaluate, voc.evaluate, lambda *scene: diagnose(*scene, score=0.0)],
                         ids=["coco", "voc", "diagnosis"])
def test_memory_follows_the_blocks_and_not_the_detections(monkeypatch, use):
    """Beside its block, a detection costs a few numbers: 21 million fit where they fit as arrays."""
    monkeypatch.setattr(grouping, "BLOCK", 1 << 12)
    rng = np.random.default_rng(0)
    images, each = 200, 1000
    count = images * each
    found = DetectionArrays(np.repeat(np.arange(images), each), rng.choice(3, count, p=[0.9, 0.05, 0.05]),
                            rng.uniform(1, 50, (count, 4)), rng.random(count))
    truth = ground_truth_arrays({
        "images": [{"id": n} for n in range(images)], "categories": [{"id": n} for n in range(3)],
        "annotations": [{"image_id": n, "category_id": 0, "bbox": [5, 5, 30, 30]} for n in range(images)]})
    tracemalloc.start()
    try:
        use(truth, found)
        assert tracemalloc.get_traced_memory()[1] < 80 * count
    finally:
        tracemalloc.stop()
