"""Scenes of the embedded world: what an image shows, its pixels and its caption.

A concept is a texture, a color and a shape, named like a THINGS concept
(``striped_red_star``). Size, position, background and small continuous jitters vary
from image to image of one concept.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from paperlib.atomic import atomic_path

CATEGORY_SHAPES = {
    "round": ("ball", "ring", "moon"),
    "angular": ("box", "star", "arrow"),
    "animal": ("fish", "bird", "cat"),
    "tool": ("key", "hammer", "cup"),
}
SHAPES = tuple(shape for shapes in CATEGORY_SHAPES.values() for shape in shapes)
COLORS = {
    "red": (214, 44, 40),
    "orange": (240, 132, 30),
    "yellow": (244, 214, 48),
    "green": (44, 154, 62),
    "blue": (44, 92, 204),
    "purple": (128, 58, 172),
    "pink": (242, 138, 184),
    "white": (244, 244, 240),
}
TEXTURES = ("plain", "striped", "dotted", "checkered")
SIZES = {"small": 0.24, "medium": 0.33, "large": 0.42}  # radius / image side
POSITIONS = {  # center of the object, fractions of the image side, y downward
    "upper left": (0.38, 0.38),
    "upper right": (0.62, 0.38),
    "center": (0.50, 0.50),
    "lower left": (0.38, 0.62),
    "lower right": (0.62, 0.62),
}
BACKGROUNDS = {  # color at the top, color at the bottom, amplitude of the grain
    "gray": ((150, 150, 150), (150, 150, 150), 2.0),
    "sky": ((92, 148, 214), (214, 230, 244), 8.0),
    "grass": ((112, 150, 70), (58, 104, 40), 26.0),
    "sand": ((222, 200, 158), (190, 160, 112), 20.0),
    "night": ((18, 20, 44), (46, 44, 76), 8.0),
}
SUPERSAMPLING = 4
_QUALITY = 92  # of the JPEG files

CONCEPTS = tuple("_".join(parts) for parts in sorted(product(TEXTURES, COLORS, SHAPES)))


def _ellipse(x: float, y: float, width: float, height: float) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return np.column_stack([x + width * np.cos(turn), y + height * np.sin(turn)])


def _rectangle(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def _star() -> np.ndarray:
    turn = np.pi * np.arange(10) / 5 - np.pi / 2
    radius = np.where(np.arange(10) % 2, 0.46, 1.08)
    return np.column_stack([radius * np.cos(turn), radius * np.sin(turn)])


def _crescent() -> np.ndarray:
    outer = np.radians(np.linspace(50, 310, 40))
    inner = np.radians(np.linspace(-90, 90, 30))
    x = np.concatenate([np.cos(outer), 0.64 - 0.95 * np.cos(inner)])
    y = np.concatenate([np.sin(outer), 0.766 * np.sin(inner)])
    return np.column_stack([x, y])


SOLID, HOLE = True, False
# Polygons painted in turn: vertices in [-1, 1] (y downward), solid or hole.
OUTLINES = {
    "ball": ((_ellipse(0, 0, 0.95, 0.95), SOLID),),
    "ring": (
        (_ellipse(0, 0, 1, 1), SOLID),
        (_ellipse(0, 0, 0.48, 0.48), HOLE),
    ),
    "moon": ((_crescent(), SOLID),),
    "box": ((_rectangle(-0.85, -0.85, 0.85, 0.85), SOLID),),
    "star": ((_star(), SOLID),),
    "arrow": (
        (
            np.array(
                [[-1, -0.34], [0.1, -0.34], [0.1, -0.85], [1, 0]]
                + [[0.1, 0.85], [0.1, 0.34], [-1, 0.34]]
            ),
            SOLID,
        ),
    ),
    "fish": (
        (np.array([[0.4, 0], [1.05, -0.62], [0.9, 0], [1.05, 0.62]]), SOLID),
        (np.array([[-0.3, -0.4], [0.15, -0.85], [0.4, -0.35]]), SOLID),
        (_ellipse(-0.2, 0, 0.82, 0.5), SOLID),
        (_ellipse(-0.58, -0.12, 0.09, 0.09), HOLE),
    ),
    "bird": (
        (np.array([[0.35, 0.1], [1.1, -0.25], [1.0, 0.3]]), SOLID),
        (np.array([[-0.1, 0.6], [-0.02, 1.0], [0.08, 1.0], [0.06, 0.6]]), SOLID),
        (np.array([[0.2, 0.6], [0.28, 1.0], [0.38, 1.0], [0.36, 0.6]]), SOLID),
        (_ellipse(0.15, 0.25, 0.7, 0.48), SOLID),
        (np.array([[-0.85, -0.4], [-1.15, -0.2], [-0.8, -0.15]]), SOLID),
        (_ellipse(-0.55, -0.3, 0.38, 0.38), SOLID),
        (_ellipse(-0.66, -0.38, 0.08, 0.08), HOLE),
    ),
    "cat": (
        (np.array([[-0.85, -0.2], [-0.8, -1.05], [-0.2, -0.6]]), SOLID),
        (np.array([[0.85, -0.2], [0.8, -1.05], [0.2, -0.6]]), SOLID),
        (_ellipse(0, 0.15, 0.9, 0.8), SOLID),
        (_ellipse(-0.36, 0.0, 0.12, 0.16), HOLE),
        (_ellipse(0.36, 0.0, 0.12, 0.16), HOLE),
        (np.array([[-0.13, 0.35], [0.13, 0.35], [0, 0.52]]), HOLE),
    ),
    "key": (
        (_rectangle(-0.2, -0.15, 1.05, 0.15), SOLID),
        (_rectangle(0.5, 0.1, 0.68, 0.5), SOLID),
        (_rectangle(0.85, 0.1, 1.05, 0.6), SOLID),
        (_ellipse(-0.52, 0, 0.52, 0.52), SOLID),
        (_ellipse(-0.52, 0, 0.22, 0.22), HOLE),
    ),
    "hammer": (
        (_rectangle(-0.14, -0.5, 0.14, 1.05), SOLID),
        (
            np.array(
                [[-0.75, -0.95], [0.45, -0.95], [0.9, -0.6]]
                + [[0.45, -0.4], [-0.75, -0.4]]
            ),
            SOLID,
        ),
    ),
    "cup": (
        (_ellipse(0.6, 0.0, 0.42, 0.45), SOLID),
        (_ellipse(0.6, 0.0, 0.22, 0.25), HOLE),
        (np.array([[-0.8, -0.8], [0.6, -0.8], [0.45, 0.85], [-0.65, 0.85]]), SOLID),
    ),
}


@dataclass(frozen=True)
class Scene:
    """What an image shows: six attributes, then continuous jitters."""

    shape: str
    color: str
    texture: str
    size: str
    position: str
    background: str
    offset: tuple[float, float] = (0.0, 0.0)  # of the object, fractions of the side
    scale: float = 1.0  # of the object
    angle: float = 0.0  # radians
    brightness: float = 1.0  # of the object's color
    texture_phase: float = 0.0  # periods
    grain_seed: int = 0  # of the background

    @property
    def category(self) -> str:
        """Superordinate category of the shape, a key of ``CATEGORY_SHAPES``."""
        return next(c for c, shapes in CATEGORY_SHAPES.items() if self.shape in shapes)

    @property
    def concept(self) -> str:
        """Name of the concept, an element of ``CONCEPTS``."""
        return f"{self.texture}_{self.color}_{self.shape}"


def sample_scene(rng: np.random.Generator, concept: str | None = None) -> Scene:
    """Draw a scene of a concept, or of one drawn uniformly from ``CONCEPTS``."""
    if concept is None:
        concept = CONCEPTS[rng.integers(len(CONCEPTS))]
    texture, color, shape = concept.split("_")
    return Scene(
        shape=shape,
        color=color,
        texture=texture,
        size=_draw(rng, SIZES),
        position=_draw(rng, POSITIONS),
        background=_draw(rng, BACKGROUNDS),
        offset=tuple(rng.uniform(-0.05, 0.05, 2).tolist()),
        scale=float(rng.uniform(0.9, 1.1)),
        angle=float(rng.uniform(-0.35, 0.35)),
        brightness=float(rng.uniform(0.85, 1.1)),
        texture_phase=float(rng.uniform()),
        grain_seed=int(rng.integers(2**31)),
    )


def describe(scene: Scene) -> str:
    """Return a caption that names size, texture, color, shape, position, background."""
    size = {"small": "small", "medium": "medium-sized", "large": "large"}[scene.size]
    place = "center" if scene.position == "center" else f"{scene.position} corner"
    return (
        f"A {size} {scene.texture} {scene.color} {scene.shape} in the {place} "
        f"of the picture on a {scene.background} background."
    )


def render(scene: Scene, size: int) -> np.ndarray:
    """Paint a scene of ``size`` pixels: uint8, (size, size, 3), RGB."""
    drawing = draw_object(scene, size)
    alpha = np.minimum(2 * drawing, 1.0)
    ink = 0.35 + 0.65 * np.maximum(2 * drawing - 1, 0.0)  # the rim is darker
    picture = _background(scene, size)
    picture += alpha * (ink * _object_colors(scene, size) - picture)
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def file_name(concept: str, exemplar: int) -> str:
    """Return the name that THINGS gives the file of a concept's image."""
    return f"{concept}_{exemplar:02d}{'b' if exemplar == 1 else 's'}.jpg"


def write_picture(path: Path, scene: Scene, *, size: int) -> None:
    """Paint a scene into a JPEG file; see `render`."""
    with atomic_path(path) as partial:
        Image.fromarray(render(scene, size)).save(partial, quality=_QUALITY)


def _draw(rng: np.random.Generator, options: dict) -> str:
    names = list(options)
    return names[rng.integers(len(names))]


@cache
def _pixel_grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Centers of the pixels as fractions of the image side: x and y."""
    centers = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(centers, centers)
    return x, y


def _place(scene: Scene) -> tuple[float, float, float]:
    """Center and radius of the object, fractions of the image side."""
    x, y = POSITIONS[scene.position]
    return x + scene.offset[0], y + scene.offset[1], SIZES[scene.size] * scene.scale


def _background(scene: Scene, size: int) -> np.ndarray:
    top, bottom, grain = BACKGROUNDS[scene.background]
    _, y = _pixel_grid(size)
    top, bottom = np.float32(top), np.float32(bottom)
    picture = top + y[..., None] * (bottom - top)
    coarse = np.random.default_rng(scene.grain_seed).standard_normal(
        (48, 48), dtype=np.float32
    )
    noise = Image.fromarray(coarse).resize((size, size), Image.Resampling.BILINEAR)
    picture += grain * np.asarray(noise)[..., None]
    return picture


def _object_colors(scene: Scene, size: int) -> np.ndarray:
    """Color of the object at every pixel, as if it filled the image."""
    x, y = _pixel_grid(size)
    center_x, center_y, radius = _place(scene)
    u, v = (x - center_x) / radius, (y - center_y) / radius
    cos, sin = np.cos(scene.angle), np.sin(scene.angle)
    across, along = cos * u + sin * v, cos * v - sin * u
    dark = _darkness(scene, across, along, edge=3.0 * radius * size / 32)
    light = scene.brightness * (1.0 - 0.16 * (u + v))  # lit from the upper left
    shade = light * (1.0 - 0.68 * dark)
    return shade[..., None] * np.float32(COLORS[scene.color])


def _darkness(
    scene: Scene, across: np.ndarray, along: np.ndarray, *, edge: float
) -> np.ndarray:
    """Texture in [0, 1], in object coordinates; ``edge`` sets the sharpness."""
    if scene.texture == "plain":
        return np.zeros_like(across)
    turn = np.float32(2 * np.pi)
    shift = turn * np.float32(scene.texture_phase)
    if scene.texture == "striped":
        wave = np.sin(turn * 1.6 * across + shift)
    elif scene.texture == "dotted":
        wave = np.cos(turn * 1.7 * across + shift) + np.cos(turn * 1.7 * along) - 0.8
    else:
        wave = 2 * np.sin(turn * 1.1 * across + shift) * np.sin(turn * 1.1 * along)
    return np.clip(0.5 + edge * wave, 0.0, 1.0)


def draw_object(scene: Scene, size: int) -> np.ndarray:
    """Paint the object: background 0, rim 0.5, interior 1; (size, size, 1)."""
    side = size * SUPERSAMPLING
    center_x, center_y, radius = _place(scene)
    cos, sin = np.cos(scene.angle), np.sin(scene.angle)
    to_pixels = side * radius * np.array([[cos, sin], [-sin, cos]])
    canvas = Image.new("L", (side, side))
    draw = ImageDraw.Draw(canvas)
    for outline, is_solid in OUTLINES[scene.shape]:
        points = outline @ to_pixels + (side * center_x, side * center_y)
        vertices = points.ravel().tolist()
        draw.polygon(vertices, fill=255 if is_solid else 0)
        rim = max(1, round(0.1 * side * radius))
        draw.line(vertices + vertices[:4], fill=128, width=rim)
    return np.asarray(canvas.reduce(SUPERSAMPLING), dtype=np.float32)[..., None] / 255
