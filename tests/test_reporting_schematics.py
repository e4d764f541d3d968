import base64
import re
import xml.etree.ElementTree as ET
from io import BytesIO
from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from paperlib.models.dit import DiT
from paperlib.recordings.regions import channel_regions
from paperlib.recordings.things_eeg2 import NICE_CHANNELS
from paperlib.reporting import schematics

PAPER = {"width": 768, "depth": 12, "heads": 12, "mlp_ratio": 4.0, "patch": (4, 4)}
SMALL = {"width": 64, "depth": 2, "heads": 4, "mlp_ratio": 4.0, "patch": (4, 125)}
MEG_REGIONS = list("F" * 67 + "C" * 52 + "P" * 45 + "O" * 39 + "T" * 68)
WIDE = {  # the longest texts that the configurations of this repository lead to
    "note": "Simulated participants",
    "captioner": "Qwen2-VL-2B-Instruct",
    "clip": "ViT-L-14-quickgelu",
    "image_size": "4000 × 3000 × 3",
    "prediction": "velocity v̂",
    "solver": "Euler",
    "sampler": "1000 steps, η = 0.5",
    "codes_1": "region: 5",
    "codes_2": "temporal: 63 / 50",
    "codes_3": "row: 18 / 69",
    "codes_shift": 0,
    "name": "THINGS-EEG2",
} | {f"caption_{i}": "Incomprehensible meanings" for i in range(1, 5)}


def network(n_times=250, regions=None, **options):
    regions = regions or channel_regions(NICE_CHANNELS)
    with torch.device("meta"):
        return DiT(regions, n_times, **({"context_width": 768} | PAPER | options))


def both_data_sets(tokens, **options):
    eeg = schematics.network_fields(network(**options), tokens)
    meg = network(200, MEG_REGIONS, **options)
    meg = schematics.network_fields(meg, tokens)
    return {key: " / ".join(dict.fromkeys([eeg[key], meg[key]])) for key in eeg}, eeg


def filled(name, **changes):
    """Fill a template as notebook 10 does, with wide texts and empty pictures."""
    joined, eeg = both_data_sets({"image": (257, 768), "text": (77, 768)})
    rows = {f"{key}_{i}": v for key, v in (WIDE | eeg).items() for i in (1, 2)}
    template = (schematics.TEMPLATES / f"{name}.svg").read_text(encoding="utf-8")
    fields = dict.fromkeys(re.findall(r"{(\w+)}", template), "")
    fields |= {key: "visible" for key in fields if key.endswith("_visibility")}
    black = schematics.picture_uri(np.zeros((1, 1, 3), np.uint8))
    fields |= dict.fromkeys(("image", "noisy", "noise"), black)
    fields |= {"patch_line": 0.4} | rows | joined | WIDE | changes
    return schematics.fill_template(name, fields)


def walk(element, style=None, shift=(0.0, 0.0)):
    """Yield every shown element with its inherited style and its translation."""
    style = {**(style or {}), **element.attrib}
    tag = element.tag.rpartition("}")[2]
    if tag == "defs" or style.get("visibility") == "hidden":
        return
    moved = re.findall(r"-?[\d.]+", element.get("transform", "0 0"))
    shift = tuple(a + float(b) for a, b in zip(shift, moved, strict=True))
    yield tag, element, style, shift
    for child in element:
        yield from walk(child, style, shift)


def text_boxes(svg):
    """Return the texts of a drawing with their extents (left, top, right, bottom)."""
    boxes = []
    for tag, element, style, (dx, dy) in walk(ET.fromstring(svg)):
        text = "".join(element.itertext()).strip()
        if tag != "text" or not text:
            continue
        bold = "-Bold" if style.get("font-weight") == "bold" else ""
        slant = "-Oblique" if style.get("font-style") == "italic" else bold
        path = f"{mpl.get_data_path()}/fonts/ttf/DejaVuSans{slant}.ttf"
        size = float(style["font-size"])
        width = ImageFont.truetype(path, 100).getlength(text) * size / 100
        left, y = float(element.get("x")) + dx, float(element.get("y")) + dy
        left -= width / 2 if style.get("text-anchor") == "middle" else 0
        assert size >= 6, text
        boxes.append((text, (left, y - 0.76 * size, left + width, y + 0.1 * size)))
    return boxes


def rectangles(svg):
    for tag, element, style, _ in walk(ET.fromstring(svg)):
        if tag == "rect" and "stroke" in style:
            x, y, w, h = (float(element.get(k)) for k in ("x", "y", "width", "height"))
            yield x, y, x + w, y + h


def overlaps(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def holds(a, b):
    return a[0] <= b[0] and b[2] <= a[2] and a[1] <= b[1] and b[3] <= a[3]


@pytest.mark.parametrize("name", ["fig01_framework", "fig02_architecture"])
def test_texts_fit_their_boxes_and_overlap_with_nothing(name):
    svg = filled(name)
    texts = text_boxes(svg)
    page = tuple(float(v) for v in ET.fromstring(svg).get("viewBox").split())
    for (one, first), (other, second) in combinations(texts, 2):
        assert not overlaps(first, second), (one, other)
    for text, box in texts:
        assert holds(page, box), text
        for rectangle in rectangles(svg):
            inside = holds(rectangle, box)
            assert inside or not overlaps(rectangle, box), (text, rectangle)


def test_published_sizes():
    tokens = {"image": (257, 768), "text": (77, 768)}
    joined, _ = both_data_sets(tokens)
    expected = {
        "signal": "63 × 250 / 271 × 200",
        "grid": "18 × 63 / 69 × 50",
        "patches": "1,134 / 3,450",
        "parameters": "157,935,376 / 157,925,392",
        "condition": "334 × 768",
        "image_tokens": "257 × 768",
        "text_tokens": "77 × 768",
        "hidden": "3,072",
        "self_heads": "12",
        "vectors": "6",
        "code_region": "5",
        "code_temporal": "63 / 50",
    }
    assert joined | expected == joined


@pytest.mark.parametrize(
    ("options", "key", "before", "after"),
    [
        ({"patch": (4, 50)}, "grid", "18 × 2", "18 × 5"),
        ({"padding": "global"}, "grid", "18 × 2", "16 × 2"),
        ({"depth": 3}, "depth", "2", "3"),
        ({"heads": 8}, "self_heads", "4", "8"),
        ({"mlp_ratio": 2.0}, "hidden", "256", "128"),
        ({"cross_modulation": True}, "vectors", "6", "9"),
        ({"cross_modulation": True}, "cross_visibility", "hidden", "visible"),
        ({"region_embedding": False}, "code_region", "5", None),
        ({"row_embedding": True}, "code_row", None, "18"),
    ],
)
def test_what_is_drawn_follows_the_network(options, key, before, after):
    tokens = {"image": (17, 64)}
    standard = schematics.network_fields(network(**SMALL), tokens)
    changed = schematics.network_fields(network(**SMALL | options), tokens)
    assert (standard.get(key), changed.get(key)) == (before, after)


def test_hidden_parts_are_not_drawn():
    shown = [text for text, _ in text_boxes(filled("fig02_architecture"))]
    svg = filled("fig02_architecture", text_visibility="hidden")
    hidden = [text for text, _ in text_boxes(svg)]
    assert "Captioner" in shown and "Captioner" not in hidden


def test_every_field_needs_a_value():
    with pytest.raises(KeyError, match="note"):
        schematics.fill_template("fig01_framework", {})


def test_any_caption_is_drawn_as_it_is(tmp_path):
    caption = "$5 & <b>50% {off}</b>"
    svg = filled("fig02_architecture", caption_1=caption)
    assert caption in [text for text, _ in text_boxes(svg)]
    schematics.save_schematic(svg, tmp_path / "figure")


def test_the_same_bytes_at_every_run_at_the_printed_size(tmp_path):
    svg = filled("fig01_framework")
    files = [schematics.save_schematic(svg, tmp_path / name) for name in ("a", "b")]
    for first, second in zip(*files, strict=True):
        assert first.read_bytes() == second.read_bytes()
    assert Image.open(files[0][1]).size == (2025, 1000)


def test_pictures_survive_as_uris():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    for picture in (pixels, Image.fromarray(pixels)):
        data = schematics.picture_uri(picture).partition(",")[2]
        again = Image.open(BytesIO(base64.b64decode(data)))
        np.testing.assert_array_equal(again, pixels)


def test_heat_maps_leave_out_what_is_not_a_number():
    colors = schematics.heat_map(np.array([[1.0, -1.0, np.nan]]))
    (red, _, blue, _), (other_red, _, other_blue, _) = colors[0, :2].astype(int)
    assert red > blue and other_blue > other_red
    assert colors[0, :, 3].tolist() == [255, 255, 0]


def test_traces_dots_and_grids_span_their_place():
    trace = schematics.trace_path(np.array([[0.0, 1.0], [-1.0, 0.5]]), 10, 20)
    assert trace == "M0.0 10.00 L10.0 0.00 M0.0 20.00 L10.0 5.00"
    dots = schematics.dot_path(np.array([[1.0, 0.0], [0.0, 0.0]]), 8)
    assert dots.startswith("M0.00 2.00 a2.00 2.00")
    assert dots.count("M") == 1  # those without size are not drawn
    grid = schematics.grid_path(1, 2, 6, 4)
    assert grid == "M0 0.00 H6 M0 4.00 H6 M0.00 0 V4 M3.00 0 V4 M6.00 0 V4"
