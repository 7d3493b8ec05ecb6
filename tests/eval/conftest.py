"""What tests of the evaluator share: scenes full of what goes wrong, and IoU in the plainest way."""
import numpy as np
import pytest


@pytest.fixture(scope="session")
def overlap():
    """(box, box) -> IoU."""
    return _overlap


@pytest.fixture(scope="session")
def random_scene():
    """(seed, share of difficult objects) -> COCO ground truth and results."""
    return _random_scene


def _overlap(a, b):
    """IoU of two xywh boxes."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


def _random_scene(seed, difficult=0.2):
    """Ties in score and in IoU, copies of boxes, difficult objects, classes without any, images without anything."""
    rng = np.random.default_rng(seed)
    images = [int(i) for i in rng.choice(60, rng.integers(1, 8), replace=False)]
    categories = [int(c) for c in rng.choice(30, rng.integers(1, 6), replace=False)]
    annotations, detections = [], []
    for image in images:
        boxes = []
        for _ in range(rng.integers(0, 14)):
            box = [int(v) for v in (*rng.integers(0, 40, 2), *rng.choice([0, 4, 8, 12, 20], 2))]
            if boxes and rng.random() < 0.3:
                box = boxes[rng.integers(len(boxes))]
            boxes.append(box)
            annotations.append({
                "id": len(annotations) + 1, "image_id": image, "category_id": categories[rng.integers(len(categories))],
                "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "difficult": int(rng.random() < difficult)})
        for _ in range(rng.integers(0, 40)):
            box = [int(v) for v in (*rng.integers(0, 40, 2), *rng.choice([0, 4, 8, 12, 20], 2))]
            if boxes and rng.random() < 0.8:
                x, y, w, h = boxes[rng.integers(len(boxes))]
                dx, dy, dw, dh = (int(v) for v in rng.integers(-2, 3, 4) * rng.integers(0, 2))
                box = [x + dx, y + dy, max(w + dw, 0), max(h + dh, 0)]
            detections.append({"image_id": image, "category_id": categories[rng.integers(len(categories))], "bbox": box,
                               "score": round(float(rng.random()), 1 if rng.random() < 0.6 else 6)})
    rng.shuffle(annotations)
    rng.shuffle(detections)
    truth = {"images": [{"id": i} for i in images], "annotations": list(annotations),
             "categories": [{"id": c, "name": f"class {c}"} for c in categories]}
    return truth, list(detections)
