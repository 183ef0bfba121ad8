"""One aerial scene: background and objects, drawn with Pillow."""

from __future__ import annotations

import math
import random

from PIL import Image, ImageChops, ImageDraw, ImageFilter

NAMES = ("car", "truck", "boat", "house", "tank")
OVERSAMPLING = 3

Color = tuple[int, int, int]
Point = tuple[float, float]

_GROUND: tuple[Color, ...] = ((112, 128, 76), (146, 140, 98), (128, 122, 110), (92, 116, 72), (166, 150, 112))
_PAINT: tuple[Color, ...] = (
    (190, 40, 36),
    (235, 235, 230),
    (40, 44, 52),
    (50, 84, 150),
    (214, 176, 52),
    (130, 134, 140),
)
_ROOF: tuple[Color, ...] = ((156, 78, 58), (120, 66, 52), (108, 108, 112), (176, 104, 70), (86, 92, 104))
_WATER: tuple[Color, ...] = ((52, 96, 122), (40, 84, 104), (66, 112, 126))


class Scene:
    """A scene while it is drawn, `OVERSAMPLING` times too large; `finish` scales it down."""

    def __init__(self, size: int, rng: random.Random) -> None:
        """Start with bare ground.

        Args:
            size: Height and width in pixels, before the scaling.
            rng: Source of all randomness.
        """
        self.size = size
        self.rng = rng
        self.image = Image.new("RGB", (size, size), rng.choice(_GROUND))
        self.draw = ImageDraw.Draw(self.image)
        self.boxes: list[tuple[int, float, float, float, float]] = []  # class, x0, y0, x1, y1 in pixels
        self.taken: list[tuple[float, float, float]] = []  # x, y, radius of each object
        self.shore: tuple[Point, float] | None = None  # a point of the shore, the direction of the open water
        self.roads: list[tuple[Point, float, float]] = []  # a point of the axis, its direction, the road's width

    # Background ------------------------------------------------------------------------------------------------------

    def land(self) -> None:
        """Draw fields, some of them ploughed."""
        for _ in range(self.rng.randint(2, 6)):
            color = _shade(self.rng.choice(_GROUND), self.rng.uniform(0.85, 1.15))
            center, angle = self._anywhere(), self.rng.uniform(0, math.pi)
            length, width = (self.rng.uniform(0.2, 0.6) * self.size for _ in range(2))
            self.draw.polygon(_rectangle(center, angle, length, width), color)
            if self.rng.random() < 0.5:
                rows = self.rng.randint(4, 10)
                for k in range(rows):
                    offset = (k + 0.5) / rows - 0.5
                    middle = _moved(center, angle + math.pi / 2, offset * width)
                    self.draw.line(_segment(middle, angle, length), _shade(color, 0.9), self.size // 150)

    def water(self) -> None:
        """Put water on one side, behind a wavy shore."""
        direction = self.rng.uniform(0, 2 * math.pi)
        shore = _moved((self.size / 2, self.size / 2), direction, self.rng.uniform(-0.05, 0.25) * self.size)
        self.shore = shore, direction
        color, phase = self.rng.choice(_WATER), self.rng.uniform(0, 6)
        for inset, paint in ((-0.03, (206, 190, 146)), (0.0, _shade(color, 1.2)), (0.03, color)):
            edge = [
                _moved(
                    _moved(shore, direction + math.pi / 2, t * self.size),
                    direction,
                    (inset + 0.02 * math.sin(9 * t + phase)) * self.size,
                )
                for t in (k / 20 for k in range(-30, 31))
            ]
            far = [_moved(p, direction, 2 * self.size) for p in (edge[-1], edge[0])]
            self.draw.polygon(edge + far, paint)
        for _ in range(25):  # ripples
            at = self._anywhere()
            if self._out(at) > 0.06 * self.size:
                self.draw.line(_segment(at, phase, 0.03 * self.size), _shade(color, 1.12), self.size // 200)

    def road(self) -> None:
        """Draw a straight road; next to water, along the shore."""
        angle, width = self.rng.uniform(0, math.pi), self.rng.uniform(0.1, 0.14) * self.size
        through = self._anywhere(0.3)
        if self.shore is not None:
            shore, direction = self.shore
            angle = direction + math.pi / 2 + self.rng.uniform(-0.2, 0.2)
            through = _moved(shore, direction, -self.rng.uniform(0.15, 0.4) * self.size)
        gray = self.rng.randint(78, 112)
        self.draw.polygon(_rectangle(through, angle, 3 * self.size, width * 1.12), (170, 166, 156))
        self.draw.polygon(_rectangle(through, angle, 3 * self.size, width), (gray, gray, gray + 3))
        for k in range(-30, 31, 2):
            dash = _moved(through, angle, k * 0.05 * self.size)
            self.draw.line(_segment(dash, angle, 0.04 * self.size), (225, 222, 205), max(1, self.size // 200))
        self.roads.append((through, angle, width))

    def tree(self) -> None:
        """Draw a tree or a bush on land; it may hide part of an object."""
        radius = self.rng.uniform(0.015, 0.04) * self.size
        at = self._anywhere()
        if self._out(at) > -radius or any(math.dist(at, (x, y)) < 0.5 * r + radius for x, y, r in self.taken):
            return
        self._disc(_moved(at, 0.8, 0.4 * radius), radius, (50, 58, 40))
        green = (self.rng.randint(40, 74), self.rng.randint(84, 116), self.rng.randint(34, 60))
        for _ in range(6):
            puff = _moved(at, self.rng.uniform(0, 6.3), self.rng.uniform(0, 0.5) * radius)
            self._disc(puff, 0.6 * radius, _shade(green, self.rng.uniform(0.8, 1.2)))

    # Objects ---------------------------------------------------------------------------------------------------------

    def vehicle(self, road: tuple[Point, float, float], kind: str) -> None:
        """Draw a car or a truck in one lane of a road."""
        through, angle, width = road
        lane = self.rng.choice((-1, 1))
        length, breadth = (0.62, 0.3) if kind == "car" else (self.rng.uniform(1.2, 1.7), 0.36)
        for _ in range(20):
            at = _moved(through, angle, self.rng.uniform(-0.7, 0.7) * self.size)
            at = _moved(at, angle + math.pi / 2, lane * 0.24 * width)
            if self._free(at, 0.55 * length * width):
                break
        else:
            return
        heading = angle if lane > 0 else angle + math.pi
        long, broad, paint = length * width, breadth * width, self.rng.choice(_PAINT)
        self.draw.polygon(_rectangle(_moved(at, 0.8, 0.08 * width), heading, long, broad), (44, 44, 46))
        self.draw.polygon(_rectangle(at, heading, long, broad), paint)
        if kind == "car":
            for offset, size in ((0.16, 0.14), (-0.26, 0.1)):
                glass = _rectangle(_moved(at, heading, offset * long), heading, size * long, 0.8 * broad)
                self.draw.polygon(glass, (30, 36, 44))
        else:
            cab = _moved(at, heading, 0.39 * long)
            self.draw.polygon(_rectangle(cab, heading, 0.05 * long, broad), (40, 40, 42))
            roof = _rectangle(_moved(at, heading, 0.46 * long), heading, 0.09 * long, broad)
            self.draw.polygon(roof, (240, 240, 236))
            self.draw.line(_segment(_moved(at, heading, -0.07 * long), heading, 0.75 * long), _shade(paint, 0.8), 2)
        self._record(kind, _rectangle(at, heading, long, broad))

    def boat(self) -> None:
        """Draw a boat on the water, from a dinghy to a ship."""
        long = self.rng.choice((0.06, 0.09, 0.14, 0.24)) * self.size * self.rng.uniform(0.85, 1.2)
        at = self._place(0.55 * long, afloat=True)
        if at is None:
            return
        heading, broad = self.rng.uniform(0, 2 * math.pi), long * self.rng.uniform(0.28, 0.38)
        stern = _moved(at, heading, -0.5 * long)
        for side in (-0.25, 0.25):
            end = _moved(stern, heading + math.pi + side, 0.5 * long)
            self.draw.line([stern, end], (190, 208, 212), max(2, self.size // 150))
        hull = [
            _moved(_moved(at, heading, x * long), heading + math.pi / 2, y * broad)
            for x, y in ((-0.5, -0.4), (0.1, -0.5), (0.35, -0.3), (0.5, 0), (0.35, 0.3), (0.1, 0.5), (-0.5, 0.4))
        ]
        self.draw.polygon(hull, self.rng.choice(((236, 236, 232), (226, 220, 206), (120, 52, 44), (58, 66, 80))))
        deck = _rectangle(_moved(at, heading, -0.1 * long), heading, 0.45 * long, 0.5 * broad)
        self.draw.polygon(deck, self.rng.choice(((160, 120, 80), (90, 110, 130), (250, 250, 250))))
        self._record("boat", hull)

    def house(self) -> None:
        """Draw a house with a ridged roof and a shadow."""
        long = self.rng.uniform(0.1, 0.3) * self.size
        at = self._place(0.6 * long)
        if at is None:
            return
        angle, broad, roof = self.rng.uniform(0, math.pi), long * self.rng.uniform(0.5, 0.8), self.rng.choice(_ROOF)
        self.draw.polygon(_rectangle(_moved(at, 0.8, 0.1 * long), angle, long, broad), (54, 54, 50))
        across = angle + math.pi / 2
        for side, light in ((-0.25, 1.15), (0.25, 0.85)):
            half = _rectangle(_moved(at, across, side * broad), angle, long, 0.5 * broad)
            self.draw.polygon(half, _shade(roof, light))
        self.draw.line(_segment(at, angle, long), _shade(roof, 0.6), max(2, self.size // 200))
        chimney = _moved(_moved(at, angle, 0.25 * long), across, 0.2 * broad)
        self.draw.polygon(_rectangle(chimney, angle, 0.08 * long, 0.08 * long), (70, 60, 58))
        self._record("house", _rectangle(at, angle, long, broad))

    def tank(self) -> None:
        """Draw a round storage tank."""
        radius = self.rng.uniform(0.035, 0.1) * self.size
        at = self._place(1.1 * radius)
        if at is None:
            return
        white = self.rng.randint(196, 236)
        self._disc(_moved(at, 0.8, 0.3 * radius), radius, (56, 56, 54))
        self._disc(at, radius, (white, white, white - 6))
        self._disc(_moved(at, 0.8, 0.1 * radius), 0.82 * radius, (white - 26, white - 26, white - 30))
        seam = _segment(at, self.rng.uniform(0, math.pi), 1.6 * radius)
        self.draw.line(seam, (120, 120, 118), max(2, self.size // 200))
        self._record("tank", [_moved(at, k * math.pi / 2, radius) for k in range(4)])

    def finish(self, size: int) -> tuple[Image.Image, list[tuple[int, float, float, float, float]]]:
        """Scale down, add haze and noise; return the image and its boxes relative to its size."""
        image = self.image.resize((size, size), Image.Resampling.LANCZOS)
        if self.rng.random() < 0.3:
            image = image.filter(ImageFilter.GaussianBlur(0.6))
        grain = Image.frombytes("L", (size, size), self.rng.randbytes(size * size)).point(lambda v: 118 + v // 13)
        light = self.rng.uniform(0.8, 1.1)
        image = ImageChops.overlay(image.point(lambda v: min(255, int(v * light))), Image.merge("RGB", [grain] * 3))
        boxes = []
        for c, x0, y0, x1, y1 in self.boxes:
            seen = [min(max(v / self.size, 0.0), 1.0) for v in (x0, y0, x1, y1)]
            w, h = seen[2] - seen[0], seen[3] - seen[1]
            if w * h >= 0.4 * (x1 - x0) * (y1 - y0) / self.size**2:  # at least 40 % of it is in the image
                boxes.append((c, (seen[0] + seen[2]) / 2, (seen[1] + seen[3]) / 2, w, h))
        return image, boxes

    # Places ----------------------------------------------------------------------------------------------------------

    def _anywhere(self, margin: float = 0.0) -> Point:
        low, high = margin * self.size, (1 - margin) * self.size
        return self.rng.uniform(low, high), self.rng.uniform(low, high)

    def _free(self, at: Point, radius: float) -> bool:
        return all(math.dist(at, (x, y)) > r + radius for x, y, r in self.taken)

    def _place(self, radius: float, afloat: bool = False) -> Point | None:
        """Find a free place of this radius on water or land, off the roads; None if there is none."""
        for _ in range(30):
            at = self._anywhere(0.04)
            fits = self._out(at) > radius + 0.05 * self.size if afloat else self._out(at) < -radius
            if fits and self._free(at, radius) and all(_aside(at, *road) > radius for road in self.roads):
                return at
        return None

    def _out(self, at: Point) -> float:
        """Return how far out on the water a point is; negative on land."""
        if self.shore is None:
            return -math.inf
        (x, y), direction = self.shore
        return (at[0] - x) * math.cos(direction) + (at[1] - y) * math.sin(direction)

    def _record(self, name: str, outline: list[Point]) -> None:
        xs, ys = zip(*outline)
        self.boxes.append((NAMES.index(name), min(xs), min(ys), max(xs), max(ys)))
        center = ((min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2)
        self.taken.append((*center, max(math.dist(center, p) for p in outline)))

    def _disc(self, at: Point, radius: float, color: Color) -> None:
        x, y = at
        self.draw.ellipse((x - radius, y - radius, x + radius, y + radius), color)


def _moved(at: Point, angle: float, distance: float) -> Point:
    """Return the point at a distance in a direction."""
    return at[0] + distance * math.cos(angle), at[1] + distance * math.sin(angle)


def _segment(center: Point, angle: float, length: float) -> list[Point]:
    return [_moved(center, angle, -length / 2), _moved(center, angle, length / 2)]


def _rectangle(center: Point, angle: float, length: float, width: float) -> list[Point]:
    """Return the corners of a rectangle around a center, its length along an angle."""
    front, back = _segment(center, angle, length)
    across = angle + math.pi / 2
    return [_moved(p, across, s * width / 2) for p, s in ((front, -1), (front, 1), (back, 1), (back, -1))]


def _aside(at: Point, through: Point, angle: float, width: float) -> float:
    """Return how far a point is from the edge of a road; negative on it."""
    across = (at[1] - through[1]) * math.cos(angle) - (at[0] - through[0]) * math.sin(angle)
    return abs(across) - width / 2


def _shade(color: Color, factor: float) -> Color:
    r, g, b = (max(0, min(255, int(v * factor))) for v in color)
    return r, g, b
