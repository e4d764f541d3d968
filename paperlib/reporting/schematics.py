"""Schematics of the paper (Figures 1 and 2).

Every count and shape is read from a built network, token files or the configuration.
"""

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import compress, pairwise

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from paperlib.checkpoints import build_model
from paperlib.config import model_options
from paperlib.evaluation.comparison import MAIN_METRICS
from paperlib.methods import architecture
from paperlib.models.dit import DiT
from paperlib.models.layout import PatchLayout
from paperlib.recordings.signals import Signals
from paperlib.reporting.drawing import (
    INK,
    TITLE,
    Box,
    draw_arrow,
    draw_box,
    draw_dots,
    draw_frame,
    draw_page,
    draw_picture,
    draw_stack,
    surround,
    write,
)
from paperlib.reporting.figures import COLORS, PAGE
from paperlib.stimuli.conditions import Condition

LEARNED = COLORS["generated"]
FROZEN = COLORS["control"]
DATA = COLORS["recorded"]
TOKEN_COLORS = {"image": COLORS["plus"], "text": COLORS["baseline"]}
PREDICTIONS = {"epsilon": r"noise $\hat{\epsilon}$", "v": r"velocity $\hat{v}$"}
_ROOM = 0.87  # inches that a square picture takes in a box of Figure 1
PHOSPHENES = 20  # along each side of the percept that Figure 1 draws


@dataclass(frozen=True)
class Network:
    """What Figure 2 says of one data set.

    Attributes
    ----------
    model
        Built for its signals.
    n_tokens
        Tokens of an image by source, ``"image"`` and, with captions, ``"text"``.
    prediction
        ``"epsilon"`` or ``"v"``.
    steps, eta
        Of the DDIM sampler.
    """

    model: DiT
    n_tokens: dict[str, int]
    prediction: str
    steps: int
    eta: float


def describe_network(
    settings: dict, run: str, *, signals: Signals, condition: Condition
) -> Network:
    """Build the network of a run, without its weights, to read its sizes.

    Parameters
    ----------
    settings
        Of notebook 10, for a data set and the run.
    run
        One of the method ``"dit"``.
    signals
        Of a participant.
    condition
        Tokens of the run.

    Returns
    -------
    Network
    """
    options = model_options(settings, run)
    method = options.pop("method")
    sizes = {"ch_names": signals.ch_names, "n_times": len(signals.times)}
    arguments = architecture(method, options, condition=condition, **sizes)
    with torch.device("meta"):  # shapes only
        model = build_model({"method": method, "architecture": arguments})
    is_used = settings["conditioning"]["image"], settings["conditioning"]["captioner"]
    lengths = (tokens.shape[1] for tokens in condition.sources)
    return Network(
        model,
        n_tokens=dict(zip(compress(("image", "text"), is_used), lengths, strict=True)),
        prediction=settings["diffusion"]["prediction"],
        steps=settings["sampling"]["steps"],
        eta=settings["sampling"]["eta"],
    )


def encoder_names(settings: dict) -> dict[str, str]:
    """Return short names of the weights of CLIP and captioner.

    Parameters
    ----------
    settings
        Of notebook 10, for a data set and a run.
    """
    captioner = settings["conditioning"]["captioner"]
    weights = settings["captioning"]["captioners"].get(captioner, {})
    names = {"clip": settings["embedding"]["model"]}
    names["captioner"] = weights.get("model", captioner or "")
    return {encoder: name.rpartition("/")[2] for encoder, name in names.items()}


def plot_framework(
    image: Image.Image, response: np.ndarray, *, shapes: Mapping[str, tuple[int, int]]
) -> Figure:
    """Draw where image-to-brain encoding stands in a visual prosthesis (Figure 1).

    Parameters
    ----------
    image
        What the image sensor sees.
    response : ndarray of shape (C, T)
        A recorded response to it.
    shapes
        Data set -> channels and time points of its signals.

    Returns
    -------
    Figure
    """
    ax = draw_page(3.25)
    width = 1.1
    stages = [
        Box(left, 1.3, width, 1.15)
        for left in np.linspace(0.12, PAGE - 0.12 - width, 5).tolist()
    ]
    _draw_encoding(ax, stages[:3], image, shapes)
    _draw_decoding(ax, stages[3:], image)
    _draw_supervision(ax, stages[:3], response)
    for start, end in pairwise(stages):
        draw_arrow(ax, (start.right, start.y), (end.left, end.y))
    judge = Box(stages[1].left, 2.87, stages[3].right - stages[1].left, 0.3)
    details = ["similarity of image and percept"]
    draw_box(ax, judge, "Evaluation of the prosthesis", details, color=FROZEN)
    for stage, side in ((stages[0], judge.left), (stages[-1], judge.right)):
        draw_arrow(ax, (stage.x, stage.top), (stage.x, judge.y), (side, judge.y))
    _draw_line_styles(ax, stages[3].left)
    return ax.figure


def _draw_encoding(
    ax: Axes,
    stages: list[Box],
    image: Image.Image,
    shapes: Mapping[str, tuple[int, int]],
) -> None:
    """Draw the first half of the prosthesis, from image to stimulation."""
    sensor, encoder, signal = stages
    details = ["visual scene"]
    _draw_pictured(ax, sensor, "Image sensor", details, np.asarray(image), color=DATA)
    details = ["image-to-brain", "encoder: diffusion", "transformer (Fig. 2)"]
    draw_box(ax, encoder, "Processing\nframework", details, color=LEARNED)
    rows = [line for name, s in shapes.items() for line in (name, _times(*s))]
    draw_box(ax, signal, "Predicted M/EEG\nC × T", rows, color=LEARNED)


def _draw_decoding(ax: Axes, stages: list[Box], image: Image.Image) -> None:
    """Draw the second half of the prosthesis, which this work does not model."""
    implant, percept = stages
    frame = surround(implant, percept, margin=0.07, heading=0.22)
    draw_frame(ax, frame, "Brain decoding (not modeled here)", color=FROZEN)
    draw_box(ax, implant, "Implant", ["stimulation"], color=FROZEN, room=_ROOM)
    draw_box(ax, percept, "Percept", ["phosphenes"], color=FROZEN, room=_ROOM)
    draw_dots(ax, _picture_place(implant), np.full((6, 6), 0.6), color=FROZEN)
    draw_dots(ax, _picture_place(percept), _contrast(image, PHOSPHENES), color="white")


def _draw_supervision(ax: Axes, stages: list[Box], response: np.ndarray) -> None:
    """Draw below the first stages what trains and judges the encoder."""
    below = [Box(stage.left, 0.1, stage.width, 0.92) for stage in stages]
    participant, recorded, comparison = below
    sensor, encoder, signal = stages
    frame = surround(encoder, comparison, margin=0.07, heading=0.22)
    draw_frame(ax, frame, "This work: brain encoding", color=LEARNED)
    details = ["sees the image", "during M/EEG"]
    draw_box(ax, participant, "Participant", details, color=DATA)
    _draw_pictured(ax, recorded, "Recorded M/EEG", [], response, color=DATA)
    metrics = [label.split()[0] for label in MAIN_METRICS.values()]
    details = [", ".join(metrics[:2]) + ",", ", ".join(metrics[2:])]
    draw_box(ax, comparison, "Comparison", details, color=LEARNED)
    for start, end in ((sensor, participant), (signal, comparison)):
        draw_arrow(ax, (start.x, start.bottom), (end.x, end.top), dashed=True)
    for start, end in pairwise(below):
        draw_arrow(ax, (start.right, start.y), (end.left, end.y), dashed=True)
    draw_arrow(ax, (recorded.x, recorded.top), (encoder.x, encoder.bottom), dashed=True)
    middle = (recorded.top + encoder.bottom) / 2
    write(ax, recorded.x + 0.06, middle, "target", ha="left")


def _draw_line_styles(ax: Axes, left: float) -> None:
    """Say what the arrows of Figure 1 mean."""
    meanings = {"in use": False, "in training and evaluation": True}
    for row, (meaning, dashed) in enumerate(meanings.items()):
        y = 0.7 - 0.18 * row
        draw_arrow(ax, (left, y), (left + 0.35, y), dashed=dashed)
        write(ax, left + 0.45, y, meaning, ha="left")


def plot_architecture(
    networks: Mapping[str, Network],
    *,
    image: Image.Image,
    signal: np.ndarray,
    caption: str,
    encoders: Mapping[str, str],
) -> Figure:
    """Draw the network and its condition (Figure 2), with the sizes of each data set.

    Parameters
    ----------
    networks
        By name of the data set. Values that differ are separated by a slash, in this
        order, or stand in the table.
    image
        What the condition is made of.
    signal : ndarray of shape (C, T)
        A noisy signal of the first data set, drawn in its patches.
    caption
        Of the image.
    encoders
        Names of the weights of ``"clip"`` and ``"captioner"``.

    Returns
    -------
    Figure
    """
    ax = draw_page(5.2)
    _draw_colors(ax, 5.08)
    condition = _draw_condition(ax, networks, image, caption, encoders)
    noisy, cross, output = _draw_network(ax, networks, signal)
    corners = (condition.x, condition.bottom), (condition.x, 3.36), (cross.x, 3.36)
    draw_arrow(ax, *corners, (cross.x, cross.top))
    write(ax, cross.x + 0.08, 3.45, "keys and values", ha="left")
    _draw_sampling(ax, networks, noisy, output)
    _draw_sizes(ax, networks)
    return ax.figure


def _draw_colors(ax: Axes, y: float) -> None:
    """Say what the colors of Figure 2 mean."""
    meanings = {"trained here": LEARNED, "pretrained or fixed": FROZEN, "data": DATA}
    for column, (meaning, color) in enumerate(meanings.items()):
        place = Box(1.65 + 1.3 * column, y - 0.05, 0.15, 0.1)
        draw_box(ax, place, "", color=color)
        write(ax, place.right + 0.06, y, meaning, ha="left")


def _draw_condition(
    ax: Axes,
    networks: Mapping[str, Network],
    image: Image.Image,
    caption: str,
    encoders: Mapping[str, str],
) -> Box:
    """Draw how an image becomes tokens; return the place of all tokens."""
    picture = Box(0.12, 3.6, 1.0, 1.3)
    size = [_times(*np.shape(image))]
    _draw_pictured(ax, picture, "Image", size, np.asarray(image), color=DATA)
    sources = list(next(iter(networks.values())).n_tokens)
    places = {"image": 4.34, "text": 3.6}
    stacks = {}
    for source in sources:
        row = Box(picture.right, places[source], 0, 0.56)
        tower = Box(3.9, row.bottom, 1.0, row.height)
        kind = {"image": "vision", "text": "text"}[source]
        draw_box(ax, tower, f"CLIP {kind}\ntower", [encoders["clip"]], color=FROZEN)
        start = row.right
        if source == "text":
            start = _draw_captioning(ax, row, encoders["captioner"], caption)
        draw_arrow(ax, (start, row.y), (tower.left, row.y))
        stacks[source] = Box(5.08, row.y - 0.15, 0.5, 0.3)
        draw_stack(ax, stacks[source], [TOKEN_COLORS[source]] * 4)
        draw_arrow(ax, (tower.right, row.y), (stacks[source].left, row.y))
        shape = _each(networks, _source_shape(source))
        write(ax, stacks[source].x, stacks[source].bottom - 0.08, shape)
    return _draw_concatenation(ax, networks, stacks)


def _draw_captioning(ax: Axes, row: Box, name: str, caption: str) -> float:
    """Draw captioner and caption in a row; return where they end."""
    captioner = Box(1.3, row.bottom, 1.2, row.height)
    words = Box(2.65, row.bottom, 1.1, row.height)
    lines = textwrap.wrap(caption, 20, max_lines=4, placeholder=" …")
    draw_box(ax, captioner, "Captioner", [name], color=FROZEN)
    draw_box(ax, words, "", lines, color=DATA)
    draw_arrow(ax, (row.left, row.y), (captioner.left, row.y))
    draw_arrow(ax, (captioner.right, row.y), (words.left, row.y))
    return words.right


def _draw_concatenation(
    ax: Axes, networks: Mapping[str, Network], stacks: Mapping[str, Box]
) -> Box:
    """Draw the tokens of all sources in one stack; return its place."""
    bottom = min(stack.bottom for stack in stacks.values())
    top = max(stack.top for stack in stacks.values())
    unified = Box(5.9, bottom, 0.6, top - bottom)
    draw_stack(
        ax, unified, [TOKEN_COLORS[source] for source in stacks for _ in range(5)]
    )
    for stack in stacks.values():
        draw_arrow(ax, (stack.right, stack.y), (unified.left, stack.y))
    write(ax, unified.x, top + 0.2, "Condition L × D", size=TITLE, weight="bold")
    write(ax, unified.x, top + 0.08, _each(networks, _condition_shape))
    return unified


def _draw_network(
    ax: Axes, networks: Mapping[str, Network], signal: np.ndarray
) -> tuple[Box, Box, Box]:
    """Draw the transformer; return noisy signal, cross-attention and output."""
    layout = next(iter(networks.values())).model.layout
    noisy = Box(0.12, 1.95, 1.13, 1.1)
    embedding = Box(1.47, 2.25, 0.86, 0.5)
    output = Box(5.6, 2.25, 1.03, 0.5)
    blocks = [Box(2.6 + 0.96 * i, 2.1, 0.82, 0.8) for i in range(3)]
    frame = surround(*blocks, margin=0.08, heading=0.24)
    for start, end in pairwise([noisy, embedding, *blocks, output]):
        draw_arrow(ax, (start.right, start.y), (end.left, end.y))
    _draw_pictured(
        ax,
        noisy,
        "Noisy signal $y_t$",
        ["C × T, in patches"],
        arrange_in_patches(signal, layout),
        color=DATA,
    )
    _draw_patch_borders(ax, noisy, layout)
    width = _each(networks, lambda n: f"{n.model.position.width:,}")
    draw_box(ax, embedding, "Patch\nembedding", [f"N × {width}"], color=LEARNED)
    depth = _each(networks, lambda n: f"{len(n.model.blocks):,}")
    draw_frame(ax, frame, f"DiT block (× {depth})", color=LEARNED)
    _draw_block(ax, networks, blocks, output)
    _draw_positions(ax, networks, embedding)
    draw_box(ax, output, "Linear output", ["N patches → C × T"], color=LEARNED)
    return noisy, blocks[1], output


def _draw_block(
    ax: Axes, networks: Mapping[str, Network], blocks: list[Box], output: Box
) -> None:
    """Draw the inside of a block and how the timestep enters."""
    first = _each(networks, lambda n: f"{n.model.blocks[0].self_attention.heads} heads")
    heads = _each(
        networks, lambda n: f"{n.model.blocks[0].cross_attention.heads} heads"
    )
    hidden = _each(networks, lambda n: f"{n.model.blocks[0].mlp[0].out_features:,}")
    vectors = _each(networks, lambda n: f"{n.model.blocks[0].vectors}")
    draw_box(ax, blocks[0], "Self-\nattention", [first], color=LEARNED)
    draw_box(ax, blocks[1], "Cross-\nattention", [heads, "N queries"], color=LEARNED)
    draw_box(ax, blocks[2], "MLP", [f"{hidden} hidden"], color=LEARNED)
    time = Box(blocks[0].left, 1.5, blocks[2].right - blocks[0].left, 0.34)
    details = [f"shift, scale and gate: {vectors} vectors a block"]
    draw_box(ax, time, "Timestep t, adaLN-Zero", details, color=LEARNED)
    is_modulated = (True, vectors == "9", True)
    for block in compress(blocks, is_modulated):
        draw_arrow(ax, (block.x, time.top), (block.x, block.bottom))
    turn = time.right + 0.16
    corners = (time.right, time.y), (turn, time.y), (turn, output.bottom + 0.1)
    draw_arrow(ax, *corners, (output.left, output.bottom + 0.1))


def _draw_positions(ax: Axes, networks: Mapping[str, Network], embedding: Box) -> None:
    """Draw the position codes that are added to the embedded patches."""
    names = list(next(iter(networks.values())).model.position.tables)
    details = [f"{name}: {_each(networks, _code_count(name))}" for name in names]
    place = Box(embedding.left - 0.1, 1.45, embedding.width + 0.2, 0.55)
    draw_box(ax, place, "Position codes", details, color=LEARNED)
    draw_arrow(ax, (place.x, place.top), (embedding.x, embedding.bottom))


def _draw_sampling(
    ax: Axes, networks: Mapping[str, Network], noisy: Box, output: Box
) -> None:
    """Draw how the network's output becomes a signal, step by step."""
    prediction = Box(output.left, 1.5, output.width, 0.36)
    step = Box(5.25, 0.95, 1.38, 0.36)
    signal = Box(2.9, 0.95, 1.55, 0.36)
    noise = Box(1.47, 0.95, 0.86, 0.36)
    kind = _each(networks, lambda n: PREDICTIONS[n.prediction])
    count = _each(networks, lambda n: f"{n.steps:,}")
    eta = _each(networks, lambda n: f"{n.eta:g}")
    draw_box(ax, prediction, "Prediction", [kind], color=LEARNED)
    draw_box(ax, step, "DDIM step", [f"{count} steps, η = {eta}"], color=FROZEN)
    draw_box(ax, signal, "Generated M/EEG", ["C × T"], color=LEARNED)
    draw_box(ax, noise, "Noise", ["C × T"], color=FROZEN)
    draw_arrow(ax, (output.x, output.bottom), (prediction.x, prediction.top))
    draw_arrow(ax, (prediction.x, prediction.bottom), (prediction.x, step.top))
    draw_arrow(ax, (step.left, step.y), (signal.right, signal.y))
    write(ax, (step.left + signal.right) / 2, step.y + 0.09, "last step")
    draw_arrow(ax, (noise.left, noise.y), (1.0, noise.y), (1.0, noisy.bottom))
    corners = (step.x, step.bottom), (step.x, 0.8), (0.4, 0.8), (0.4, noisy.bottom)
    draw_arrow(ax, *corners)
    write(ax, 0.45, 1.6, "next step", ha="left")


def _draw_sizes(ax: Axes, networks: Mapping[str, Network]) -> None:
    """Draw the table of the sizes that differ between data sets."""
    columns: dict[str, Callable[[Network], str]] = {
        "Signal C × T": lambda n: _times(
            len(n.model.layout.channel_rows), n.model.layout.n_times
        ),
        "Patch": lambda n: _times(*n.model.layout.patch),
        "Patch grid": lambda n: _times(n.model.layout.n_rows, n.model.layout.n_columns),
        "Tokens N": lambda n: _times(n.model.layout.n_patches),
        "Regions": lambda n: _times(n.model.layout.n_regions),
        "Condition L × D": _condition_shape,
        "Parameters": lambda n: _times(sum(p.numel() for p in n.model.parameters())),
    }
    rows = [["", *columns]]
    rows += [
        [name, *(read(n) for read in columns.values())] for name, n in networks.items()
    ]
    pitch = 0.15
    top = 0.08 + pitch * len(rows)
    for index, row in enumerate(rows):
        y = top - (index + 0.5) * pitch
        write(ax, 0.12, y, row[0], ha="left")
        for x, text in zip(np.linspace(1.45, 6.2, len(columns)), row[1:], strict=True):
            write(ax, x, y, text, weight="normal" if index else "bold")
    ax.hlines([0.08, top - pitch, top], 0.12, PAGE - 0.12, color=INK, linewidth=0.6)


def arrange_in_patches(signal: np.ndarray, layout: PatchLayout) -> np.ndarray:
    """Place a signal on its grid of patches.

    Parameters
    ----------
    signal : ndarray of shape (C, T)
    layout
        Of the network.

    Returns
    -------
    ndarray of shape (n_rows * patch[0], n_columns * patch[1])
        Not a number where it is padded.
    """
    height, width = layout.patch
    grid = np.full((layout.n_rows * height, layout.n_columns * width), np.nan)
    grid[list(layout.channel_rows), : layout.n_times] = signal
    return grid


def _draw_patch_borders(ax: Axes, box: Box, layout: PatchLayout) -> None:
    """Draw lines between the patches of a pictured signal."""
    place = _signal_place(box)
    x = np.linspace(place.left, place.right, layout.n_columns + 1)
    y = np.linspace(place.bottom, place.top, layout.n_rows + 1)
    spacing = 72 * min(x[1] - x[0], y[1] - y[0])
    look = {"color": INK, "linewidth": min(0.4, spacing / 6)}
    ax.vlines(x, place.bottom, place.top, **look)
    ax.hlines(y, place.left, place.right, **look)


def _each(networks: Mapping[str, Network], read: Callable[[Network], str]) -> str:
    """Write a value of every data set, once where they agree."""
    return " / ".join(dict.fromkeys(read(network) for network in networks.values()))


def _context_width(network: Network) -> int:
    return network.model.blocks[0].cross_attention.key.in_features


def _condition_shape(network: Network) -> str:
    return _times(sum(network.n_tokens.values()), _context_width(network))


def _source_shape(source: str) -> Callable[[Network], str]:
    return lambda n: _times(n.n_tokens[source], _context_width(n))


def _code_count(name: str) -> Callable[[Network], str]:
    return lambda n: _times(len(n.model.position.tables[name]))


def _draw_pictured(
    ax: Axes,
    box: Box,
    title: str,
    details: list[str],
    picture: np.ndarray,
    *,
    color: str,
) -> None:
    """Draw a box with a picture below its text."""
    place = _picture_place(box)
    if picture.ndim == 2:
        place = _signal_place(box)
    draw_box(ax, box, title, details, color=color, room=place.height + 0.07)
    draw_picture(ax, place, picture)


def _picture_place(box: Box) -> Box:
    """Return the square at the bottom of a box that a picture takes."""
    return Box(box.x - 0.4, box.bottom + 0.07, 0.8, 0.8)


def _signal_place(box: Box) -> Box:
    """Return the rectangle at the bottom of a box that signals take."""
    return Box(box.left + 0.07, box.bottom + 0.07, box.width - 0.14, 0.65)


def _contrast(image: Image.Image, size: int) -> np.ndarray:
    """Return how far each of size x size regions is from the background, 0 to 1."""
    pixels = np.asarray(image, dtype=float)
    distance = np.abs(pixels - np.median(pixels, axis=(0, 1))).max(axis=2)
    small = Image.fromarray(distance.astype(np.uint8))
    light = np.asarray(small.resize((size, size), Image.Resampling.BOX), dtype=float)
    return light / max(light.max(), 1)


def _times(*sizes: int) -> str:
    """Write a shape."""
    return " × ".join(f"{size:,}" for size in sizes)
