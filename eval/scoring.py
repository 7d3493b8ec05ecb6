"""Score by any protocol: what trainer and test.py call, whatever the benchmark.

    scored = score(truth, detections, PROTOCOLS["voc"])     # scored.metrics -> metrics.json, scored.curves -> pictures
"""
from dataclasses import replace
from typing import NamedTuple

from eval import voc
from eval.coco import AITOD, COCO, Curves, Protocol, accumulate, summarize
from eval.files import DetectionArrays, GroundTruthArrays, ground_truth_arrays

# COCO's matching for the pictures, without the difficult objects; figures of its own
VOC = replace(COCO, name="voc", difficult=True)
PROTOCOLS = {"aitod": AITOD, "coco": COCO, "voc": VOC}

# The figures that a log line shows. The first decides which weights become best.pt: of VOC's definitions the area under the
# curve, as eleven points move in jumps.
HEADLINES = {"aitod": ("AP", "AP50"), "coco": ("AP", "AP50"), "voc": ("AP50_voc12", "AP50_voc07")}


class Scored(NamedTuple):
    """Figures, and what pictures are drawn from."""

    metrics: dict                       # as in metrics.json
    curves: Curves                      # by COCO's matching; for voc with COCO's limits and sizes
    truth: GroundTruthArrays
    detections: DetectionArrays


def score(ground_truth: dict | GroundTruthArrays, detections: DetectionArrays, protocol: Protocol) -> Scored:
    """Score detections. Raises InputError for a detection of an unknown image or that is not finite."""
    truth = ground_truth_arrays(ground_truth)
    curves = accumulate(truth, detections, protocol)
    metrics = voc.evaluate(truth, detections) if protocol.name == "voc" else summarize(curves)
    return Scored(metrics, curves, truth, detections)
