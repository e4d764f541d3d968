"""CLIP tokens of images and captions.

The network attends to all tokens of CLIP ViT-L/14: 257 of an image (class token first)
and 77 of a caption, each 768 wide (paper, section 3.2.3 and appendix E).
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from paperlib.paths import ROOT
from paperlib.stimuli.images import open_image
from paperlib.stimuli.pretrained import clip_file
from paperlib.stimuli.tokens import write_tokens
from paperlib.validation import did_you_mean

_LOCAL = "local-dir:"


@dataclass(frozen=True)
class Clip:
    """A CLIP model in evaluation mode, with what prepares its inputs.

    Attributes
    ----------
    name : str
    pretrained, revision : str or None
        As given to :func:`load_clip`.
    model : open_clip.CLIP
    preprocess : callable
        PIL image -> Tensor of shape (3, H, W).
    tokenizer : callable
        List of B texts -> ids, Tensor of shape (B, 77), padded with 0 after the end
        token and cut at 77.
    """

    name: str
    pretrained: str | None
    revision: str | None
    model: open_clip.CLIP
    preprocess: Callable[[Image.Image], Tensor]
    tokenizer: Callable[[list[str]], Tensor]

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.model.logit_scale.device


def load_clip(
    model: str,
    pretrained: str | None,
    revision: str | None = None,
    *,
    device: str | torch.device,
) -> Clip:
    """Load a CLIP model and its weights through open_clip.

    Parameters
    ----------
    model
        Name of an architecture, such as ``"ViT-L-14-quickgelu"``, or
        ``"local-dir:<folder>"`` for a folder with ``open_clip_config.json`` and
        weights; relative folders are relative to the repository.
    pretrained
        Tag (``"openai"``) or checkpoint file; None with ``local-dir:``.
    revision
        Commit or branch on the Hugging Face hub, where open_clip's tags lead; None for
        the newest, or without a tag.
    device
        Where the model shall run.

    Raises
    ------
    ValueError
        If the weights were trained with another activation than the architecture has
        (OpenAI's with QuickGELU: open_clip's plain ``ViT-L-14`` has GELU), if the name
        or tag is unknown, if the model has no projected tokens, or if there is a
        revision of weights that are not on the hub.
    FileNotFoundError
        If a local folder or its weights are missing.
    """
    source = _resolve(model)
    _check_source(source, pretrained)
    weights = pretrained
    if revision is not None:
        weights = clip_file(source, pretrained, revision)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="QuickGELU mismatch")
        loaded, _, preprocess = open_clip.create_model_and_transforms(
            source, pretrained=weights, device=device, **_pictures(source, pretrained)
        )
    if not isinstance(loaded, open_clip.CLIP) or not hasattr(loaded.visual, "proj"):
        raise ValueError(
            f"{model!r} is a {type(loaded).__name__} without a projection of its image "
            "tokens; expected a CLIP model with a vision transformer, such as "
            "'ViT-L-14-quickgelu'."
        )
    tokenizer = open_clip.get_tokenizer(source)
    return Clip(model, pretrained, revision, loaded.eval(), preprocess, tokenizer)


@torch.inference_mode()
def image_tokens(
    clip: Clip, images: Sequence[Image.Image], *, normalize_by_cls: bool
) -> Tensor:
    """Return the tokens of images after the last norm and projection.

    Parameters
    ----------
    clip
        The encoder.
    images
        B pictures of any size.
    normalize_by_cls
        Divide all tokens of an image by the norm of its class token.

    Returns
    -------
    Tensor of shape (B, L, D), float32
        L is 257 and D 768 for ViT-L/14; token 0 is CLIP's image embedding.
    """
    pixels = torch.stack([clip.preprocess(image) for image in images]).to(clip.device)
    hidden = clip.model.visual.forward_intermediates(
        pixels,
        indices=1,  # the last block
        normalize_intermediates=True,
        intermediates_only=True,
        output_fmt="NLC",
        output_extra_tokens=True,
    )
    parts = hidden["image_intermediates_prefix"][0], hidden["image_intermediates"][0]
    tokens = torch.cat(parts, dim=1) @ clip.model.visual.proj  # B L D
    if normalize_by_cls:
        tokens = tokens / tokens[:, :1].norm(dim=-1, keepdim=True)
    return tokens.float()


@torch.inference_mode()
def text_tokens(clip: Clip, texts: Sequence[str], *, project: bool) -> Tensor:
    """Return the last hidden state of texts after the last norm.

    Parameters
    ----------
    clip
        The encoder.
    texts
        B captions; what is longer than CLIP's context is cut.
    project
        Apply the text projection, so that image and text tokens share CLIP's space.

    Returns
    -------
    Tensor of shape (B, 77, D), float32
        Positions behind the end token hold the hidden states of open_clip's padding.
    """
    hidden = clip.model.forward_intermediates(
        text=clip.tokenizer(list(texts)).to(clip.device),
        text_indices=1,  # the last block
        normalize_intermediates=True,
        intermediates_only=True,
    )
    tokens = hidden["text_intermediates"][0]  # B 77 D
    if project:
        tokens = tokens @ clip.model.text_projection
    return tokens.float()


@torch.inference_mode()
def embed_images(clip: Clip, images: Sequence[Image.Image]) -> np.ndarray:
    """Return CLIP's embeddings of B images, of shape (B, D) and norm 1."""
    pixels = torch.stack([clip.preprocess(image) for image in images]).to(clip.device)
    return clip.model.encode_image(pixels, normalize=True).float().cpu().numpy()


@torch.inference_mode()
def embed_texts(clip: Clip, texts: Sequence[str]) -> np.ndarray:
    """Return CLIP's embeddings of B texts, of shape (B, D) and norm 1."""
    ids = clip.tokenizer(list(texts)).to(clip.device)
    return clip.model.encode_text(ids, normalize=True).float().cpu().numpy()


def write_image_tokens(
    path: Path,
    images: pd.DataFrame,
    *,
    clip: Clip,
    normalize_by_cls: bool,
    batch_size: int,
) -> None:
    """Write the tokens of images, see :func:`image_tokens` and :func:`write_tokens`.

    Parameters
    ----------
    path
        Of the array.
    images
        Table of :func:`paperlib.stimuli.images.read_images`.
    clip, normalize_by_cls
        See :func:`image_tokens`.
    batch_size
        Images encoded at a time.
    """

    def encode(paths: list[Path]) -> Tensor:
        pictures = [open_image(path) for path in paths]
        return image_tokens(clip, pictures, normalize_by_cls=normalize_by_cls)

    write_tokens(
        path,
        dict(zip(images["image_id"], images["path"], strict=True)),
        encode=encode,
        batch_size=batch_size,
        settings={
            "model": clip.name,
            "pretrained": clip.pretrained,
            "revision": clip.revision,
            "normalize_by_cls": normalize_by_cls,
        },
    )


def write_text_tokens(
    path: Path,
    captions: pd.DataFrame,
    *,
    clip: Clip,
    project: bool,
    batch_size: int,
) -> None:
    """Write the tokens of captions, see :func:`text_tokens` and :func:`write_tokens`.

    Parameters
    ----------
    path
        Of the array.
    captions
        Table of :func:`paperlib.stimuli.captions.read_captions`.
    clip, project
        See :func:`text_tokens`.
    batch_size
        Captions encoded at a time.
    """
    write_tokens(
        path,
        dict(zip(captions["image_id"], captions["caption"], strict=True)),
        encode=lambda texts: text_tokens(clip, texts, project=project),
        batch_size=batch_size,
        settings={
            "model": clip.name,
            "pretrained": clip.pretrained,
            "revision": clip.revision,
            "project": project,
        },
    )


def _resolve(model: str) -> str:
    """Make the folder of a local model absolute."""
    if not model.startswith(_LOCAL):
        return model
    return f"{_LOCAL}{ROOT / model.removeprefix(_LOCAL)}"


def _pictures(model: str, pretrained: str | None) -> dict:
    """Say how weights with a tag want to be shown pictures, for when only a file is."""
    tag = open_clip.get_pretrained_cfg(model, pretrained or "")
    keys = ("mean", "std", "interpolation", "resize_mode")
    return {f"image_{key}": tag[key] for key in keys if key in tag}


def _check_source(model: str, pretrained: str | None) -> None:
    """Stop, before anything is downloaded, at what open_clip would only warn of."""
    if model.startswith(_LOCAL):
        _check_folder(Path(model.removeprefix(_LOCAL)))
        return
    if open_clip.get_model_config(model) is None:
        raise ValueError(
            f"open_clip knows no model {model!r}."
            f"{did_you_mean(model, open_clip.list_models())}"
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained not in tags and not (pretrained and Path(pretrained).is_file()):
        raise ValueError(
            f"pretrained must be a checkpoint file or one of {tags} for {model!r}; got "
            f"{pretrained!r}.{did_you_mean(str(pretrained), tags)}"
        )
    _check_activation(model, pretrained)


def _check_folder(folder: Path) -> None:
    if not (folder / "open_clip_config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no open_clip_config.json; expected a folder with an "
            "open_clip model."
        )
    if not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(
            f"{folder} holds no weights; expected open_clip_model.safetensors."
        )


def _check_activation(model: str, pretrained: str) -> None:
    """Compare the activation of an architecture with that of weights with a tag."""
    config = open_clip.get_model_config(model)
    weights = open_clip.get_pretrained_cfg(model, pretrained)
    if weights.get("quick_gelu") and not config.get("quick_gelu"):
        raise ValueError(
            f"{model!r} computes with GELU, but the weights {pretrained!r} were "
            f"trained with QuickGELU. Use '{model}-quickgelu'."
        )
