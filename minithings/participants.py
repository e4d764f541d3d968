"""Simulated participants: heads, folds, latencies and gains that differ.

Between participants (standard deviations):

=========================  =====================================================
head radius                92 mm, 3 mm
cap                        turned by 4 degrees about each axis
dipole positions           4 % of the head radius within and between participants
dipole orientations        25 degrees within and between participants
amplitudes                 factor exp(N(0, 0.25)) per dipole
latencies                  factor exp(N(0, 0.06)) for all, exp(N(0, 0.04)) per dipole
alpha frequency            10 Hz, 0.6 Hz
background                 factor exp(N(0, 0.15))
=========================  =====================================================
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from minithings.head import Head
from minithings.sources import AREAS, source_areas

_ANATOMY_SEED = 7  # folds that all people share
_POSITION_SD = 0.04
_ANGLE_SD = np.radians(25)


@dataclass(frozen=True)
class Participant:
    """What makes a participant; arrays hold one entry a source."""

    head: Head
    positions: np.ndarray  # N 3, m, head coordinates
    orientations: np.ndarray  # N 3, unit vectors
    moments: np.ndarray  # A m
    peaks: np.ndarray  # s; this and the next two are for `sources.time_course`
    widths: np.ndarray
    rebounds: np.ndarray
    alpha_frequency: float  # Hz
    background: float  # factor on the ongoing activity


def draw_participant(subject: int, *, seed: int) -> Participant:
    """Draw the participant with a number in the world with a seed."""
    rng = np.random.default_rng([seed, subject, 100])
    radius = rng.normal(0.092, 0.003)
    positions, orientations = _anatomy()
    moved = positions + rng.normal(0, _POSITION_SD, positions.shape)
    areas = [AREAS[name] for name, _ in source_areas()]
    moments = np.array([area.moment for area in areas])
    speed = np.exp(rng.normal(0, 0.06) + rng.normal(0, 0.04, len(areas)))
    return Participant(  # arguments draw in this order
        head=Head(radius, rng.normal(0, np.radians(4), 3)),
        positions=radius * _inside_brain(moved),
        orientations=_tilted(orientations, rng),
        moments=moments * np.exp(rng.normal(0, 0.25, len(areas))),
        peaks=speed * np.array([area.peak for area in areas]),
        widths=speed * np.array([area.width for area in areas]),
        rebounds=np.array([area.rebound for area in areas]),
        alpha_frequency=rng.normal(10.0, 0.6),
        background=np.exp(rng.normal(0, 0.15)),
    )


def _anatomy() -> tuple[np.ndarray, np.ndarray]:
    """Spread the patches of each area as in everyone's brain, on a unit head."""
    rng = np.random.default_rng(_ANATOMY_SEED)
    sources = source_areas()
    mirror = np.array([[side, 1, 1] for _, side in sources])
    positions = mirror * [AREAS[name].position for name, _ in sources]
    orientations = mirror * [AREAS[name].orientation for name, _ in sources]
    several = np.array([[AREAS[name].n_patches > 1] for name, _ in sources])
    spread = rng.normal(0, _POSITION_SD, positions.shape)
    tilted = _tilted(orientations, rng)
    unit = orientations / np.linalg.norm(orientations, axis=1, keepdims=True)
    return positions + several * spread, np.where(several, tilted, unit)


def _tilted(orientations: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn each vector about a random axis and scale it to length 1."""
    turns = Rotation.from_rotvec(rng.normal(0, _ANGLE_SD, orientations.shape))
    turned = turns.apply(orientations)
    return turned / np.linalg.norm(turned, axis=1, keepdims=True)


def _inside_brain(positions: np.ndarray) -> np.ndarray:
    """Pull positions back under 0.86 of the head radius, below skull and fluid."""
    radius = np.linalg.norm(positions, axis=1, keepdims=True)
    return positions * np.minimum(1, 0.86 / radius)
