"""What the visual system does with an image: areas, drives and time courses.

An area is a pair of mirrored cortical patches, each split into a few current dipoles
that fold differently. Values follow the literature on visual evoked potentials (how
they were fixed: see `minithings.eeg_recordings`). Position is a direction and
depth in fractions of the head radius, for the right hemisphere; the moment is the peak
for a typical image; the modulation is the standard deviation between images, as a
fraction of it.

=============== ==================== ====== ======= ======= ========== ===============
area            position             moment peak    width   modulation component
=============== ==================== ====== ======= ======= ========== ===============
V1, upper field .09  -.75  .03       10 nAm  75 ms   12 ms  by contrast C1, negative
V1, lower field .09  -.74  .17       10 nAm  75 ms   12 ms  by contrast C1, positive
V2/V3, upper    .36  -.69 -.06       12 nAm 100 ms   16 ms  by contrast P1, contralat.
V2/V3, lower    .36  -.66  .18       12 nAm 100 ms   16 ms  by contrast P1, contralat.
V4              .33  -.58 -.28       12 nAm 130 ms   22 ms  0.8        color negativity
LOC             .50  -.58 -.05       16 nAm 155 ms   25 ms  0.8        N1
IT, posterior   .42  -.38 -.36       24 nAm 175 ms   28 ms  0.7        N170, VPP
IT, anterior    .55  -.05 -.40       14 nAm 240 ms   40 ms  0.8        N250
parietal        .28  -.45  .55       14 nAm 360 ms   65 ms  0.3        P3-like
=============== ==================== ====== ======= ======= ========== ===============

Every deflection is followed by a wider rebound and by a sustained response of half its
size, as images stay decodable for hundreds of milliseconds (Cichy et al., 2014).
Sources: Di Russo et al. (2002) for C1
and P1 (retinotopy, polarity, 70-110 ms); Bentin et al. (1996) and Joyce and Rossion
(2005) for the N170 and the vertex positivity; Anllo-Vento et al. (1998) for color;
Murray and Herrmann (2013) for LOC; Schweinberger et al. (2002) for the N250;
Polich (2007) for P3; Albrecht and Hamilton (1982) for contrast saturation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minithings.scenes import (
    BACKGROUNDS,
    CATEGORY_SHAPES,
    COLORS,
    POSITIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    render,
    sample_scene,
)


@dataclass(frozen=True)
class Area:
    """A cortical area of both hemispheres; the table above gives the values."""

    position: tuple[float, float, float]  # fractions of the radius: right, front, up
    orientation: tuple[float, float, float]  # of the current at the first deflection
    moment: float  # A m, all patches together
    peak: float  # s, of the first deflection, a Gaussian
    width: float  # s, its standard deviation
    rebound: float  # amplitude relative to the first deflection
    n_patches: int = 1  # dipoles in one hemisphere
    modulation: float | None = None  # None: contrast in the opposite quadrant itself


AREAS = {
    "V1 upper": Area((0.09, -0.75, 0.03), (0.2, 0.6, -0.8), 10e-9, 0.075, 0.012, -0.5),
    "V1 lower": Area((0.09, -0.74, 0.17), (-0.2, -0.6, 0.8), 10e-9, 0.075, 0.012, -0.5),
    "V2 upper": Area((0.36, -0.69, -0.06), (0.4, -0.9, -0.1), 12e-9, 0.1, 0.016, -0.45),
    "V2 lower": Area((0.36, -0.66, 0.18), (0.4, -0.9, 0.2), 12e-9, 0.1, 0.016, -0.45),
    "V4": Area(
        (0.33, -0.58, -0.28), (-0.3, 0.6, 0.7), 12e-9, 0.13, 0.022, -0.3, 3, 0.8
    ),
    "LOC": Area(
        (0.50, -0.58, -0.05), (-0.7, 0.6, 0.3), 16e-9, 0.155, 0.025, -0.35, 4, 0.8
    ),
    "IT posterior": Area(
        (0.42, -0.38, -0.36), (-0.4, 0.3, 0.9), 24e-9, 0.175, 0.028, -0.45, 6, 0.7
    ),
    "IT anterior": Area(
        (0.55, -0.05, -0.40), (-0.5, -0.1, 0.8), 14e-9, 0.24, 0.04, 0.3, 4, 0.8
    ),
    "parietal": Area(
        (0.28, -0.45, 0.55), (0.1, -0.4, 0.9), 14e-9, 0.36, 0.065, 0.3, 2, 0.3
    ),
}
SUSTAINED = 0.5  # amplitude relative to the first deflection
HEMISPHERES = (-1, 1)  # left, right: sign of x

# Larger responses of the fusiform cortex to animals (Rousselet et al., 2004).
_CATEGORY_GAIN = {"animal": 1.3, "tool": 1.0, "round": 0.9, "angular": 0.8}
_RENDER_SIZE = 64
_N_REFERENCE = 256  # scenes that fix means and scales, the same in every world
_REFERENCE_SEED = 20200220
_LATENCY_GAIN = 0.008  # s, earlier for high contrast


def source_areas() -> list[tuple[str, int]]:
    """List area and hemisphere (-1 left, 1 right) of every source, in order."""
    return [
        (name, side)
        for name, area in AREAS.items()
        for side in HEMISPHERES
        for _ in range(area.n_patches)
    ]


def image_drives(scenes: Sequence[Scene]) -> tuple[np.ndarray, np.ndarray]:
    """Compute how strongly and how early each image drives every source.

    Returns the strength relative to the source's moment, (n_images, n_sources) in the
    order of `source_areas`, and seconds to add to all latencies, (n_images,).
    """
    rng = np.random.default_rng(_REFERENCE_SEED)
    together = [*(sample_scene(rng) for _ in range(_N_REFERENCE)), *scenes]
    pixels = np.stack([render(scene, _RENDER_SIZE) for scene in together])
    pixels = pixels / np.float32(255)
    fine, coarse = _contrast(pixels)  # N 4
    responses = _early_responses(fine, coarse)
    features = _area_features(together, pixels, coarse, rng)
    responses |= {
        name: _modulated(AREAS[name], values, together)
        for name, values in features.items()
    }
    gain = np.array([_CATEGORY_GAIN[scene.category] for scene in together])
    responses["IT posterior"] *= gain[:, None, None]
    strength = np.concatenate(
        [responses[name].reshape(len(together), -1) for name in AREAS], axis=1
    )
    shift = -_LATENCY_GAIN * np.tanh(_standardized(np.log(fine.mean(axis=1))))
    return strength[_N_REFERENCE:], shift[_N_REFERENCE:]


def time_course(
    times: np.ndarray, peak: np.ndarray, width: np.ndarray, rebound: np.ndarray
) -> np.ndarray:
    """Evaluate a deflection, its rebound and a sustained response; arguments broadcast.

    The first deflection has height 1 at ``peak`` (s) and standard deviation ``width``
    (s). The rebound, ``rebound`` times as high, comes 2.6 widths later and is 1.7 times
    as wide; the sustained response comes 6 widths later, is 4 times as wide and half as
    high.
    """
    first = (times - peak) / width
    second, third = (first - 2.6) / 1.7, (first - 6) / 4
    waves = np.exp(-0.5 * first**2) + rebound * np.exp(-0.5 * second**2)
    return waves + SUSTAINED * np.exp(-0.5 * third**2)


def _contrast(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return RMS luminance gradient in each quadrant at two scales."""
    luminance = pixels @ np.float32([0.30, 0.59, 0.11])  # N H W
    n_images, side, _ = luminance.shape
    blocks = luminance.reshape(n_images, side // 4, 4, side // 4, 4).mean(axis=(2, 4))
    return _quadrant_energy(luminance), _quadrant_energy(blocks)


def _quadrant_energy(luminance: np.ndarray) -> np.ndarray:
    """Pool the squared gradient: upper left, upper right, lower left, lower right."""
    dy, dx = np.gradient(luminance, axis=(1, 2))
    windows = _quadrant_windows(luminance.shape[1])
    return np.sqrt(np.tensordot(dx**2 + dy**2, windows, axes=((1, 2), (1, 2))))


def _quadrant_windows(side: int) -> np.ndarray:
    """Return Gaussian windows of sum 1 around the centers of the quadrants."""
    grid = (np.arange(side) + 0.5) / side
    near, far = (np.exp(-0.5 * ((grid - c) / 0.17) ** 2) for c in (0.28, 0.72))
    windows = np.stack([np.outer(y, x) for y in (near, far) for x in (near, far)])
    return windows / windows.sum(axis=(1, 2), keepdims=True)


def _early_responses(fine: np.ndarray, coarse: np.ndarray) -> dict[str, np.ndarray]:
    """Return responses of V1 and V2/V3 to contralateral contrast."""  # N 2 1
    v1 = _saturating(fine)
    v2 = _saturating(coarse)
    responses = {}
    for field, (left, right) in {"upper": (0, 1), "lower": (2, 3)}.items():
        crossed = [right, left]  # the left hemisphere sees the right field
        responses[f"V1 {field}"] = v1[:, crossed, None]
        both = 0.75 * v2[:, crossed] + 0.25 * v2[:, [left, right]]
        responses[f"V2 {field}"] = both[..., None]
    return responses


def _saturating(contrast: np.ndarray) -> np.ndarray:
    """Apply a Naka-Rushton function that is 1 at the median contrast."""
    half = np.median(contrast[:_N_REFERENCE])
    return 2 * contrast**2 / (contrast**2 + half**2)


def _area_features(
    scenes: Sequence[Scene],
    pixels: np.ndarray,
    coarse: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Compute what V4 and later areas encode, each from areas before it."""  # N 2 K
    code = _attributes(scenes)
    contrast = _standardized(np.log(coarse))
    color = _color_opponency(pixels)
    shape = _expanded(
        [code["shape"], code["texture"], code["size"], contrast], "LOC", rng
    )
    category = _expanded(
        [code["category"], code["shape"], code["background"], _flat(shape)]
        + [_flat(color)],
        "IT posterior",
        rng,
    )
    identity = _expanded(
        [code["category"], code["color"], code["texture"], _flat(category)],
        "IT anterior",
        rng,
    )
    salience = _expanded([code["category"], _flat(identity)], "parietal", rng)
    return {
        "V4": color,
        "LOC": shape,
        "IT posterior": category,
        "IT anterior": identity,
        "parietal": salience,
    }


def _attributes(scenes: Sequence[Scene]) -> dict[str, np.ndarray]:
    """Return one-hot codes of the attributes."""
    options = {
        "category": tuple(CATEGORY_SHAPES),
        "shape": SHAPES,
        "color": tuple(COLORS),
        "texture": TEXTURES,
        "size": tuple(SIZES),
        "background": tuple(BACKGROUNDS),
    }
    return {
        name: np.array([[getattr(s, name) == v for v in values] for s in scenes], float)
        for name, values in options.items()
    }


def _color_opponency(pixels: np.ndarray) -> np.ndarray:
    """Pool red-green, blue-yellow and their interaction in the contralateral field."""
    red, green, blue = np.moveaxis(pixels, -1, 0)
    windows = _quadrant_windows(pixels.shape[1]).reshape(2, 2, *pixels.shape[1:3])
    fields = windows.mean(axis=0)[::-1]  # right field first: left hemisphere
    opponent = [red - green, blue - (red + green) / 2]
    over = ((1, 2), (1, 2))
    pooled = [np.tensordot(image, fields, axes=over) for image in opponent]
    pooled = _standardized(np.stack(pooled, axis=-1))  # N 2 2
    product = _standardized(pooled.prod(axis=-1, keepdims=True))
    return np.concatenate([pooled, product], axis=-1)


def _expanded(
    inputs: list[np.ndarray], area: str, rng: np.random.Generator
) -> np.ndarray:
    """Expand inputs by fixed random weights, with saturation and products."""  # N 2 K
    n_patches = AREAS[area].n_patches
    inputs = _standardized(np.concatenate(inputs, axis=1))
    first = rng.standard_normal((inputs.shape[1], 96)) / np.sqrt(inputs.shape[1])
    hidden = np.tanh(1.5 * inputs @ first)
    hidden = np.hstack([hidden, 2 * hidden[:, :48] * hidden[:, 48:]])
    shared = rng.standard_normal((hidden.shape[1], 1, n_patches))
    own = rng.standard_normal((hidden.shape[1], 2, n_patches))
    return _standardized(np.tensordot(hidden, 0.8 * shared + 0.6 * own, axes=1))


def _modulated(area: Area, features: np.ndarray, scenes: Sequence[Scene]) -> np.ndarray:
    """Turn features into strengths around the common response."""  # N 2 K
    bounded = 2 * np.tanh(features / 2)
    strength = 1 + area.modulation * np.sqrt(area.n_patches) * bounded
    place = np.array([POSITIONS[scene.position][0] for scene in scenes]) - 0.5
    contralateral = 1 - np.outer(place, HEMISPHERES)  # right field: left hemisphere
    return strength * contralateral[..., None] / area.n_patches


def _standardized(values: np.ndarray) -> np.ndarray:
    """Subtract mean and divide by standard deviation over the reference scenes."""
    reference = values[:_N_REFERENCE]
    return (values - reference.mean(axis=0)) / reference.std(axis=0)


def _flat(features: np.ndarray) -> np.ndarray:
    return features.reshape(len(features), -1)
