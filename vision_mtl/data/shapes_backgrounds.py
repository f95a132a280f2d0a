"""The backgrounds of the embedded data set: one procedural texture per scene."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from vision_mtl.data.shapes_colors import Array, gray, hsv, mix, pixel_axes


def _clouds(rng: np.random.Generator, height: int, width: int, rows: float, columns: float) -> Array:
    """Smooth noise (H, W), about [-1, 1], with `rows` by `columns` bumps over the image."""
    cells = rng.uniform(-1, 1, (max(2, round(rows)), max(2, round(columns)))).astype(np.float32)
    return cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC)


def _fractal(rng: np.random.Generator, height: int, width: int, bump: float, octaves: int) -> Array:
    """Sum of one to three octaves of clouds (H, W), about [-1, 1]; the largest bumps are `bump` pixels."""
    total = np.zeros((height, width), np.float32)
    for scale, weight in ((1, 1.0), (2, 0.6), (4, 0.36))[:octaves]:
        total += weight * _clouds(rng, height, width, height * scale / bump, width * scale / bump)
    return total


def _grid(rng: np.random.Generator, height: int, width: int, tilt: float) -> tuple[Array, Array]:
    """Pixel coordinates u, v (H, W) turned by up to `tilt` radians, from an origin far off the image."""
    y, x = pixel_axes(height, width)
    turn = rng.uniform(-tilt, tilt)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    a, b = rng.uniform(1000, 2000, 2).astype(np.float32)
    return cos * x + sin * y + a, cos * y - sin * x + b


def _from_edge(t: Array) -> Array:
    """Distance to the nearest integer, doubled: 0 on the edge of a unit cell and 1 in its middle."""
    return 2 * np.abs(t - np.rint(t))


def _grass(rng: np.random.Generator, height: int, width: int) -> Array:
    soil, hue = 0.45 + 0.25 * _fractal(rng, height, width, 60, 3), rng.uniform(0.22, 0.32)
    image = mix(hsv(hue, 0.65, 0.2), hsv(hue - 0.02, 0.6, 0.5), soil)
    for shade in np.linspace(0.25, 0.72, 12):
        roots = rng.uniform((0, 0), (width, height + 16), (90, 2))
        tips = roots + np.stack([rng.normal(0, 4, 90), -rng.uniform(6, 17, 90)], axis=1)
        blades = np.rint(np.stack([roots, tips], axis=1) * 16).astype(np.int32)
        color = hsv(hue + 0.1 * (0.4 - shade), 0.6, shade).tolist()
        cv2.polylines(image, list(blades), False, color, 1, cv2.LINE_8, 4)
    return image


def _brick(rng: np.random.Generator, height: int, width: int) -> Array:
    u, v = _grid(rng, height, width, 0.15)
    tall = rng.uniform(16, 26)
    row = v / np.float32(tall)
    course = np.floor(row)
    column = u / np.float32(tall * rng.uniform(2, 2.6)) + 0.5 * course  # half a brick further in each course
    shade = rng.uniform(0, 1, 4096).astype(np.float32)
    brick = shade[(course * 67 + np.floor(column)).astype(np.int32) & 4095]
    wobble = 1.2 * _clouds(rng, height, width, height / 6, width / 6)
    joint = np.minimum(_from_edge(row), 2.3 * _from_edge(column))
    mortar = np.clip(2.2 - joint * np.float32(tall / 2) + wobble, 0, 1)
    hue, grain = rng.uniform(0.0, 0.06), 0.12 * _fractal(rng, height, width, 8, 2)
    image = mix(hsv(hue, 0.6, 0.38), hsv(hue + 0.02, 0.5, 0.66), brick + grain)
    return mix(image, hsv(0.1, 0.1, rng.uniform(0.5, 0.7)), mortar)


def _water(rng: np.random.Generator, height: int, width: int) -> Array:
    bump = rng.uniform(26, 44)
    waves = np.abs(_clouds(rng, height, width, height / bump * 1.7, width / bump))
    fine = np.abs(_clouds(rng, height, width, height / bump * 3.4, width / bump * 2))
    bright, faint = np.maximum(1 - 2.6 * waves, 0), np.maximum(1 - 2.6 * fine, 0)
    caustics = np.minimum(bright * bright + np.float32(0.6) * faint * faint, 1)
    hue = rng.uniform(0.5, 0.6)
    deep = mix(
        hsv(hue + 0.03, 0.75, 0.3), hsv(hue, 0.65, 0.55), 0.5 + 0.4 * _fractal(rng, height, width, 110, 2)
    )
    return mix(deep, hsv(hue - 0.03, 0.2, 0.9), 0.55 * caustics)


def _wood(rng: np.random.Generator, height: int, width: int) -> Array:
    u, v = _grid(rng, height, width, 0.2)
    if rng.uniform() < 0.5:
        u, v = v, u
    plank = v / np.float32(rng.uniform(36, 64))
    shift = rng.uniform(0, 60, 64).astype(np.float32)[np.floor(plank).astype(np.int32) & 63]
    bend = 9 * _clouds(rng, height, width, 4, 4) + shift
    rings = 0.5 + 0.5 * np.sin((v + bend) * np.float32(rng.uniform(0.5, 0.8)) + 3 * np.sin(u / 70 + shift))
    fibre = 2 * rng.random((height, width), np.float32) - 1
    seam = np.clip(2 - 22 * _from_edge(plank), 0, 1)
    hue = rng.uniform(0.06, 0.1)
    tone = 0.5 * rings + 0.25 * (shift / 60) + 0.08 * fibre
    image = mix(hsv(hue, 0.55, 0.68), hsv(hue - 0.02, 0.68, 0.36), tone)
    return image * gray(1 - 0.7 * seam)


def _sand(rng: np.random.Generator, height: int, width: int) -> Array:
    u, v = _grid(rng, height, width, 0.6)
    warp = 16 * _clouds(rng, height, width, 4, 4) + 5 * _clouds(rng, height, width, 10, 10)
    ripple = np.sin((v + warp) * np.float32(2 * np.pi / rng.uniform(15, 28)) + 0.4 * np.sin(u / 40))
    grain = 2 * rng.random((height, width), np.float32) - 1
    hue = rng.uniform(0.1, 0.13)
    tone = 0.5 + 0.28 * ripple + 0.2 * _fractal(rng, height, width, 90, 2) + 0.22 * grain
    return mix(hsv(hue - 0.02, 0.42, 0.52), hsv(hue, 0.28, 0.86), tone)


def _night(rng: np.random.Generator, height: int, width: int) -> Array:
    """A city at night: a glowing sky and towers with lit windows."""
    hue = rng.uniform(0.62, 0.75)
    glow = np.repeat(np.linspace(0, 1, height, dtype=np.float32)[:, None], width, axis=1)
    image = mix(hsv(hue, 0.7, 0.1), hsv(hue + 0.1, 0.55, 0.4), glow)
    left = -int(rng.integers(20))
    while left < width:
        wide, step = int(rng.integers(30, 62)), int(rng.integers(7, 10))
        top = int(rng.uniform(-0.1, 0.45) * height)
        tower = image[max(top, 0) :, max(left, 0) : left + wide]
        tower[:] = hsv(hue, 0.5, rng.uniform(0.06, 0.16))
        y, x = np.mgrid[: tower.shape[0], : tower.shape[1]]
        lit = rng.uniform(size=(64, 16))[y // step % 64, x // step % 16] < 0.45
        window = lit & (y % step >= 3) & (x % step >= 3)
        tower[window] = hsv(rng.uniform(0.08, 0.16), rng.uniform(0.25, 0.6), rng.uniform(0.6, 0.95))
        left += wide + int(rng.integers(0, 5))
    return image


_BACKGROUNDS: dict[str, Callable[[np.random.Generator, int, int], Array]] = {
    "brick": _brick,
    "grass": _grass,
    "night": _night,
    "sand": _sand,
    "water": _water,
    "wood": _wood,
}
SCENES: tuple[str, ...] = tuple(_BACKGROUNDS)


def background(rng: np.random.Generator, scene: str, height: int, width: int) -> Array:
    """Texture (H, W, 3) of a scene, under light that falls off in a random direction."""
    image = np.ascontiguousarray(_BACKGROUNDS[scene](rng, height, width), np.float32)
    y, x = pixel_axes(height, width)
    a, b = rng.uniform(-0.3, 0.3, 2).astype(np.float32)
    image *= gray(np.float32(rng.uniform(0.8, 1.1)) + a * (x / width - 0.5) + b * (y / height - 0.5))
    return np.clip(image, 0, 1, out=image)
