"""A small synthetic piece of suburb as georeferenced rasters, with the truth known: `python scene.py FOLDER`.

The ground is a function of world coordinates (terrain, houses, halls, trees, cars, paint), the same for
every size with the same seed: a larger scene shows more of it. Each raster is drawn from that function on
a grid of its own, several samples a pixel, so the photo and the heights fit each other by construction.

Written files, all in UTM zone 33 north:

    truth_dsm.tif      heights in metres, float32, pixels of `gsd` metres; -9999 (nodata) past the survey edge
    dsm.tif            the mean of each scale x scale pixels of it; nodata there and in a small hole
    truth_thermal.tif  surface temperature in degrees Celsius, float32, same grid
    thermal.tif        its scale x scale means, same grid as dsm.tif
    ortho.tif          uint8 RGB, pixels of 0.6 `gsd`, a corner of its own, a little more ground
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio import Affine

Array: TypeAlias = npt.NDArray[np.float32]
FloatArray: TypeAlias = npt.NDArray[np.floating]
Mask: TypeAlias = npt.NDArray[np.bool_]
Colour: TypeAlias = tuple[float, float, float]
Roof: TypeAlias = Literal["flat", "gable", "hip", "plain", "paint"]

CRS = "EPSG:32633"
CENTRE = (461_200.0, 5_211_400.0)  # of every scene, in that CRS
NODATA = -9999.0

SUN_AZIMUTH, SUN_HEIGHT = math.radians(222), math.radians(44)
SHADOW_REACH = 24.0  # metres: no shadow is longer
AIR = 19.0  # degrees Celsius

BLOCK_U, BLOCK_V = 120.0, 56.0  # metres between cross streets, and between streets
STREET, PAVEMENT = 3.1, 4.9  # half width, without and with the pavement
KINDS = ("houses", "field", "houses", "halls")

GRASS, ASPHALT, CONCRETE, WHITE = (98, 112, 62), (92, 92, 94), (158, 154, 146), (228, 228, 222)
CROP, WHEAT, SOIL = (86, 118, 54), (190, 168, 104), (132, 104, 78)
ROOFS = (
    (150, 86, 68),
    (166, 108, 84),
    (112, 74, 60),
    (96, 98, 104),
    (70, 72, 78),
    (178, 170, 156),
    (132, 74, 64),
)
HALLS = ((196, 196, 192), (150, 152, 152), (118, 120, 122), (172, 160, 142))
CARS = ((226, 226, 226), (40, 42, 46), (150, 28, 30), (44, 66, 118), (140, 142, 146), (96, 100, 104))
LEAVES = ((62, 84, 42), (74, 98, 46), (52, 74, 44), (92, 108, 52), (48, 66, 40))


@dataclass(frozen=True)
class Grid:
    """A north-up grid in metres from the scene's centre: upper left corner, step, size."""

    left: float
    top: float
    step: float
    rows: int
    cols: int

    @property
    def x(self) -> Array:
        """Pixel centres eastward, shape (1, cols)."""
        return (self.left + (np.arange(self.cols) + 0.5) * self.step).astype(np.float32)[None, :]

    @property
    def y(self) -> Array:
        """Pixel centres northward, shape (rows, 1)."""
        return (self.top - (np.arange(self.rows) + 0.5) * self.step).astype(np.float32)[:, None]

    def around(self, x: float, y: float, radius: float) -> tuple[slice, slice]:
        """Rows and columns within `radius` of a point (a square)."""
        row, col, reach = (self.top - y) / self.step, (x - self.left) / self.step, radius / self.step
        rows = slice(max(0, int(row - reach)), max(0, min(self.rows, int(row + reach) + 1)))
        return rows, slice(max(0, int(col - reach)), max(0, min(self.cols, int(col + reach) + 1)))

    def finer(self, times: int, pad: int) -> Grid:
        """The grid with each pixel cut into times x times, and `pad` of its own pixels more on each side."""
        edge = pad * self.step
        rows, cols = (self.rows + 2 * pad) * times, (self.cols + 2 * pad) * times
        return Grid(self.left - edge, self.top + edge, self.step / times, rows, cols)

    def tiles(self, size: int) -> Iterator[tuple[tuple[slice, slice], Grid]]:
        """The grid in pieces of at most size x size."""
        for row in range(0, self.rows, size):
            for col in range(0, self.cols, size):
                rows, cols = min(size, self.rows - row), min(size, self.cols - col)
                corner = self.left + col * self.step, self.top - row * self.step
                yield (slice(row, row + rows), slice(col, col + cols)), Grid(*corner, self.step, rows, cols)


@dataclass(frozen=True)
class Box:
    """A rotated rectangle: a building, a car, a hedge, or mere paint, which has no height."""

    x: float
    y: float
    length: float
    width: float
    angle: float
    roof: Roof
    colour: Colour
    heat: float
    top: float = 0.0  # eaves, absolute
    ridge: float = 0.0  # above the eaves


@dataclass(frozen=True)
class Tree:
    """A dome."""

    x: float
    y: float
    radius: float
    height: float
    colour: Colour


@dataclass
class Layers:
    """What is drawn: height (m), colour (3 bands, linear light), heat (degrees above the air in full sun)."""

    height: Array
    colour: Array
    heat: Array

    def paint(self, where: Mask, colour: Colour, heat: float, mix: Array | float = 1.0) -> None:
        """Give the pixels of `where` another colour and heat; `mix` modulates the colour's brightness."""
        shade = np.broadcast_to(np.float32(mix), where.shape)[where]
        self.colour[:, where] = linear(colour)[:, None] * shade
        self.heat[where] = heat

    def part(self, window: tuple[slice, slice]) -> Layers:
        """A view of a window."""
        return Layers(self.height[window], self.colour[:, window[0], window[1]], self.heat[window])


def linear(colour: Colour) -> Array:
    """Linear light of a colour as seen on a screen (0 to 255)."""
    return np.asarray((np.asarray(colour) / 255) ** 2.2, dtype=np.float32)


def pick(rng: np.random.Generator, colours: tuple[Colour, ...], spread: float = 8.0) -> Colour:
    """One of the colours, a little changed."""
    red, green, blue = colours[int(rng.integers(len(colours)))]
    shift = float(rng.uniform(-spread, spread))
    return red + shift, green + shift, blue + shift


class World:
    """The ground as functions of x and y, in metres east and north of the scene's centre."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        rng = np.random.default_rng(seed)
        self.table = rng.random((256, 256), dtype=np.float32)
        self.angle = math.radians(float(rng.uniform(12, 24)))
        self.offset = float(rng.uniform(26, 34)), float(rng.uniform(2, 8))  # of the centre from a crossing
        angles = rng.uniform(0, 2 * math.pi, 4)
        self.waves = [
            (2 * math.pi / length * math.cos(a), 2 * math.pi / length * math.sin(a), float(p), height)
            for a, p, length, height in zip(
                angles, rng.uniform(0, 6.3, 4), (430, 230, 140, 95), (3.2, 1.6, 0.7, 0.35), strict=True
            )
        ]

    def noise(self, x: Array, y: Array, cell: float) -> Array:
        """Smooth random values from 0 to 1 that vary over `cell` metres."""
        (col, across), (row, down) = (self._lattice(values / np.float32(cell)) for values in (x, y))
        upper = self.table[row, col] * (1 - across) + self.table[row, (col + 1) % 256] * across
        row = (row + 1) % 256
        lower = self.table[row, col] * (1 - across) + self.table[row, (col + 1) % 256] * across
        return np.asarray(upper * (1 - down) + lower * down, dtype=np.float32)

    @staticmethod
    def _lattice(values: FloatArray) -> tuple[npt.NDArray[np.int64], Array]:
        floor = np.floor(values)
        rest = values - floor
        return floor.astype(np.int64) % 256, np.asarray(rest * rest * (3 - 2 * rest), dtype=np.float32)

    def terrain(self, x: Array | float, y: Array | float) -> Array:
        """Height of the bare ground in metres."""
        swell = sum(height * np.sin(kx * x + ky * y + phase) for kx, ky, phase, height in self.waves)
        return np.asarray(312.0 + swell, dtype=np.float32)

    def street(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Coordinates along (u) and across (v) the streets, which bend a little."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        u = cos * x + sin * y + self.offset[0]
        v = cos * y - sin * x + self.offset[1] + 4 * np.sin(u / 55)
        return np.asarray(u, dtype=np.float32), np.asarray(v, dtype=np.float32)

    def place(self, u: float, v: float) -> tuple[float, float, float]:
        """x, y and the street's direction at street coordinates: the inverse of `street`."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        across, along = v - 4 * math.sin(u / 55) - self.offset[1], u - self.offset[0]
        bend = -math.atan(4 / 55 * math.cos(u / 55))
        return cos * along - sin * across, sin * along + cos * across, self.angle + bend

    def objects(self, grid: Grid) -> tuple[list[Box], list[Tree]]:
        """All that stands or is painted in the blocks that the grid touches."""
        u, v = self.street(grid.x[:, [0, -1]], grid.y[[0, -1]])
        first_u, last_u = int(u.min() // BLOCK_U), int(u.max() // BLOCK_U)
        first_v, last_v = int((v.min() - 8) // BLOCK_V), int((v.max() + 8) // BLOCK_V)
        blocks = [Block(self, i, j) for i in range(first_u, last_u + 1) for j in range(first_v, last_v + 1)]
        return [box for b in blocks for box in b.boxes], [tree for b in blocks for tree in b.trees]


class Block:
    """The things in one block between streets, drawn from a generator of the block's own."""

    def __init__(self, world: World, i: int, j: int) -> None:
        self.world, self.u, self.v = world, i * BLOCK_U, j * BLOCK_V
        self.rng = np.random.default_rng([world.seed, i + 10_000, j + 10_000])
        self.boxes: list[Box] = []
        self.trees: list[Tree] = []
        {"houses": self.houses, "halls": self.halls, "field": self.field}[KINDS[(j + 2 * i) % 4]]()
        self.roadside()

    def box(
        self, u: float, v: float, size: tuple[float, float], roof: Roof, colour: Colour, heat: float,
        height: float = 0.0, ridge: float = 0.0, turn: float = 0.0, base: float | None = None,
    ) -> float:  # fmt: skip
        """Add a box at street coordinates inside the block; returns the ground's height under it."""
        x, y, angle = self.world.place(self.u + u, self.v + v)
        ground = float(self.world.terrain(x, y)) if base is None else base
        self.boxes.append(Box(x, y, *size, angle + turn, roof, colour, heat, ground + height, ridge))
        return ground

    def tree(self, u: float, v: float, low: float = 1.3, high: float = 4.2) -> None:
        """Add a tree at street coordinates inside the block."""
        x, y, _ = self.world.place(self.u + u, self.v + v)
        radius = float(self.rng.uniform(low, high))
        height = radius * float(self.rng.uniform(1.6, 2.6)) + 1.5
        self.trees.append(Tree(x, y, radius, min(height, 13.0), pick(self.rng, LEAVES)))

    def car(self, u: float, v: float, turn: float = 0.0) -> None:
        """Add a car with a windscreen."""
        colour = pick(self.rng, CARS)
        self.box(u, v, (4.4, 1.8), "plain", colour, 17, height=1.45, turn=turn)
        self.box(u, v, (2.4, 1.5), "paint", (52, 58, 66), 15, turn=turn)
        self.box(u, v, (1.2, 1.5), "paint", colour, 19, turn=turn)

    def houses(self) -> None:
        """Eight lots, back to back."""
        for lot in range(8):
            u, row = 8 + 13 + 26 * (lot % 4) + self.rng.uniform(-2, 2), lot // 4
            self.house(u, (15.5 if row == 0 else BLOCK_V - 15.5) + self.rng.uniform(-1, 1), 1 - 2 * row)

    def house(self, u: float, v: float, back: int) -> None:
        """A house; `back` is the direction of its garden across the street (1 or -1)."""
        rng, roof_colour = self.rng, pick(self.rng, ROOFS)
        heat, turn = roof_heat(roof_colour), float(rng.normal(0, 0.06))
        length, width, eaves = rng.uniform(10.5, 15), rng.uniform(8, 10), rng.uniform(3.4, 6.5)
        roof: Roof = "gable" if rng.random() < 0.65 else "hip"
        self.box(u - 8.5, v - back * 6.5, (3.2, 12), "paint", CONCRETE, 13)
        if rng.random() < 0.6:
            self.car(u - 8.5, v - back * 6.5, math.pi / 2)
        ridge = width * float(rng.uniform(0.26, 0.4))
        ground = self.box(u, v, (length, width), roof, roof_colour, heat, eaves, ridge, turn)
        if rng.random() < 0.45:
            wing, low = (float(rng.uniform(9, 11)), 6.4), ridge * 0.75
            at = u + 2, v + back * 4.2
            self.box(*at, wing, "gable", roof_colour, heat, eaves, low, turn + math.pi / 2, ground)
        if rng.random() < 0.4:
            self.box(u - 1.5, v - width / 4, (5.2, 2.4), "paint", (38, 46, 66), 24, turn=turn)
        self.box(u + 2.2, v + 0.8, (0.9, 0.9), "plain", (120, 84, 70), 16, eaves + ridge + 0.7, 0, turn, ground)
        self.garden(u, v + back * 11, back)

    def garden(self, u: float, v: float, back: int) -> None:
        """A terrace, sometimes a pool or a shed, hedges and trees."""
        rng = self.rng
        self.box(u + 4, v - back * 3, (6, 4.5), "paint", pick(rng, (CONCRETE, (176, 160, 138))), 14)
        if rng.random() < 0.35:
            self.box(u - 4, v, (7.4, 4.2), "paint", WHITE, 12)
            self.box(u - 4, v, (6.4, 3.2), "paint", (84, 170, 190), 2)
        elif rng.random() < 0.6:
            self.box(u - 5, v, (3.6, 2.8), "gable", (124, 110, 96), 16, 2.2, 0.7, float(rng.uniform(0, 0.4)))
        self.box(u + 12.6, v - back * 2, (1.1, 15), "plain", LEAVES[0], 4, float(rng.uniform(1.2, 1.9)))
        for _ in range(int(rng.integers(2, 6))):
            self.tree(u + rng.uniform(-11, 11), v + back * rng.uniform(-2.5, 1.5), 1.0, 3.4)
        self.tree(u + rng.uniform(4, 10), v - back * 17, 1.0, 2.2)

    def halls(self) -> None:
        """Two flat-roofed halls and a car park with its markings."""
        for u, size in ((30.0, (38.0, 24.0)), (92.0, (30.0, 20.0))):
            self.hall(u, 37 - size[1] / 8, size)
        for stall in range(33):
            u = 12 + 2.8 * stall
            self.box(u, 11.5, (0.22, 5), "paint", WHITE, 18)
            if self.rng.random() < 0.6:
                self.car(u + 1.4, 11.3 + self.rng.uniform(-0.3, 0.3), math.pi / 2)
        for stall in range(4):
            self.box(60 + stall * 4, 37, (2.2, 11), "paint", (196, 168, 60) if stall % 2 else ASPHALT, 18)
        for _ in range(5):
            self.tree(self.rng.uniform(54, 76), 48 + self.rng.uniform(-2, 2), 1.4, 3)

    def hall(self, u: float, v: float, size: tuple[float, float]) -> None:
        """A flat roof with a parapet, skylights without height and machines with."""
        rng, colour = self.rng, pick(self.rng, HALLS)
        height = float(rng.uniform(6.5, 12.5))
        ground = self.box(u, v, size, "flat", colour, roof_heat(colour), height)
        for k in range(4):
            self.box(u - size[0] / 2 + 6 + k * (size[0] - 12) / 3, v + 4, (1.6, 6), "paint", (206, 216, 220), 12)
        for _ in range(4):
            at = u + rng.uniform(-0.4, 0.4) * size[0], v + rng.uniform(-0.38, 0.1) * size[1]
            self.box(*at, (2.6, 1.9), "plain", (176, 178, 178), 15, height + 1.6, 0, 0, ground)

    def field(self) -> None:
        """Crops (drawn with the ground), sports courts painted on the lawn, trees along the edges."""
        for k, colour in enumerate(((150, 76, 60), (66, 104, 120))):
            u, v = 76.0 + 22 * k, 27.0
            self.box(u, v, (17, 31), "paint", (88, 118, 84), 12)
            self.box(u, v, (11, 23.8), "paint", colour, 13)
            for du, dv, size in (
                (-5.4, 0, (0.2, 23.8)),
                (5.4, 0, (0.2, 23.8)),
                (0, 0, (11, 0.2)),
                (0, 0, (0.2, 13)),
                (0, -11.8, (11, 0.2)),
                (0, 11.8, (11, 0.2)),
                (0, 6.4, (8, 0.2)),
                (0, -6.4, (8, 0.2)),
            ):
                self.box(u + du, v + dv, size, "paint", WHITE, 12)  # fmt: skip
        for _ in range(16):
            self.tree(self.rng.uniform(8, 112), BLOCK_V - 8 + self.rng.normal(0, 0.9), 1.6, 4.6)
        for _ in range(5):
            self.tree(62 + self.rng.normal(0, 0.8), self.rng.uniform(9, 46), 1.6, 3.6)

    def roadside(self) -> None:
        """Parked cars and trees along the street at the block's lower edge."""
        for u in np.arange(12.0, BLOCK_U - 10, 7.0):
            chance = self.rng.random()
            if chance < 0.3:
                self.car(u + self.rng.uniform(-1, 1), 2.1 if chance < 0.15 else -2.1)
            elif chance < 0.45:
                self.tree(u, 5.6, 1.4, 2.6)


def roof_heat(colour: Colour) -> float:
    """Dark roofs get hotter in the sun."""
    return 30 - 17 * sum(colour) / 765


def paint_ground(world: World, grid: Grid) -> Layers:
    """Terrain, grass, fields, car parks and streets: all that has no height of its own."""
    x, y = grid.x, grid.y
    fine, coarse = world.noise(x, y, 0.7), world.noise(x + 40, y - 20, 9.0)
    tone = 0.62 + 0.35 * fine + 0.45 * coarse
    layers = Layers(world.terrain(x, y) + 0.12 * fine, np.empty((3, *tone.shape), np.float32), np.empty_like(tone))
    layers.paint(np.ones(tone.shape, bool), GRASS, 6.0, tone)
    u, v = world.street(x, y)
    kind = (np.floor(v / BLOCK_V) + 2 * np.floor(u / BLOCK_U)).astype(np.int64) % 4
    in_u, in_v = u % BLOCK_U, v % BLOCK_V
    paint_field(layers, kind == KINDS.index("field"), in_u, in_v, tone)
    yard = (kind == KINDS.index("halls")) & (in_u > 8) & (in_u < 112) & (in_v > 7) & (in_v < 45)
    patched = 0.85 + 0.2 * coarse + 0.2 * fine
    layers.paint(yard, ASPHALT, 18.0, patched)
    paint_streets(layers, in_u, in_v, patched)
    return layers


def paint_field(layers: Layers, where: Mask, u: Array, v: Array, tone: Array) -> None:
    """Three strips of crops in rows with tramlines, and a lawn mown in stripes."""
    inner = where & (v > 7) & (v < 46)
    rows = 0.8 + 0.3 * np.cos(2 * math.pi * u / 1.6)
    tracks = np.where(np.abs(u % 12 - 6) < 0.35, 0.72, 1.0)
    for k, (colour, heat) in enumerate(((CROP, 5.0), (WHEAT, 9.0), (SOIL, 15.0))):
        strip = inner & (u > 7 + 18 * k) & (u < 24.5 + 18 * k)
        layers.paint(strip, colour, heat, (rows * tracks * (0.3 + 0.7 * tone)).astype(np.float32))
    mown = np.where(v % 8 < 4, 0.92, 1.12) * (0.55 + 0.4 * tone)
    layers.paint(inner & (u > 65), (92, 124, 60), 5.0, mown.astype(np.float32))


def paint_streets(layers: Layers, u: Array, v: Array, tone: Array) -> None:
    """Pavements, asphalt and road markings."""
    across, along = np.minimum(v, BLOCK_V - v), np.minimum(u, BLOCK_U - u)
    near = np.minimum(across, along)
    layers.paint(near < PAVEMENT, CONCRETE, 14.0, tone)
    road = near < STREET
    layers.paint(road, ASPHALT, 19.0, tone)
    layers.height[road] -= np.float32(0.12)
    apart = (across > 7) | (along > 7)
    centre = ((across < 0.11) & (along > 7) & (u % 6 < 3)) | ((along < 0.11) & (across > 7) & (v % 6 < 3))
    zebra = (along > 4.6) & (along < 7.4) & (across < 2.9) & (v % 1 < 0.5)
    layers.paint((centre & apart) | zebra, WHITE, 17.0)


def draw_box(layers: Layers, grid: Grid, box: Box) -> None:
    """Put a box on the layers, where it is higher than what is there."""
    window = grid.around(box.x, box.y, math.hypot(box.length, box.width) / 2)
    x, y = grid.x[:, window[1]] - np.float32(box.x), grid.y[window[0]] - np.float32(box.y)
    cos, sin = math.cos(box.angle), math.sin(box.angle)
    to_end = box.length / 2 - np.abs(cos * x + sin * y)
    to_side = box.width / 2 - np.abs(cos * y - sin * x)
    part, inside = layers.part(window), (to_end > 0) & (to_side > 0)
    if box.roof == "paint":
        part.paint(inside, box.colour, box.heat)
        return
    height = np.float32(box.top) + roof_shape(box, to_end, to_side)
    inside &= height > part.height
    part.height[inside] = height[inside]
    courses = 1 + 0.07 * np.sin(2 * math.pi * to_side / 0.9) if box.ridge else 1.0
    part.paint(inside, box.colour, box.heat, np.asarray(courses, dtype=np.float32))


def roof_shape(box: Box, to_end: FloatArray, to_side: FloatArray) -> Array:
    """Height above the eaves from the distances to the box's ends and sides."""
    if box.roof == "gable":
        rise = box.ridge * to_side / (box.width / 2)
    elif box.roof == "hip":
        rise = box.ridge * np.minimum(to_side, to_end) / (box.width / 2)
    elif box.roof == "flat":
        rise = 0.5 * (np.minimum(to_side, to_end) < 0.45)
    else:
        rise = np.zeros_like(to_side)
    return np.asarray(rise, dtype=np.float32)


def draw_tree(layers: Layers, grid: Grid, world: World, tree: Tree) -> None:
    """Put a lumpy dome on the layers."""
    window = grid.around(tree.x, tree.y, tree.radius * 1.2)
    x, y = grid.x[:, window[1]], grid.y[window[0]]
    if x.size == 0 or y.size == 0:
        return
    lumps = world.noise(x, y, 1.1)
    reach = np.hypot(x - np.float32(tree.x), y - np.float32(tree.y)) / (tree.radius * (0.8 + 0.4 * lumps))
    crown = np.sqrt(np.clip(1 - reach**2, 0, 1))
    base = world.terrain(tree.x, tree.y)
    height = base + tree.height * (0.4 + 0.6 * crown) * (0.88 + 0.24 * lumps)
    part = layers.part(window)
    inside = (reach < 1) & (height > part.height)
    part.height[inside] = height[inside]
    part.paint(inside, tree.colour, 3.0, 0.6 + 0.6 * lumps)


def sunlight(height: Array, step: float) -> Array:
    """Direct sun on each pixel: 0 in shadow, 1 on level ground, more on slopes that face the sun."""
    down, across = np.gradient(height, np.float32(step))
    steep = np.hypot(down, across) > 2.2  # walls, which a photo from above does not show
    east, north = np.where(steep, 0, across), np.where(steep, 0, -down)
    sun = math.sin(SUN_AZIMUTH) / math.tan(SUN_HEIGHT), math.cos(SUN_AZIMUTH) / math.tan(SUN_HEIGHT)
    light = np.clip((1 - east * sun[0] - north * sun[1]) / np.sqrt(1 + east**2 + north**2), 0, None)
    light[shadows(height, step)] = 0
    return np.asarray(light, dtype=np.float32)


def shadows(height: Array, step: float) -> Mask:
    """Pixels that something hides from the sun; right at least `SHADOW_REACH` inside the edges."""
    shaded = np.zeros(height.shape, bool)
    for distance in np.arange(1.5 * step, SHADOW_REACH, 1.5 * step):
        row = -round(distance * math.cos(SUN_AZIMUTH) / step)
        col = round(distance * math.sin(SUN_AZIMUTH) / step)
        here, there = zip(*(shifted(k, n) for k, n in ((row, height.shape[0]), (col, height.shape[1]))), strict=True)
        needed = np.float32(distance * math.tan(SUN_HEIGHT) + 0.05)
        shaded[here] |= height[there] > height[here] + needed
    return shaded


def shifted(by: int, size: int) -> tuple[slice, slice]:
    """Slices of an axis that pair each position with the one `by` further."""
    return slice(max(0, -by), size - max(0, by)), slice(max(0, by), size + min(0, by))


def draw(world: World, grid: Grid, samples: int) -> tuple[Array, Array, Array]:
    """Height, colour as photographed (0 to 255) and temperature on the grid, samples x samples a pixel."""
    pad = math.ceil(SHADOW_REACH / grid.step)
    fine = grid.finer(samples, pad)
    layers = paint_ground(world, fine)
    boxes, trees = world.objects(fine)
    for box in boxes:
        draw_box(layers, fine, box)
    for tree in trees:
        draw_tree(layers, fine, world, tree)
    light = sunlight(layers.height, fine.step)
    sky, sun = (
        np.array([[[0.22]], [[0.26]], [[0.33]]], np.float32),
        np.array([[[0.98]], [[0.93]], [[0.84]]], np.float32),
    )
    photo = 0.018 + layers.colour * (sky + sun * light)  # a little haze
    heat = AIR + layers.heat * (0.4 + 0.6 * light)
    edge = (slice(pad, -pad), slice(pad, -pad))
    seen = np.stack([pool(band, samples)[edge] for band in photo])
    return (
        pool(layers.height, samples)[edge],
        255 * np.clip(seen, 0, 1) ** (1 / 2.2),
        pool(heat, samples)[edge],
    )


def draw_tiles(world: World, grid: Grid, samples: int) -> tuple[Array, Array, Array]:
    """As `draw`, piece by piece: what a pixel shows does not depend on the piece."""
    height, photo, heat = (np.empty((n, grid.rows, grid.cols), np.float32) for n in (1, 3, 1))
    for window, tile in grid.tiles(320):
        height[0][window], photo[:, window[0], window[1]], heat[0][window] = draw(world, tile, samples)
    return height[0], photo, heat[0]


def pool(values: FloatArray, size: int) -> Array:
    """The mean of each size x size pixels."""
    rows, cols = values.shape
    blocks = values.reshape(rows // size, size, cols // size, size)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float64), dtype=np.float32)


def blur(values: Array, sigma: float) -> Array:
    """A Gaussian blur, edges repeated."""
    reach = math.ceil(3 * sigma)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        padded = np.pad(values, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=axis)
        values = np.asarray(windows @ weights, dtype=np.float32)
    return values


def survey_masks(size: int) -> tuple[Mask, Mask]:
    """On the coarse grid: past the survey's edge (a corner cut off), and a hole not measured."""
    row, col = np.mgrid[:size, :size] / size
    return (row - 0.5 * col) > 0.93, np.hypot((row - 0.3) / 0.045, (col - 0.72) / 0.07) < 1


def write(path: Path, bands: npt.NDArray[np.generic], grid: Grid, unit: str = "", nodata: float | None = None) -> None:
    """Write bands (count, rows, cols) as a GeoTIFF."""
    count, rows, cols = bands.shape
    profile = {
        "driver": "GTiff",
        "dtype": bands.dtype,
        "count": count,
        "height": rows,
        "width": cols,
        "crs": CRS,
    }
    transform = Affine(grid.step, 0, CENTRE[0] + grid.left, 0, -grid.step, CENTRE[1] + grid.top)
    colours = {"photometric": "RGB"} if count == 3 else {}
    with rasterio.open(path, "w", **profile, transform=transform, nodata=nodata, compress="deflate", **colours) as out:
        out.write(bands)
        out.units = (unit,) * count


def make_scene(
    folder: str | Path, *, seed: int = 7, size: int = 640, scale: int = 4, gsd: float = 0.5
) -> dict[str, Path]:
    """Write a scene into `folder` (made if needed); returns the paths by name: `dsm`, `ortho`, `truth_dsm`...

    Args:
        folder: where the five GeoTIFFs go.
        seed: same seed, same ground; same arguments, same bytes.
        size: pixels a side of the truth; a multiple of `scale`.
        scale: how many of the truth's pixels make a side of one source pixel.
        gsd: metres a side of the truth's pixels.
    """
    if size % scale or size // scale < 8:
        raise ValueError(f"size is {size}; it must be a multiple of the scale {scale}, and at least 8 times it")
    names = ("truth_dsm", "dsm", "truth_thermal", "thermal", "ortho")
    paths = {name: Path(folder) / f"{name}.tif" for name in names}
    Path(folder).mkdir(parents=True, exist_ok=True)
    world, half = World(seed), size * gsd / 2
    fine = Grid(-half, half, gsd, size, size)
    coarse = Grid(-half, half, gsd * scale, size // scale, size // scale)
    height, _, heat = draw_tiles(world, fine, 3)
    heat = blur(heat, 0.7)
    beyond, hole = survey_masks(size // scale)
    write_pair(paths, "dsm", height, (fine, coarse), (beyond, beyond | hole), "metre")
    nothing = np.zeros_like(hole)
    write_pair(paths, "thermal", heat, (fine, coarse), (nothing, nothing), "degree Celsius")
    write_ortho(paths["ortho"], world, half, 0.6 * gsd)
    return paths


def write_pair(
    paths: dict[str, Path], name: str, truth: Array, grids: tuple[Grid, Grid],
    missing: tuple[Mask, Mask], unit: str,
) -> None:  # fmt: skip
    """Write a truth and its means; `missing` says where each has no data, both on the coarse grid."""
    scale = grids[0].rows // grids[1].rows
    nodata = NODATA if missing[1].any() else None
    means = np.where(missing[1], np.float32(NODATA), pool(truth, scale))
    truth = np.where(np.kron(missing[0], np.ones((scale, scale), bool)), np.float32(NODATA), truth)
    write(paths[f"truth_{name}"], truth[None], grids[0], unit, nodata)
    write(paths[name], means[None], grids[1], unit, nodata)


def write_ortho(path: Path, world: World, half: float, gsd: float) -> None:
    """Photograph the scene and a little more on a grid of its own, with the camera's noise."""
    west, north = -half - 3.37, half + 2.81
    grid = Grid(west, north, gsd, math.ceil((north + half + 3) / gsd), math.ceil((half + 3 - west) / gsd))
    photo = blur_bands(draw_tiles(world, grid, 2)[1], 0.45)
    photo += np.random.default_rng([world.seed, 1]).normal(0, 2.2, photo.shape)
    write(path, np.clip(np.rint(photo), 0, 255).astype(np.uint8), grid)


def blur_bands(bands: Array, sigma: float) -> Array:
    """Blur each band: the camera's optics."""
    return np.stack([blur(band, sigma) for band in bands])


def add_scene_options(parser: argparse.ArgumentParser, size: int) -> None:
    """The options that all examples share."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the files go")
    parser.add_argument("--seed", type=int, default=7, help="another seed is another place (default: 7)")
    parser.add_argument("--size", type=int, default=size, help=f"pixels a side of the truth (default: {size})")


def main() -> None:
    """Make a scene in a folder."""
    parser = argparse.ArgumentParser(description="Make a small georeferenced scene with its truth.")
    add_scene_options(parser, 640)
    options = parser.parse_args()
    for path in make_scene(options.folder, seed=options.seed, size=options.size).values():
        print(path)


if __name__ == "__main__":
    main()
