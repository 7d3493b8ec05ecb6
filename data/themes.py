"""The places of generated scenes: each puts its ground, its water and roads, and the objects that belong there on a canvas.

Positions are in output pixels; label numbers are indices of data.sprites.NAMES.
"""
import cv2
import numpy as np

from data.scenery import Canvas, noise, rotation
from data.sprites import NAMES, rectangle

AIRPLANE, BRIDGE, TANK, SHIP, POOL, VEHICLE, PERSON, MILL = range(len(NAMES))

GRASS = ((70, 118, 92), (62, 100, 82), (80, 128, 112), (60, 92, 70))
FIELDS = ((70, 118, 92), (88, 140, 150), (95, 145, 175), (64, 98, 78), (110, 150, 170), (60, 110, 100))
SOIL = ((120, 150, 172), (105, 132, 152), (135, 160, 178))
TOWN = ((105, 122, 122), (118, 128, 134), (84, 110, 100))
SAND = ((150, 190, 210), (160, 196, 214))
ASPHALT = ((88, 88, 90), (100, 102, 104), (112, 114, 118))
CONCRETE = ((165, 172, 176), (150, 156, 160), (178, 182, 184))


def _line(canvas: Canvas, bend: float = 0.08) -> np.ndarray:
    """(12, 2) points of a gently curved line from border to border."""
    rng, size = canvas.rng, canvas.size
    angle, offset = rng.uniform(0, np.pi), rng.uniform(-0.3, 0.3) * size
    t = np.linspace(-0.85, 0.85, 12) * size
    side = offset + bend * size * np.sin(t / size * rng.uniform(2, 5) + rng.uniform(0, 6))
    return np.stack((t, side), 1) @ rotation(angle) + size / 2


def _traffic(canvas: Canvas, points: np.ndarray, width: float, density: float) -> None:
    """Vehicles in both lanes of a road along a polyline, `density` for every 100 pixels."""
    rng = canvas.rng
    for a, b in zip(points[:-1], points[1:], strict=True):
        heading = np.arctan2(*(b - a)[::-1])
        across = np.array((-np.sin(heading), np.cos(heading)))
        for _ in range(rng.poisson(np.linalg.norm(b - a) / 100 * density)):
            lane = rng.choice((-1, 1))
            spot = a + (b - a) * rng.random() + across * lane * width * 0.24
            canvas.place(VEHICLE, spot, heading + (np.pi if lane > 0 else 0) + rng.normal(0, 0.04))


def _parking(canvas: Canvas, corner: np.ndarray, rows: int, columns: int, angle: float) -> None:
    """A car park: rows of parked vehicles, some bays empty."""
    rng, turn = canvas.rng, rotation(angle)
    length, width = columns * 9.0 + 6, rows * 19.0 + 4
    lot = rectangle(length, width) @ turn + corner
    if not canvas.pave(lot, ASPHALT[rng.integers(3)]):
        return
    filled = rng.uniform(0.4, 0.95)
    for row in range(rows):
        for column in range(columns):
            if rng.random() < filled:
                spot = np.array((column * 9.0 - length / 2 + 7, row * 19.0 - width / 2 + 11)) + rng.normal(0, 0.3, 2)
                heading = angle + np.pi / 2 * rng.choice((-1, 1))
                canvas.place(VEHICLE, spot @ turn + corner, heading, rng.normal(12.5, 0.7), gap=0.3)


def _crowd(canvas: Canvas, centre: np.ndarray, count: int, spread: float) -> None:
    """People standing about, with dry feet."""
    for spot in centre + canvas.rng.normal(0, spread, (count, 2)):
        x, y = np.clip(spot.astype(int), 0, canvas.size - 1)
        if not canvas.water[y, x]:
            canvas.place(PERSON, spot, canvas.rng.uniform(0, 2 * np.pi), gap=0.6)


def _scatter(canvas: Canvas, label: int, tries: int, where: np.ndarray | None = None) -> None:
    """Objects at random places, where a (size, size) mask allows."""
    for centre in canvas.rng.uniform(0, canvas.size, (tries, 2)):
        if where is None or where[tuple(centre.astype(int)[::-1])]:
            canvas.place(label, centre, canvas.rng.uniform(0, 2 * np.pi), gap=3)


def airfield(canvas: Canvas) -> None:
    """A runway, an apron with airplanes in rows, a terminal, service vehicles."""
    rng, size = canvas.rng, canvas.size
    canvas.ground(GRASS + SOIL, 7, 7)
    angle = rng.uniform(0, np.pi)
    turn = rotation(angle)
    middle = np.array((size / 2, size / 2)) + rng.uniform(-0.1, 0.1, 2) * size
    away = np.array((0, size * 0.38)) @ turn
    canvas.ribbon(np.stack((middle + away - np.array((size, 0)) @ turn, middle + away + np.array((size, 0)) @ turn)),
                  size * 0.09, ASPHALT[rng.integers(3)], dashes=True)
    concrete = CONCRETE[rng.integers(3)]
    canvas.polygon(rectangle(size * 0.9, size * 0.42) @ turn + middle, concrete)
    for x in np.arange(-0.45, 0.46, 0.075) * size:                               # joints of the slabs
        canvas.polygon(rectangle(0.6, size * 0.42, x) @ turn + middle, tuple(c - 14 for c in concrete))
    canvas.building(middle + np.array((0, -size * 0.27)) @ turn, size * 0.5, size * 0.08, angle, 6)
    typical = rng.uniform(13, 24)
    for row in (-0.14, 0.02, 0.15):
        heading = angle + rng.choice((-1, 1)) * np.pi / 2 + rng.normal(0, 0.15)
        step = typical * rng.uniform(1.2, 1.6)
        for x in np.arange(-0.4 * size, 0.4 * size, step):
            if rng.random() < 0.7:
                spot = np.array((x, row * size)) + rng.normal(0, 1, 2)
                canvas.place(AIRPLANE, spot @ turn + middle, heading + rng.normal(0, 0.08), typical * rng.normal(1, 0.12))
    for spot in rng.uniform(-0.2, 0.2, (14, 2)) * (size * 2, size):
        canvas.place(VEHICLE, spot @ turn + middle, angle + rng.integers(4) * np.pi / 2)
    canvas.trees(25)


def coast(canvas: Canvas) -> None:
    """Sea with ships and white caps, a beach with people, a pier."""
    rng, size = canvas.rng, canvas.size
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:size, 0:size]
    inland = (x - size / 2) * np.cos(angle) + (y - size / 2) * np.sin(angle) + noise(rng, size, 3, 4) * size * 0.05
    canvas.ground(SAND + GRASS[:1], 4, 6, water=inland < rng.uniform(-0.05, 0.25) * size)
    shore = (inland > 0.27 * size) & ~canvas.water
    canvas.specks(70, ((235, 238, 240), (215, 220, 222)), canvas.water)
    if rng.random() < 0.7:
        pier = rectangle(size * 0.45, 5, -size * 0.12, rng.uniform(-0.3, 0.3) * size) @ rotation(angle) + size / 2
        canvas.polygon(pier, CONCRETE[rng.integers(3)])
        along = np.linspace(pier[0], pier[1], 7)
        for spot in along[:5]:
            canvas.place(SHIP, spot + np.array((0, -5.0)) @ rotation(angle), angle, gap=0)
    _scatter(canvas, SHIP, int(rng.uniform(10, 45)), canvas.water)
    beach = np.argwhere(~canvas.water & ~shore)
    for _ in range(rng.integers(1, 4) if len(beach) else 0):
        _crowd(canvas, beach[rng.integers(len(beach))][::-1].astype(float), rng.integers(4, 22), size * 0.06)
    canvas.trees(30)
    if rng.random() < 0.5:
        _scatter(canvas, POOL, 8, shore)


def river(canvas: Canvas) -> None:
    """A river with ships, crossed by roads on bridges; fields on both sides."""
    rng, size = canvas.rng, canvas.size
    course, width = _line(canvas, 0.1), rng.uniform(20, 46)
    line = np.ones((size, size), np.uint8)
    cv2.polylines(line, [np.round(course).astype(np.int32)], False, 0)
    near = cv2.distanceTransform(line, cv2.DIST_L2, 5)
    canvas.ground(FIELDS, 14, 6, water=near + noise(rng, size, 8, 3) * 1.5 < width / 2)
    heading = np.arctan2(*(course[7] - course[4])[::-1]) + np.pi / 2
    roads = []
    for k in rng.permutation(np.arange(2, 10))[: rng.integers(2, 6)]:
        across = heading + rng.normal(0, 0.08)
        far = np.array((np.cos(across), np.sin(across)))
        length = width * rng.uniform(1.15, 1.5)
        if canvas.place(BRIDGE, course[k], across, length, gap=4):
            banks = (np.stack((course[k] + far * s * (length / 2 + 1), course[k] + far * s * size)) for s in (-1, 1))
            roads += [(bank, rng.uniform(6, 9)) for bank in banks]
    for points, width in roads:
        canvas.ribbon(points, width, ASPHALT[rng.integers(3)])
    for points, width in roads:
        _traffic(canvas, points, width, rng.uniform(0.5, 4))
    _scatter(canvas, SHIP, 20, canvas.water)
    for _ in range(2):
        canvas.building(rng.uniform(0, size, 2), rng.uniform(12, 30), rng.uniform(9, 16), rng.uniform(0, 3), 4)
    canvas.trees(80)


def town(canvas: Canvas) -> None:
    """Blocks of houses between streets, pools behind them, a square with people, traffic and a car park."""
    rng, size = canvas.rng, canvas.size
    canvas.ground(TOWN, 10, 6)
    angle, block = rng.uniform(0, np.pi / 2), rng.uniform(55, 85)
    turn = rotation(angle)
    middle = np.array((size / 2, size / 2))
    reach = np.arange(-size, size, block)
    traffic = rng.uniform(1, 7)
    for x in reach:
        for ends in (((x, -size), (x, size)), ((-size, x), (size, x))):
            canvas.ribbon(np.array(ends, float) @ turn + middle, 9, ASPHALT[1])
    kind = rng.random((len(reach), len(reach)))
    for i, x in enumerate(reach):
        for j, y in enumerate(reach):
            centre = np.array((x + block / 2, y + block / 2)) @ turn + middle
            if (np.abs(centre - middle) > size * 0.62).any():
                continue
            if kind[i, j] < 0.14:
                _parking(canvas, centre, int(block * 0.75 // 19), int(block * 0.75 // 9), angle)
            elif kind[i, j] < 0.26:
                canvas.polygon(rectangle(block * 0.75, block * 0.75) @ turn + centre, CONCRETE[rng.integers(3)])
                _crowd(canvas, centre, rng.integers(5, 26), block * 0.2)
            else:
                for spot in rng.uniform(-0.36, 0.36, (6, 2)) * block:
                    canvas.building(spot @ turn + centre, rng.uniform(10, 20), rng.uniform(9, 14), angle, rng.uniform(2, 6))
                for spot in rng.uniform(-0.38, 0.38, (4, 2)) * block:
                    canvas.place(POOL, spot @ turn + centre, angle + rng.integers(2) * np.pi / 2)
    for x in reach:
        for ends in (((x, -size * 0.8), (x, size * 0.8)), ((-size * 0.8, x), (size * 0.8, x))):
            _traffic(canvas, np.array(ends) @ turn + middle, 9, traffic)
    canvas.trees(60)


def industry(canvas: Canvas) -> None:
    """Tank farms in bunds, halls, lorries, a car park."""
    rng, size = canvas.rng, canvas.size
    canvas.ground(SOIL + TOWN, 9, 6)
    angle = rng.uniform(0, np.pi / 2)
    turn = rotation(angle)
    street = np.array(((-size, 0.0), (size, 0))) @ turn + size / 2
    canvas.ribbon(street, 11, ASPHALT[rng.integers(3)], dashes=True)
    _traffic(canvas, street, 11, rng.uniform(2, 6))
    for _ in range(rng.integers(4, 9)):
        corner, typical = rng.uniform(0.1, 0.9, 2) * size, rng.uniform(8, 20)
        step = typical * rng.uniform(1.35, 1.7)
        rows, columns = rng.integers(1, 5), rng.integers(2, 7)
        bund = rectangle(columns * step + 5, rows * step + 5, (columns - 1) * step / 2, (rows - 1) * step / 2) @ turn + corner
        if not canvas.pave(bund, CONCRETE[rng.integers(3)]):
            continue
        for row in range(rows):
            for column in range(columns):
                if rng.random() < 0.9:
                    spot = np.array((column * step, row * step)) @ turn + corner
                    canvas.place(TANK, spot, 0.0, typical * rng.normal(1, 0.08), gap=0.8)
    for _ in range(9):
        canvas.building(rng.uniform(0, size, 2), rng.uniform(20, 60), rng.uniform(14, 30), angle, rng.uniform(3, 8))
    if rng.random() < 0.6:
        _parking(canvas, rng.uniform(0.2, 0.8, 2) * size, rng.integers(1, 5), rng.integers(6, 18), angle)
    canvas.trees(20)
    canvas.specks(40, ((60, 60, 62), (190, 190, 190)), ~canvas.taken)


def farmland(canvas: Canvas) -> None:
    """Fields with wind-mills, a country road, hedges and a farm with a pool."""
    rng, size = canvas.rng, canvas.size
    canvas.ground(FIELDS, 16, 7)
    road, width = _line(canvas), rng.uniform(7, 10)
    canvas.ribbon(road, width, ASPHALT[rng.integers(3)])
    _traffic(canvas, road, width, rng.uniform(1, 5))
    heading, typical = rng.uniform(0, 2 * np.pi), rng.uniform(15, 23)
    for centre in rng.uniform(0.04, 0.96, (rng.integers(3, 16), 2)) * size:
        canvas.place(MILL, centre, heading + rng.normal(0, 0.1), typical * rng.normal(1, 0.05), gap=6)
    for _ in range(rng.integers(1, 5)):
        spot = rng.uniform(0.1, 0.9, 2) * size
        canvas.building(spot, rng.uniform(14, 30), rng.uniform(10, 16), rng.uniform(0, 3), 4)
        canvas.place(POOL, spot + rng.normal(0, 22, 2), rng.uniform(0, 3))
    canvas.trees(int(rng.uniform(20, 160)))
    canvas.specks(30, ((150, 155, 160), (60, 80, 70)), ~canvas.taken)


def wilderness(canvas: Canvas) -> None:
    """Forest, rocks and perhaps a lake: no object at all."""
    rng, size = canvas.rng, canvas.size
    canvas.ground(GRASS + SOIL, 12, 10, water=noise(rng, size, 3, 4) > rng.uniform(0.8, 3))
    canvas.trees(int(rng.uniform(100, 500)))
    canvas.specks(80, ((150, 155, 160), (220, 222, 225)), np.ones((size, size), bool))


# How often each place comes up.
THEMES = (
    (airfield, 0.15), (coast, 0.15), (river, 0.23), (town, 0.14), (industry, 0.15), (farmland, 0.15), (wilderness, 0.03),
)
