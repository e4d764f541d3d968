"""Speed and memory of the full-size diffusion transformer, beside diffusers' PixArt.

PixArt (``PixArtTransformer2DModel``) gets the same width, depth and heads, the same
number of tokens (one channel of 18 x 63 or 69 x 50 patches), the same condition and the
same attention kernel. Two differences remain in its favor: it is given signals that are
padded to whole patches already, and its position codes are kept, where diffusers
computes them again for every input that is not square. One is against ours: each block
turns the timestep into its modulation by a matrix of its own, 33 % more parameters,
whose update weighs the more, the smaller the batch.

Each network has a process of its own, so that its peak memory is its own; the processes
take turns, so that what else runs on the machine slows both. What is compared is wall
time on a GPU and processor time on a CPU.

Encoding the condition once can save no more than that costs, 3 % of a step of EEG and
1 % of MEG (``by_flops_alone``); the rest of a difference is the implementation's.

FLOPs are counted on the graph (a product and a sum are two). The MFU of a GPU is their
share of its data sheet's dense bfloat16; that of a CPU is their share of the speed of
plain matrix products, measured in the same run.

Run: ``python benchmarks/dit.py`` on one core (15 minutes if it is free; writes
``dit_cpu.json``), or ``python benchmarks/dit.py --device cuda`` (writes a file named
after the GPU).
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.nn.functional as F
from machine import processor
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from paperlib.atomic import write_text
from paperlib.diffusion import ddim, linear_alpha_bar, timestep_pairs
from paperlib.models.dit import DiT
from paperlib.models.layout import PatchLayout, patch_layout

# isort: split
# paperlib first: it lets diffusers import where torchvision is of another build.
import diffusers
from diffusers import PixArtTransformer2DModel
from diffusers.models.embeddings import get_2d_sincos_pos_embed

WIDTH, DEPTH, HEADS, PATCH = 768, 12, 12, 4
CONTEXT_TOKENS, CONTEXT_WIDTH = 257 + 77, 768
DATA_SETS = {
    "THINGS-EEG2": {"regions": (22, 14, 10, 14, 3), "n_times": 250},
    "THINGS-MEG": {"regions": (67, 52, 45, 39, 68), "n_times": 200},
}
NETWORKS = ("ours", "pixart")
PEAKS = {  # FLOP/s of the data sheets, dense bfloat16
    "H200": 989e12,
    "H100 80GB HBM3": 989e12,  # SXM
    "A100": 312e12,
}


@dataclass(frozen=True)
class Task:
    """What is timed: training steps, or sampling with every network evaluation."""

    kind: str  # training or sampling
    data_set: str
    mode: str  # eager or compiled
    batch: int  # signals at a time
    repetitions: int
    depth: int = DEPTH
    n_images: int = 0  # sampling only, as is what follows
    samples: int = 1  # of each image
    steps: int = 50


EEG, MEG = DATA_SETS
SMALL = [  # a CPU's share of the full tasks; of MEG 2 of the 12 blocks
    Task("sampling", EEG, "eager", batch=1, repetitions=5, n_images=1, steps=2),
    Task("training", EEG, "eager", batch=4, repetitions=3),
    Task("sampling", MEG, "eager", 1, repetitions=5, depth=2, n_images=1, steps=2),
    Task("training", MEG, "eager", 4, repetitions=3, depth=2),
]
FULL = [
    task
    for mode in ("eager", "compiled")
    for task in (
        Task("training", EEG, mode, batch=16, repetitions=20),
        Task("training", MEG, mode, batch=4, repetitions=20),
        Task("sampling", EEG, mode, batch=100, repetitions=2, n_images=200),
        Task("sampling", MEG, mode, batch=40, repetitions=1, n_images=200),
        Task("sampling", EEG, mode, batch=96, repetitions=2, n_images=24, samples=8),
    )
]
TASKS = {"cpu": SMALL, "cuda": FULL}
WARM_UP = {
    "cpu": {"training": 0, "sampling": 0},
    "cuda": {"training": 3, "sampling": 1},
}


class PixArt(nn.Module):
    """PixArt of diffusers as a denoiser of padded signals (B, C', T')."""

    def __init__(self, layout: PatchLayout, depth: int):
        super().__init__()
        self.model = PixArtTransformer2DModel(
            num_attention_heads=HEADS,
            attention_head_dim=WIDTH // HEADS,
            in_channels=1,
            out_channels=1,
            num_layers=depth,
            cross_attention_dim=WIDTH,
            sample_size=layout.n_rows * PATCH,
            patch_size=PATCH,
            caption_channels=CONTEXT_WIDTH,
        )
        place = self.model.pos_embed
        place.height, place.width = grid = layout.n_rows, layout.n_columns
        codes = get_2d_sincos_pos_embed(
            WIDTH, grid, base_size=place.base_size, output_type="pt"
        )
        place.pos_embed = codes.float()[None]

    def forward(self, y: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """Apply the network as ours is applied."""
        output = self.model(y[:, None], context, t, return_dict=False)
        return output[0][:, 0]


def build(
    name: str, data_set: str, depth: int = DEPTH
) -> tuple[nn.Module, tuple[int, int]]:
    """Return a network and the shape of its signals."""
    counts, n_times = DATA_SETS[data_set].values()
    layout = patch_layout(region_names(counts), n_times, patch=(PATCH, PATCH))
    if name == "pixart":
        shape = layout.n_rows * PATCH, layout.n_columns * PATCH
        return PixArt(layout, depth), shape
    ours = DiT(
        region_names(counts),
        n_times,
        context_width=CONTEXT_WIDTH,
        width=WIDTH,
        depth=depth,
        heads=HEADS,
        mlp_ratio=4.0,
        patch=(PATCH, PATCH),
    )
    return ours, (sum(counts), n_times)


def region_names(counts: tuple[int, ...]) -> list[str]:
    """Return a region for each channel."""
    return [str(region) for region, count in enumerate(counts) for _ in range(count)]


def training(network: nn.Module, shape: tuple[int, int], task: Task) -> Callable:
    """Return the work of one training step."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    gradients = make_gradients(network, shape, task)

    def step() -> None:
        gradients()
        optimizer.step()
        optimizer.zero_grad()

    return step


def make_gradients(network: nn.Module, shape: tuple[int, int], task: Task) -> Callable:
    """Return the work of one forward and backward pass."""
    device = next(network.parameters()).device
    y, noise = torch.randn(2, task.batch, *shape, device=device)
    t = torch.randint(1, 1001, (task.batch,), device=device)
    context = torch.randn(task.batch, CONTEXT_TOKENS, CONTEXT_WIDTH, device=device)

    def gradients() -> None:
        with _precision(device):
            loss = F.mse_loss(network(y, t, context).float(), noise)
        loss.backward()

    return gradients


def sampling(network: nn.Module, shape: tuple[int, int], task: Task) -> Callable:
    """Return the work of sampling for all images; ours encodes the condition once."""
    device = next(network.parameters()).device
    at_once = task.batch // task.samples
    noise = torch.randn(task.batch, *shape, device=device)
    tokens = torch.randn(at_once, CONTEXT_TOKENS, CONTEXT_WIDTH, device=device)
    alpha_bar = linear_alpha_bar(1000, 1e-4, 0.02).to(device)
    schedule = {
        "pairs": timestep_pairs(alpha_bar.cpu(), task.steps),
        "alpha_bar": alpha_bar,
    }

    @torch.inference_mode()
    def sample() -> None:
        with _precision(device):
            for _ in range(task.n_images // at_once):
                context = _condition(network, tokens, task.samples)
                ddim(
                    lambda y, t, context=context: network(y, t, context),
                    noise,
                    prediction="epsilon",
                    **schedule,
                )

    return sample


def _precision(device: torch.device) -> AbstractContextManager:
    """Return bfloat16 where tensor cores make it fast, else float32."""
    if device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


def _condition(network: nn.Module, tokens: Tensor, samples: int):
    if isinstance(network, DiT):
        return network.encode_context(tokens)
    return tokens.repeat_interleave(samples, dim=0)


def contestant(pipe: Connection, name: str, task: Task, device: str) -> None:
    """Work and report the cost whenever asked; then report the peak memory."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    before = _peak_megabytes("cpu")
    network, shape = build(name, task.data_set, task.depth)
    network.to(device)
    if task.mode == "compiled":
        network.compile()
    make_work = {"training": training, "sampling": sampling}[task.kind]
    work = make_work(network, shape, task)
    while pipe.recv() == "go":
        wall, processor = time.perf_counter(), time.process_time()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter(), time.process_time()
        pipe.send((now[0] - wall, now[1] - processor))
    pipe.send(_peak_megabytes(device) - (before if device == "cpu" else 0))


def race(task: Task, device: str) -> tuple[dict[str, list], dict[str, float]]:
    """Let the networks work in turns; return costs (wall, processor) and peak MB."""
    spawn, warm_up = multiprocessing.get_context("spawn"), WARM_UP[device][task.kind]
    costs, peaks = {name: [] for name in NETWORKS}, {}
    with ExitStack() as stack:
        pipes = {}
        for name in NETWORKS:
            pipes[name], end = spawn.Pipe()
            process = spawn.Process(target=contestant, args=(end, name, task, device))
            process.start()
            end.close()  # so that a process that fails ends the race
            stack.callback(process.terminate)
        for turn in range(warm_up + task.repetitions):
            for name in NETWORKS[:: -1 if turn % 2 else 1]:
                pipes[name].send("go")
                costs[name].append(pipes[name].recv())
        for name, pipe in pipes.items():
            pipe.send("stop")
            peaks[name] = pipe.recv()
    return {name: cost[warm_up:] for name, cost in costs.items()}, peaks


def count_flops(name: str, task: Task) -> float:
    """Return the FLOPs of the timed work, without what a kernel may compute twice."""
    with torch.device("meta"), sdpa_kernel(SDPBackend.MATH):
        network, shape = build(name, task.data_set, task.depth)
        if task.kind == "training":
            return _flops(make_gradients(network, shape, task))
        signals = task.n_images * task.samples
        inputs = torch.empty(1, *shape), torch.ones(1, dtype=torch.long)
        tokens = torch.empty(1, CONTEXT_TOKENS, CONTEXT_WIDTH)
        context = _condition(network, tokens, 1)
        once = _flops(lambda: _condition(network, tokens, 1)) * task.n_images
        step = _flops(lambda: network(*inputs, context))
        return once + task.steps * signals * step


def count_parameters(name: str) -> int:
    """Return the parameters of a network at the size of EEG."""
    with torch.device("meta"):
        return sum(p.numel() for p in build(name, EEG)[0].parameters())


def _flops(work: Callable) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def summarize(task: Task, device: str, peak: float) -> dict:
    """Run a task and put its numbers together."""
    costs, megabytes = race(task, device)
    compared = 0 if device == "cuda" else 1  # wall or processor time
    times = {name: [cost[compared] for cost in costs[name]] for name in NETWORKS}
    flops = {name: count_flops(name, task) for name in NETWORKS}
    signals = task.batch if task.kind == "training" else task.n_images * task.samples
    counts, n_times = DATA_SETS[task.data_set].values()
    layout = patch_layout(region_names(counts), n_times, patch=(PATCH, PATCH))
    tokens = signals * layout.n_patches * (1 if task.kind == "training" else task.steps)
    ratios = [b / a for a, b in zip(times["ours"], times["pixart"], strict=True)]
    report = {"task": asdict(task)}
    for name in NETWORKS:
        seconds = statistics.median(times[name])
        report[name] = {
            "seconds": _rounded(seconds),
            "wall_seconds": _rounded(
                statistics.median(wall for wall, _ in costs[name])
            ),
            "tokens_per_second": _rounded(tokens / seconds),
            "peak_megabytes": round(megabytes[name]),
            "teraflop": _rounded(flops[name] / 1e12),
            "mfu": _rounded(flops[name] / seconds / peak),
        }
    return report | {
        "times_as_fast_as_pixart": {
            "median": _rounded(statistics.median(ratios)),
            "least": _rounded(min(ratios)),
            "most": _rounded(max(ratios)),
            "by_flops_alone": _rounded(flops["pixart"] / flops["ours"]),
        }
    }


def peak_speed(device: str) -> tuple[float, str]:
    """Return FLOP/s that count as 100 %, and where they are from."""
    if device == "cuda":
        name = torch.cuda.get_device_name()
        for known, peak in PEAKS.items():
            if known in name:
                return peak, f"data sheet of the {known}, dense bfloat16"
        raise SystemExit(f"Add the peak of {name} to PEAKS ({', '.join(PEAKS)}).")
    torch.set_num_threads(1)
    matrix, seconds = torch.randn(2048, 2048), []
    for _ in range(5):
        began = time.process_time()
        matrix @ matrix
        seconds.append(time.process_time() - began)
    return 2 * 2048**3 / min(seconds), "products of 2048 x 2048 matrices, float32"


def _peak_megabytes(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=TASKS, default="cpu")
    device = parser.parse_args().device
    peak, source = peak_speed(device)
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    load = os.getloadavg()[0]
    report = {
        "date": date.today().isoformat(),
        "machine": gpu or f"{processor()}, 1 of {os.cpu_count()} cores",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
        },
        "precision": "bfloat16 autocast" if gpu else "float32",
        "parameters": {name: count_parameters(name) for name in NETWORKS},
        "peak": {"teraflop_per_second": _rounded(peak / 1e12), "source": source},
        "note": "medians; seconds are wall time on a GPU, processor time on a CPU; "
        "tokens of sampling count at every step",
        "load_average_before": round(load, 2),
        "results": [],
    }
    name = "cpu" if gpu is None else gpu.lower().replace(" ", "_")
    for task in TASKS[device]:
        report["results"].append(summarize(task, device, peak))
        text = json.dumps(report, indent=2)  # after every task: the last ones are long
        write_text(Path(__file__).with_name(f"dit_{name}.json"), text + "\n")
    print(text)


if __name__ == "__main__":
    main()
