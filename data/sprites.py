"""The objects of generated scenes, drawn from above as a few polygons each.

A sprite is a list of (points, colour): polygons (k, 2) in pixels around the object's middle, heading along +x, later parts
on top. Colours are BGR. The box of an object is the extent of its polygons, so that it is tight whatever the heading.
"""
import numpy as np

Parts = list[tuple[np.ndarray, tuple[int, int, int]]]

WHITES = ((240, 242, 244), (222, 224, 226), (205, 208, 210))
CARS = ((235, 235, 235), (200, 202, 205), (60, 60, 62), (40, 42, 150), (120, 70, 35), (95, 98, 102), (40, 160, 190),
        (70, 95, 60))
HULLS = ((225, 228, 230), (60, 62, 110), (110, 75, 45), (70, 72, 76), (170, 172, 176), (50, 60, 150))
CLOTHES = ((40, 40, 180), (235, 235, 235), (160, 70, 40), (40, 40, 44), (60, 190, 220), (150, 60, 140))
POOLS = ((215, 190, 70), (230, 205, 100), (200, 165, 50))


def rectangle(length: float, width: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """(4, 2) corners of a rectangle centred at (x, y)."""
    a, b = length / 2, width / 2
    return np.array(((x - a, y - b), (x + a, y - b), (x + a, y + b), (x - a, y + b)))


def ellipse(length: float, width: float, x: float = 0.0, y: float = 0.0, corners: int = 20) -> np.ndarray:
    """(corners, 2) points of an ellipse centred at (x, y)."""
    t = np.arange(corners) * 2 * np.pi / corners
    return np.stack((x + np.cos(t) * length / 2, y + np.sin(t) * width / 2), 1)


def shade(colour: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    """A darker or lighter version of a colour."""
    return tuple(int(np.clip(c * factor, 0, 255)) for c in colour)


def _pick(rng: np.random.Generator, colours: tuple) -> tuple[int, int, int]:
    return shade(colours[rng.integers(len(colours))], rng.uniform(0.92, 1.06))


def airplane(rng: np.random.Generator, size: float) -> Parts:
    """Fuselage, swept wings, tailplane."""
    body = _pick(rng, WHITES)
    span, sweep = size * rng.uniform(0.85, 1.0), size * rng.uniform(0.12, 0.25)
    wing, root = size * 0.12, size * 0.08
    wings = np.array(((root, 0), (-sweep, span / 2), (-sweep - wing, span / 2), (-wing, 0),
                      (-sweep - wing, -span / 2), (-sweep, -span / 2)))
    tail = np.array(((-0.36, 0), (-0.47, 0.17), (-0.5, 0.17), (-0.46, 0), (-0.5, -0.17), (-0.47, -0.17))) * size
    return [(wings, shade(body, 0.88)), (tail, shade(body, 0.85)), (ellipse(size, size * 0.14), body)]


def bridge(rng: np.random.Generator, size: float) -> Parts:
    """A deck with lighter parapets; its length is given, its ends lie on the banks."""
    width = float(np.clip(size * rng.uniform(0.16, 0.26), 5, 12))
    deck = _pick(rng, ((120, 122, 125), (95, 97, 100), (150, 155, 160)))
    light = shade(deck, 1.45)
    return [(rectangle(size, width), light), (rectangle(size, width * 0.66), deck)]


def storage_tank(rng: np.random.Generator, size: float) -> Parts:
    """A disc with a rim, and the shadow of the wall on a floating roof."""
    roof = _pick(rng, (*WHITES, (170, 175, 180), (120, 150, 180)))
    parts = [(ellipse(size, size), shade(roof, 0.8)), (ellipse(size * 0.88, size * 0.88), roof)]
    if rng.random() < 0.5:
        parts.append((ellipse(size * 0.5, size * 0.78, -size * 0.16), shade(roof, 0.72)))
    return [*parts, (ellipse(size * 0.14, size * 0.14, size * 0.1, size * 0.1, 8), shade(roof, 0.6))]


def ship(rng: np.random.Generator, size: float) -> Parts:
    """A pointed hull, a deck and a bridge house."""
    hull = _pick(rng, HULLS)
    w = size * rng.uniform(0.2, 0.34) / 2
    outline = np.array(((size / 2, 0), (size * 0.28, w), (-size * 0.46, w), (-size / 2, w * 0.6),
                        (-size / 2, -w * 0.6), (-size * 0.46, -w), (size * 0.28, -w)))
    deck = _pick(rng, (*WHITES, (90, 110, 150), (110, 130, 120)))
    return [(outline, hull), (outline * (0.86, 0.7), deck), (rectangle(size * 0.16, w * 1.2, -size * 0.28), shade(deck, 0.7))]


def swimming_pool(rng: np.random.Generator, size: float) -> Parts:
    """Water inside a pale rim, rectangular or round."""
    width = size * rng.uniform(0.45, 0.8)
    shape = rectangle if rng.random() < 0.65 else ellipse
    water = _pick(rng, POOLS)
    return [(shape(size, width), (205, 215, 222)), (shape(size * 0.82, width * 0.76), water)]


def vehicle(rng: np.random.Generator, size: float) -> Parts:
    """A car with dark windows, or a lorry with a cab."""
    paint = _pick(rng, CARS)
    if rng.random() < 0.15:
        length, width = size * 1.5, size * 0.46
        cab = _pick(rng, CARS)
        return [(rectangle(length * 0.78, width, -length * 0.11), _pick(rng, WHITES)),
                (rectangle(length * 0.2, width * 0.95, length * 0.4), cab)]
    width = size * rng.uniform(0.44, 0.54)
    body = np.array(((0.5, 0.32), (0.42, 0.5), (-0.46, 0.5), (-0.5, 0.36), (-0.5, -0.36), (-0.46, -0.5), (0.42, -0.5),
                     (0.5, -0.32))) * (size, width)
    glass = (70, 62, 56) if max(paint) > 90 else (130, 125, 118)
    return [(body, paint), (rectangle(size * 0.14, width * 0.78, size * 0.16), glass),
            (rectangle(size * 0.1, width * 0.74, -size * 0.32), glass)]


def person(rng: np.random.Generator, size: float) -> Parts:
    """Shoulders and a head."""
    hair = _pick(rng, ((30, 32, 36), (40, 60, 90), (60, 110, 150)))
    return [(ellipse(size * 0.75, size, corners=12), _pick(rng, CLOTHES)), (ellipse(size * 0.45, size * 0.42, corners=8), hair)]


def wind_mill(rng: np.random.Generator, size: float) -> Parts:
    """Three tapering blades, the nacelle and the foot of the mast."""
    white = _pick(rng, WHITES[:2])
    turn, r, w = rng.uniform(0, 2 * np.pi), size / 2, max(size * 0.055, 0.8)
    parts = [(rectangle(size * 0.5, w * 1.3, -size * 0.25), shade(white, 0.86))]
    for k in range(3):
        t = turn + k * 2 * np.pi / 3
        along, across = np.array((np.cos(t), np.sin(t))), np.array((-np.sin(t), np.cos(t)))
        parts.append((np.array((across * w, along * r * 0.3 + across * w * 1.3, along * r, -across * w * 0.6)), white))
    return [*parts, (ellipse(w * 4, w * 4, corners=10), shade(white, 0.95))]


# In the order of AI-TOD's categories 1..8: name, how to draw it, middle of its length in pixels, spread of its logarithm, and
# height above ground as a share of its length, which decides the shadow.
CLASSES = (
    ("airplane", airplane, 18.0, 0.28, 0.16),
    ("bridge", bridge, 34.0, 0.22, 0.05),
    ("storage-tank", storage_tank, 13.5, 0.3, 0.45),
    ("ship", ship, 17.0, 0.35, 0.1),
    ("swimming-pool", swimming_pool, 14.0, 0.22, 0.0),
    ("vehicle", vehicle, 12.5, 0.13, 0.14),
    ("person", person, 6.0, 0.13, 0.9),
    ("wind-mill", wind_mill, 18.0, 0.2, 1.1),
)
NAMES = tuple(c[0] for c in CLASSES)
