from functools import cache
from itertools import combinations, pairwise
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from PIL import Image

from paperlib.config import first_run, load_settings
from paperlib.models.layout import patch_layout
from paperlib.recordings.things_eeg2 import NICE_CHANNELS
from paperlib.reporting.figures import PAGE, save_figure, set_theme
from paperlib.reporting.schematics import (
    arrange_in_patches,
    describe_network,
    encoder_names,
    plot_architecture,
    plot_framework,
)

MEG_REGIONS = {"F": 67, "C": 52, "P": 45, "O": 39, "T": 68}
MEG_CHANNELS = [
    f"ML{r}{i:02d}" for r, count in MEG_REGIONS.items() for i in range(count)
]
SIGNALS = {
    "things-eeg2": SimpleNamespace(ch_names=NICE_CHANNELS, times=np.arange(250)),
    "things-meg": SimpleNamespace(ch_names=MEG_CHANNELS, times=np.arange(200)),
}
TOKENS = {"mini": (17, 77, 64), "paper": (257, 77, 768)}
CAPTION = "Incomprehensibilities " * 15  # as long as CLIP reads, in wide words


@pytest.fixture(autouse=True)
def close_figures():
    set_theme()
    yield
    plt.close("all")


def condition(lengths, width):
    sources = [SimpleNamespace(shape=(3, length, width)) for length in lengths]
    return SimpleNamespace(sources=sources, n_tokens=sum(lengths), width=width)


def entry(config, overrides, dataset):
    run = {"dataset": dataset, "run": "ours"}
    return load_settings("10_schematics", config, overrides, **run)


def networks(config, overrides=""):
    found = {}
    for dataset, signals in SIGNALS.items():
        settings = entry(config, overrides, dataset)
        image, text, width = TOKENS[config]
        lengths = (image, text) if settings["conditioning"]["captioner"] else (image,)
        data = {"signals": signals, "condition": condition(lengths, width)}
        found[dataset.upper()] = describe_network(settings, "ours", **data)
    return found


def picture():
    pixels = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def signal():
    return np.random.default_rng(0).standard_normal((63, 250))


def architecture_of(config, overrides=""):
    settings = entry(config, overrides, "things-eeg2")
    about = {"caption": CAPTION, "encoders": encoder_names(settings)}
    return plot_architecture(
        networks(config, overrides), image=picture(), signal=signal(), **about
    )


def framework():
    shapes = {"THINGS-EEG2": (63, 250), "THINGS-MEG": (271, 200)}
    return plot_framework(picture(), signal(), shapes=shapes)


DRAWINGS = {
    "framework": framework,
    "mini": lambda: architecture_of("mini"),
    "paper": lambda: architecture_of("paper"),
    "plus": lambda: architecture_of(
        "paper", "methods: {dit: {row_embedding: true, cross_modulation: true}}"
    ),
    "images only": lambda: architecture_of(
        "mini", "runs: {ours: {conditioning: {captioner: null}}}"
    ),
}


@pytest.fixture(params=DRAWINGS, scope="module")
def drawing(request, tmp_path_factory):
    set_theme()
    fig = DRAWINGS[request.param]()
    save_figure(fig, tmp_path_factory.mktemp("figures") / "figure", simulated=True)
    return fig


def texts(fig):
    return [t for t in (*fig.texts, *fig.axes[0].texts) if t.get_text()]


def places(fig, artists):
    """Extents in inches."""
    renderer = FigureCanvasAgg(fig).get_renderer()
    to_inches = fig.dpi_scale_trans.inverted()
    return [a.get_window_extent(renderer).transformed(to_inches) for a in artists]


@cache
def standard_words():
    return words(architecture_of("mini"))


def words(fig):
    return " | ".join(text.get_text() for text in texts(fig))


def holds(outer, inner):
    return (outer.min <= inner.min).all() and (outer.max >= inner.max).all()


def rectangles(fig, *, filled):
    chosen = [p for p in fig.axes[0].patches if filled <= (p.get_facecolor()[3] > 0)]
    return [p.get_bbox() for p in chosen]


def arrows(fig):
    """Return the corners of every arrow."""
    ax = fig.axes[0]
    tips = [text.xy for text in ax.texts if isinstance(text, Annotation)]
    shafts = [line.get_xydata()[:-1] for line in ax.lines]
    return [np.vstack([s, tip]) for s, tip in zip(shafts, tips, strict=True)]


def is_on_border(point, box):
    x, y = point
    beside = np.isclose((box.x0, box.x1), x).any() and box.y0 - 0.03 < y < box.y1 + 0.03
    above = np.isclose((box.y0, box.y1), y).any() and box.x0 <= x <= box.x1
    return beside or above


def test_a_text_lies_inside_a_box_or_outside(drawing):
    for text, place in zip(
        texts(drawing), places(drawing, texts(drawing)), strict=True
    ):
        assert holds(Bbox.from_bounds(0, 0, *drawing.get_size_inches()), place)
        for box in rectangles(drawing, filled=False):
            assert holds(box, place) or not box.overlaps(place), text


def test_texts_overlap_with_nothing(drawing):
    shown = [*texts(drawing), *drawing.axes[0].images]
    named = zip(shown, places(drawing, shown), strict=True)
    for (one, first), (other, second) in combinations(named, 2):
        assert not first.overlaps(second), (one, other)


def test_texts_can_be_read_in_print(drawing):
    assert drawing.get_size_inches()[0] == PAGE
    assert min(text.get_size() for text in texts(drawing)) >= 6


def test_arrows_begin_and_end_at_boxes(drawing):
    boxes = rectangles(drawing, filled=True)
    loose = [
        (start, end)
        for start, *_, end in arrows(drawing)
        if not all(any(is_on_border(p, b) for b in boxes) for p in (start, end))
    ]
    in_the_legend = 2 if "in use" in words(drawing) else 0
    assert len(loose) == in_the_legend


def test_arrows_run_through_no_box_and_no_text(drawing):
    inside = [box.padded(-0.01) for box in rectangles(drawing, filled=True)]
    obstacles = [*inside, *places(drawing, texts(drawing))]
    for corners in arrows(drawing):
        for start, end in pairwise(corners):
            path = start + np.linspace(0.01, 0.99, 99)[:, None] * (end - start)
            for box in obstacles:
                is_inside = (path > box.min) & (path < box.max)
                assert not is_inside.all(axis=1).any()


def test_the_published_sizes_are_drawn():
    drawn = words(architecture_of("paper"))
    for eeg, meg in (
        ("63 × 250", "271 × 200"),
        ("18 × 63", "69 × 50"),
        ("1,134", "3,450"),
        ("157,935,376", "157,925,392"),
    ):
        assert eeg in drawn and meg in drawn
    for size in (
        "257 × 768",
        "77 × 768",
        "334 × 768",
        "3,072 hidden",
        "50 steps, η = 0",
    ):
        assert size in drawn
    assert "temporal: 63 / 50" in drawn and "region: 5" in drawn
    assert "DiT block (× 12)" in drawn and "12 heads" in drawn and "6 vectors" in drawn
    assert "ViT-L-14-quickgelu" in drawn and "Qwen2-VL-2B-Instruct" in drawn


@pytest.mark.parametrize(
    ("overrides", "before", "after"),
    [
        ("methods: {dit: {patch: [4, 50]}}", "18 × 2", "18 × 5"),
        ("methods: {dit: {padding: global}}", "18 × 2", "16 × 2"),
        ("methods: {dit: {depth: 3}}", "DiT block (× 2)", "DiT block (× 3)"),
        ("methods: {dit: {heads: 8}}", "4 heads", "8 heads"),
        ("methods: {dit: {mlp_ratio: 2.0}}", "256 hidden", "128 hidden"),
        ("methods: {dit: {cross_modulation: true}}", "6 vectors", "9 vectors"),
        ("methods: {dit: {region_embedding: false}}", "region: 5", "temporal: 2"),
        ("runs: {ours: {model: {row_embedding: true}}}", None, "row: 18 / 20"),
        ("runs: {ours: {sampling: {steps: 7}}}", "50 steps", "7 steps"),
        ("runs: {ours: {sampling: {eta: 0.5}}}", "η = 0", "η = 0.5"),
        ("runs: {ours: {diffusion: {prediction: v}}}", "noise $", "velocity $"),
        ("runs: {ours: {conditioning: {captioner: null}}}", "94 × 64", "17 × 64"),
    ],
)
def test_what_is_drawn_follows_the_configuration(overrides, before, after):
    standard, changed = standard_words(), words(architecture_of("mini", overrides))
    assert before is None or before in standard
    assert before is None or before in after or before not in changed
    assert after in changed


def test_data_sets_that_differ_are_both_named():
    overrides = "datasets: {things-meg: {sampling: {eta: 1.0}}}"
    standard = entry("mini", overrides, "things-eeg2")
    assert standard["sampling"]["eta"] == 0.0
    assert "η = 0 / 1" in words(architecture_of("mini", overrides))


def test_the_framework_names_the_shapes_of_the_signals():
    drawn = words(
        plot_framework(picture(), signal(), shapes={"THINGS-EEG2": (17, 100)})
    )
    assert "17 × 100" in drawn and "271" not in drawn


def test_a_picture_without_contrast_is_dark():
    plain = Image.new("RGB", (8, 8), "white")
    fig = plot_framework(plain, signal(), shapes={})
    percept = fig.axes[0].collections[-1]
    assert not percept.get_sizes().any()


def test_signals_in_patches_leave_the_padding_empty():
    layout = patch_layout(["A"] * 3 + ["B"] * 2, 5, patch=(2, 4))
    response = np.arange(25.0).reshape(5, 5)
    grid = arrange_in_patches(response, layout)
    assert grid.shape == (6, 8)
    np.testing.assert_array_equal(grid[[0, 1, 2, 4, 5], :5], response)
    assert np.isnan(grid).sum() == 6 * 8 - 25


def test_the_same_bytes_at_every_run(tmp_path):
    for name in ("first", "second"):
        save_figure(framework(), tmp_path / name, simulated=True)
    for ending in (".pdf", ".png"):
        first, second = (tmp_path / f"{n}{ending}" for n in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()


def test_the_first_run_of_a_method():
    settings = load_settings("10_schematics", "paper")
    assert first_run(settings, "dit") == "ours"
    with pytest.raises(ValueError, match="No run has the method 'gan'; add one"):
        first_run(settings, "gan")
