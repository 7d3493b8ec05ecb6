"""Detections as GeoJSON, for maps.

RFC 7946 knows longitude and latitude of WGS 84 only, so outlines are in these. The properties of each object hold its box in
the image's own coordinate reference system and in its pixels too.
"""
import json

import numpy as np

from data.raster import Georeference

DECIMALS = 9        # of a degree: a tenth of a millimetre


def features(
    image: str, place: Georeference, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, names: list[str]
) -> tuple[list[str], int]:
    """The objects of one image, each as the text of a GeoJSON feature, and how many are left out for being nowhere on earth.

    Args:
        boxes: (n, 4) xyxy pixels.
        labels: (n,) of `names`.
    """
    corners = boxes[:, [0, 3, 2, 3, 2, 1, 0, 1]].reshape(-1, 2)         # from the lower left, anticlockwise as one sees it
    outlines = place.degrees(corners).reshape(-1, 4, 2)
    on_earth = np.isfinite(outlines).all((1, 2))
    outlines[~on_earth] = 0
    # The standard wants them anticlockwise on the map, on which an image may lie mirrored.
    x, y = (outlines - outlines[:, :1]).transpose(2, 0, 1)
    clockwise = (x * np.roll(y, -1, 1) - y * np.roll(x, -1, 1)).sum(1) < 0
    outlines[clockwise] = outlines[clockwise, ::-1]
    own = place.coordinates(corners).reshape(-1, 4, 2)
    bounds = np.concatenate((own.min(1), own.max(1)), 1)
    texts = []
    for k in np.flatnonzero(on_earth).tolist():
        outline = outlines[k].round(DECIMALS).tolist()
        x1, y1, x2, y2 = boxes[k].tolist()
        texts.append(json.dumps({
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[*outline, outline[0]]]},
            "properties": {
                "image": image, "class": names[labels[k]], "score": float(scores[k]), "bbox": [x1, y1, x2 - x1, y2 - y1],
                "crs": place.crs, "crs_bounds": bounds[k].tolist(),
            },
        }))
    return texts, len(boxes) - len(texts)


def collection(texts: list[str]) -> str:
    """The text of a GeoJSON file with these features."""
    return '{"type": "FeatureCollection", "features": [\n' + ",\n".join(texts) + "\n]}\n"
