from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minithings.scenes import (
    BACKGROUNDS,
    CONCEPTS,
    POSITIONS,
    SHAPES,
    SIZES,
    Scene,
    describe,
    render,
    sample_scene,
)

STAR = Scene("star", "red", "plain", "large", "center", "gray")
seeds = st.integers(0, 2**32 - 1)


@given(seeds)
def test_the_caption_names_every_attribute(seed):
    scene = sample_scene(np.random.default_rng(seed))
    caption = describe(scene)
    parts = (scene.size, scene.texture, scene.color, scene.shape, scene.position)
    assert all(part in caption for part in (*parts, scene.background))


@given(seeds)
def test_the_same_seed_gives_the_same_picture(seed):
    first, second = (sample_scene(np.random.default_rng(seed)) for _ in range(2))
    picture = render(first, 32)
    assert first == second and picture.shape == (32, 32, 3)
    assert picture.dtype == np.uint8 and (picture == render(second, 32)).all()


def test_attributes_vary_within_a_concept():
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng, "striped_red_star") for _ in range(60)]
    assert {scene.concept for scene in scenes} == {"striped_red_star"}
    assert {scene.size for scene in scenes} == set(SIZES)
    assert {scene.position for scene in scenes} == set(POSITIONS)
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)


def test_concepts_are_unique_sorted_and_parse_back():
    assert len(set(CONCEPTS)) == len(CONCEPTS) == 384
    assert list(CONCEPTS) == sorted(CONCEPTS)
    rng = np.random.default_rng(0)
    assert all(sample_scene(rng, concept).concept == concept for concept in CONCEPTS)


def test_shapes_fall_into_four_categories_of_three():
    categories = [replace(STAR, shape=shape).category for shape in SHAPES]
    assert sorted(categories.count(name) for name in set(categories)) == [3, 3, 3, 3]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_object_has_its_color_and_the_corner_the_background(shape):
    scene = replace(STAR, shape=shape)
    picture = render(scene, 64).astype(int)
    redness = picture[..., 0] - picture[..., 1:].mean(axis=2)
    assert redness.max() > 120
    assert abs(picture[:4, :4] - 150).max() < 12
    assert 0.05 < (redness > 100).mean() < 0.5


def test_the_object_lies_where_the_caption_says():
    for position, (x, y) in POSITIONS.items():
        ball = replace(STAR, shape="ball", size="small", position=position)
        picture = render(ball, 64).astype(int)
        rows, columns = np.nonzero(picture[..., 0] - picture[..., 1] > 80)
        assert columns.mean() / 64 == pytest.approx(x, abs=0.02)
        assert rows.mean() / 64 == pytest.approx(y, abs=0.02)


def test_a_small_picture_is_the_large_one_seen_from_afar():
    scene = replace(STAR, texture="striped", background="sky")
    large = render(scene, 128).reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
    assert np.abs(large - render(scene, 32)).mean() < 6
