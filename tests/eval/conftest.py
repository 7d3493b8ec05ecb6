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


@pytest.fixture(scope="session")
def detector_scene():
    """COCO ground truth and results as a dense detector leaves them, of tiny objects in clusters, some on the border.

    Each cell of a grid of 8 px near an object has a box, the worse the further away it is, and float32 scores for all classes;
    boxes are clipped and scaled to the image, and NMS at 0.7 within a class leaves many that overlap.
    """
    rng = np.random.default_rng(11)
    side, classes, scale = 320, 5, np.float32(0.8)
    cells = (np.indices((side // 8, side // 8)).reshape(2, -1).T + 0.5) * 8
    annotations, detections = [], []
    for image in range(6):
        count = int(min(rng.lognormal(2.5, 1), 80)) + 5
        centres = rng.uniform(0, side, (3, 2))[rng.integers(0, 3, count)] + rng.normal(0, 25, (count, 2))
        halves = np.exp(rng.normal(1.7, 0.5, (count, 2)))
        objects = np.concatenate((centres - halves, centres + halves), 1).clip(0, side).round(1)
        objects = objects[(objects[:, 2:] > objects[:, :2]).all(1)]
        label = rng.choice(classes, len(objects), p=[0.6, 0.2, 0.1, 0.06, 0.04])
        for box, k in zip(_xywh(objects / 0.8), label.tolist(), strict=True):
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": k, "bbox": box,
                                "area": box[2] * box[3], "iscrowd": 0})
        distance = np.linalg.norm(cells[:, None] - (objects[:, :2] + objects[:, 2:]) / 2, axis=2)
        near = distance.min(1) < 24
        nearest, off = distance.argmin(1)[near], distance.min(1)[near][:, None]
        boxes = objects[nearest] + rng.normal(0, 1, (len(off), 4)) * (0.3 + off / 10)
        boxes = np.sort(boxes.clip(0, side).reshape(-1, 2, 2), 1).reshape(-1, 4).astype(np.float32) / scale
        logits = rng.normal(-3, 1, (len(off), classes)) - off / 8
        logits[np.arange(len(off)), label[nearest]] += 4
        scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
        corners = np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(boxes[:, None, :2], boxes[:, :2])
        shared, own = corners.clip(0).prod(2), (boxes[:, 2:] - boxes[:, :2]).prod(1)
        rivals = shared > 0.7 * (own[:, None] + own - shared)
        for k in range(classes):
            kept = []
            for i in np.argsort(-scores[:, k], kind="stable"):
                if scores[i, k] >= 0.001 and not rivals[i, kept].any():
                    kept.append(i)
            detections += [{"image_id": image, "category_id": k, "bbox": box, "score": value}
                           for box, value in zip(_xywh(boxes[kept].astype(float)), scores[kept, k].tolist(), strict=True)]
    return {"images": [{"id": k} for k in range(6)], "annotations": annotations,
            "categories": [{"id": k, "name": f"class {k}"} for k in range(classes)]}, detections


def _xywh(boxes):
    """(N, 4) xyxy -> a list of boxes in COCO's form."""
    return np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), 1).tolist()


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
