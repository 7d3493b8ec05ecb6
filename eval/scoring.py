"""Score by the name of a protocol: what trainer and test.py call, whatever the benchmark.

    scored = score(truth, detections, "voc")        # scored.metrics -> metrics.json, scored.curves -> pictures
"""
from typing import NamedTuple

from eval import voc
from eval.coco import AITOD, COCO, Curves, accumulate, summarize
from eval.files import DetectionArrays, GroundTruthArrays, ground_truth_arrays

COCO_LIKE = {"aitod": AITOD, "coco": COCO}
PROTOCOLS = (*COCO_LIKE, "voc")

# The figures that a log line shows. The first decides which weights become best.pt: of VOC's definitions the area under the
# curve, as eleven points move in jumps.
HEADLINES = {"aitod": ("AP", "AP50"), "coco": ("AP", "AP50"), "voc": ("AP50_voc12", "AP50_voc07")}


class Scored(NamedTuple):
    """Figures, and what pictures are drawn from."""

    metrics: dict                       # as in metrics.json
    curves: Curves                      # by COCO's matching; for voc with COCO's limits and sizes
    truth: GroundTruthArrays
    detections: DetectionArrays


def score(ground_truth: dict | GroundTruthArrays, detections: DetectionArrays, protocol: str) -> Scored:
    """Score detections by one of PROTOCOLS. Raises InputError for a detection of an unknown image or that is not finite."""
    truth = ground_truth_arrays(ground_truth)
    curves = accumulate(truth, detections, COCO_LIKE.get(protocol, COCO))
    metrics = summarize(curves) if protocol in COCO_LIKE else voc.evaluate(truth, detections)
    return Scored(metrics, curves, truth, detections)
