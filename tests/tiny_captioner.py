"""A Qwen2-VL with random weights, as small as it can be, in a folder."""

from pathlib import Path

import torch

from minithings.captioner import build_captioner, build_processor

PROMPT = "What is in the picture?"
ENTRY = {"kind": "qwen2-vl", "revision": None, "pixels": 1024}


def write_captioner(folder: Path) -> Path:
    """Write weights and processor; captions differ from image to image."""
    processor = build_processor(["A red cat.", "A blue box."], PROMPT)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = build_captioner(processor)
        for parameter in model.parameters():
            parameter.data *= 3
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
