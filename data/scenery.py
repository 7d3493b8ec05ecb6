"""Ground, water, roads and buildings of generated scenes, and the canvas on which objects are placed.

Everything is drawn at three times the resolution and averaged down, so that an object of five pixels looks as in a photograph.
Positions are in output pixels; colours are BGR.
"""
import cv2
import numpy as np

from data.sprites import CLASSES, Parts, rectangle, shade

FINE = 3            # drawing resolution, as a multiple of the output's
_BITS = 4           # fractional bits of OpenCV's polygon corners


def noise(rng: np.random.Generator, size: int, coarsest: int, octaves: int) -> np.ndarray:
    """(size, size) float32 smooth noise around 0, standard deviation about 1: random grids, each twice as fine as the last."""
    total = np.zeros((size, size), np.float32)
    for k in range(octaves):
        cells = min(coarsest * 2**k, size)
        grid = rng.standard_normal((cells, cells)).astype(np.float32)
        total += cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC) * 0.62**k
    return total / max(total.std(), 1e-6)


class Canvas:
    """A scene being drawn, and what it holds so far.

    Attributes:
        water: (size, size) bool, where ships can be.
        taken: (size, size) bool, where no object may be put any more.
        boxes, labels: of the objects placed.
    """

    def __init__(self, rng: np.random.Generator, size: int):
        self.rng, self.size = rng, size
        self.pixels = np.zeros((size * FINE, size * FINE, 3), np.uint8)
        self.water = np.zeros((size, size), bool)
        self.taken = np.zeros((size, size), bool)
        self.boxes: list[np.ndarray] = []
        self.labels: list[int] = []
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.3)
        self.sun = np.array((np.cos(angle), np.sin(angle))) * length        # shadow of a height of one
        self.gloom = rng.uniform(0.4, 0.65)                                 # brightness inside a shadow

    # -- drawing ------------------------------------------------------------------------------------------------------------

    def polygon(self, points: np.ndarray, colour: tuple[int, int, int]) -> None:
        """Fill a polygon (k, 2)."""
        corners = np.round((points * FINE - 0.5) * 2**_BITS).astype(np.int32)
        cv2.fillPoly(self.pixels, [corners], colour, cv2.LINE_AA, _BITS)

    def darken(self, points: np.ndarray) -> None:
        """Lay a shadow over a polygon (k, 2)."""
        low = np.clip(np.floor(points.min(0) * FINE).astype(int) - 1, 0, self.size * FINE)
        high = np.clip(np.ceil(points.max(0) * FINE).astype(int) + 2, 0, self.size * FINE)
        if (low >= high).any():
            return
        region = self.pixels[low[1] : high[1], low[0] : high[0]]
        mask = np.zeros(region.shape[:2], np.uint8)
        corners = np.round((points * FINE - low - 0.5) * 2**_BITS).astype(np.int32)
        cv2.fillPoly(mask, [corners], 255, cv2.LINE_AA, _BITS)
        factor = 1 - (1 - self.gloom) * (mask[..., None] / np.float32(255))
        region[:] = (region * factor).astype(np.uint8)

    def mask_of(self, points: np.ndarray) -> np.ndarray:
        """(size, size) bool: the pixels of a polygon (k, 2)."""
        mask = np.zeros((self.size, self.size), np.uint8)
        cv2.fillPoly(mask, [np.round(points - 0.5).astype(np.int32)], 1)
        return mask.astype(bool)

    # -- ground -------------------------------------------------------------------------------------------------------------

    def ground(self, colours: tuple, patches: int, contrast: float, water: np.ndarray | None = None) -> None:
        """Cover everything with patches of soil, grass or forest, some of them ploughed, and with water.

        Drawn before anything else, at output resolution: soil has no detail that would survive the averaging.

        Args:
            contrast: of the texture, in grey values.
            water: (size, size) bool.
        """
        rng, size = self.rng, self.size
        seeds = rng.uniform(0, size, (patches, 2))
        y, x = np.mgrid[0:size, 0:size].astype(np.float32)
        bend = noise(rng, size, 6, 3) * size * 0.02
        patch = np.argmin([(x + bend - a) ** 2 + (y + bend - b) ** 2 for a, b in seeds], 0)
        chosen = [shade(colours[k], rng.uniform(0.85, 1.15)) for k in rng.integers(len(colours), size=patches)]
        tones = np.array(chosen, np.float32)
        angle = rng.uniform(0, np.pi, patches)
        furrow = np.where(rng.random(patches) < 0.45, rng.uniform(3, 9, patches), 0)
        phase = (x * np.cos(angle)[patch] + y * np.sin(angle)[patch]) * (2 * np.pi / rng.uniform(3, 6))
        light = noise(rng, size, 5, 7) * contrast + furrow[patch] * np.sin(phase)
        soil = tones[patch] + light[..., None]
        if water is not None:
            self.water = water
            soil = self._flood(soil)
        soil = np.clip(soil, 0, 255).astype(np.uint8)
        self.pixels = cv2.resize(soil, (size * FINE, size * FINE), interpolation=cv2.INTER_LINEAR)

    def _flood(self, soil: np.ndarray) -> np.ndarray:
        """The ground (size, size, 3) with water: shallow and pale at the shore, with waves."""
        rng, size = self.rng, self.size
        deep = np.array(((95, 70, 25), (80, 75, 45), (110, 95, 40), (70, 62, 40))[rng.integers(4)], np.float32)
        depth = cv2.distanceTransform(self.water.astype(np.uint8), cv2.DIST_L2, 3)
        colour = deep * (1 + 0.5 * np.exp(-depth / (size * 0.05)))[..., None]
        colour += (noise(rng, size, 4, 4) * 4 + noise(rng, size, 64, 3) * rng.uniform(2, 7))[..., None]
        share = cv2.GaussianBlur(self.water.astype(np.float32), (0, 0), 0.7)[..., None]
        return soil * (1 - share) + colour * share

    def pave(self, points: np.ndarray, colour: tuple[int, int, int]) -> bool:
        """Fill a polygon (k, 2) unless that would cover an object; says whether it did."""
        if self.taken[self.mask_of(points)].any():
            return False
        self.polygon(points, colour)
        return True

    def ribbon(self, points: np.ndarray, width: float, colour: tuple[int, int, int], dashes: bool = False) -> None:
        """Draw a road or runway along a polyline (k, 2), with a broken middle line if asked."""
        line = np.round((points * FINE - 0.5) * 2**_BITS).astype(np.int32)
        cv2.polylines(self.pixels, [line], False, shade(colour, 1.25), round(width * FINE * 1.15), cv2.LINE_AA, _BITS)
        cv2.polylines(self.pixels, [line], False, colour, round(width * FINE), cv2.LINE_AA, _BITS)
        if dashes:
            for a, b in zip(points[:-1], points[1:], strict=True):
                step = (b - a) / max(np.linalg.norm(b - a), 1e-6)
                for start in np.arange(0, np.linalg.norm(b - a), 9.0):
                    dash = rectangle(3.5, 0.5) @ np.array((step, (-step[1], step[0]))) + a + step * start
                    self.polygon(dash, (200, 205, 210))

    def building(self, centre: np.ndarray, length: float, width: float, angle: float, height: float) -> bool:
        """A roof with its shadow, where nothing else stands. Vents and skylights on it are there to be mistaken."""
        rng = self.rng
        roof = ((70, 85, 150), (110, 112, 118), (165, 168, 172), (85, 95, 120), (60, 70, 110), (205, 205, 205))[rng.integers(6)]
        turn = rotation(angle)
        outline = rectangle(length, width) @ turn + centre
        area = self.mask_of(rectangle(length + 3, width + 3) @ turn + centre)
        if (self.taken | self.water)[area].any():
            return False
        self.taken |= area
        self._cast(outline, height)
        self.polygon(outline, shade(roof, 0.82))
        self.polygon(rectangle(length, width / 2, 0, width / 4) @ turn + centre, roof)
        for _ in range(rng.integers(0, 4)):
            spot = rng.uniform(-0.4, 0.4, 2) * (length, width)
            vent = rectangle(rng.uniform(1.5, 4), rng.uniform(1.5, 3), *spot) @ turn + centre
            self.polygon(vent, shade(roof, rng.uniform(0.6, 1.4)))
        return True

    def trees(self, count: int) -> None:
        """Round crowns with shadows, where nothing else stands."""
        for centre in self.rng.uniform(0, self.size, (count, 2)):
            r = self.rng.uniform(1.5, 4.5)
            (x1, y1), (x2, y2) = np.maximum(centre - r - 1, 0).astype(int), np.ceil(centre + r + 1).astype(int)
            if self.taken[y1:y2, x1:x2].any() or self.water[y1:y2, x1:x2].any():
                continue
            t = np.arange(9) * 2 * np.pi / 9
            crown = np.stack((np.cos(t), np.sin(t)), 1) * r * self.rng.uniform(0.8, 1.15, (9, 1)) + centre
            self._cast(crown, r)
            green = shade((45, 85, 60), self.rng.uniform(0.6, 1.2))
            self.polygon(crown, green)
            self.polygon((crown - centre) * 0.55 + centre - self.sun * r * 0.25, shade(green, 1.3))

    def specks(self, count: int, colours: tuple, where: np.ndarray) -> None:
        """Rocks, white caps, litter: what a detector has to leave alone."""
        for centre in self.rng.uniform(0, self.size, (count, 2)):
            if where[tuple(centre.astype(int)[::-1])]:
                outline = rectangle(*self.rng.uniform(0.8, 3.5, 2)) @ rotation(self.rng.uniform(0, 3.2)) + centre
                self.polygon(outline, shade(colours[self.rng.integers(len(colours))], self.rng.uniform(0.8, 1.2)))

    def _cast(self, outline: np.ndarray, height: float) -> None:
        """The shadow of an outline lifted to a height, in pixels."""
        both = np.concatenate((outline, outline + self.sun * height)).astype(np.float32)
        self.darken(cv2.convexHull(both).reshape(-1, 2))

    # -- objects ------------------------------------------------------------------------------------------------------------

    def place(self, label: int, centre: np.ndarray, heading: float, size: float | None = None, gap: float = 1.5) -> bool:
        """Draw an object unless it would touch another one or lie half outside; says whether it did.

        Args:
            heading: radians.
            size: its length in pixels; drawn from its class's distribution when None.
            gap: pixels to keep from what is already there.
        """
        _, draw, middle, spread, height = CLASSES[label]
        size = size or middle * float(np.exp(self.rng.normal(0, spread)))
        turn = rotation(heading)
        parts: Parts = [(points @ turn + centre, colour) for points, colour in draw(self.rng, size)]
        corners = np.concatenate([points for points, _ in parts])
        low, high = corners.min(0), corners.max(0)
        box = np.clip(np.concatenate((low, high)), 0, self.size)
        if (box[2] - box[0]) * (box[3] - box[1]) < 0.6 * np.prod(high - low) or (box[2:] - box[:2]).min() < 2:
            return False
        x1, y1 = np.maximum(np.floor(low - gap).astype(int), 0)
        x2, y2 = np.ceil(high + gap).astype(int)
        if self.taken[y1:y2, x1:x2].any():
            return False
        self.taken[y1:y2, x1:x2] = True
        if height:
            for points, _ in parts if CLASSES[label][0] in ("wind-mill", "airplane") else parts[:1]:
                if CLASSES[label][0] == "wind-mill":
                    self.darken(points + self.sun * size * height * 0.5)
                else:
                    self._cast(points, size * height)
        for points, colour in parts:
            self.polygon(points, colour)
        self.boxes.append(box)
        self.labels.append(label)
        return True

    def photograph(self) -> np.ndarray:
        """(size, size, 3) uint8: averaged down, with haze, a colour cast, blur and sensor noise."""
        rng = self.rng
        image = cv2.resize(self.pixels, (self.size, self.size), interpolation=cv2.INTER_AREA).astype(np.float32)
        if rng.random() < 0.5:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.7))
        haze = rng.uniform(0, 0.22)
        image = image * (1 - haze) + np.array((195, 188, 180), np.float32) * haze
        image = (image - 110) * rng.uniform(0.8, 1.12) + 110 * rng.uniform(0.85, 1.15)
        image *= rng.uniform(0.94, 1.06, 3).astype(np.float32)
        image += rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(1, 4)
        return np.clip(image, 0, 255).astype(np.uint8)


def rotation(angle: float) -> np.ndarray:
    """(2, 2) matrix: `points @ rotation(a)` turns points (k, 2) by a radians."""
    return np.array(((np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))))
