"""A CLIP of open_clip with random weights, as small as it can be, in a folder."""

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

ARCHITECTURE = {
    "embed_dim": 12,
    "quick_gelu": True,
    "vision_cfg": {
        **{"image_size": 32, "patch_size": 16, "width": 16},
        **{"layers": 2, "head_width": 8},
    },
    "text_cfg": {
        **{"context_length": 77, "vocab_size": 49408, "width": 8},
        **{"heads": 2, "layers": 2},
    },
}


def write_clip(folder: Path, architecture: dict = ARCHITECTURE) -> Path:
    """Write weights and configuration as open_clip reads them from a folder."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**architecture)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    config = {"model_cfg": architecture, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder
