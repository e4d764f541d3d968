"""CLIP tokens of images and captions.

The network attends to all tokens of CLIP ViT-L/14: 257 of an image (class token first)
and 77 of a caption, each 768 wide (paper, section 3.2.3 and appendix E).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip.pretrained import download_pretrained_from_hf
from PIL import Image
from torch import Tensor

from paperlib.paths import ROOT
from paperlib.stimuli.weights import check_weights
from paperlib.validation import check_file, did_you_mean, reading


@dataclass(frozen=True)
class Clip:
    """A CLIP model in evaluation mode, with what prepares its inputs."""

    model: open_clip.CLIP
    preprocess: Callable[[Image.Image], Tensor]  # 3 H W
    tokenizer: Callable[[list[str]], Tensor]  # B 77, padded with 0 after the end token

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """Prepare B images, (B, 3, H, W)."""
        batch = torch.stack([self.preprocess(image) for image in images])
        return batch.to(self.model.logit_scale.device)

    def ids(self, texts: Sequence[str]) -> Tensor:
        """Tokenize B texts, (B, 77)."""
        return self.tokenizer(list(texts)).to(self.model.logit_scale.device)


def load_clip(
    model: str,
    pretrained: str | None,
    revision: str | None = None,
    *,
    device: str | torch.device,
) -> Clip:
    """Load a CLIP model and its weights through open_clip.

    Names must fit together: OpenAI's weights need QuickGELU, and open_clip's plain
    ``ViT-L-14`` has GELU.

    Parameters
    ----------
    model
        An architecture, such as ``"ViT-L-14-quickgelu"``, or ``"local-dir:<folder>"``,
        relative to the repository.
    pretrained
        Tag (``"openai"``) or checkpoint file; None with ``local-dir:``.
    revision
        Commit or branch of the tag's weights on the Hugging Face hub.
    """
    if model.startswith("local-dir:"):
        source = f"local-dir:{_check_folder(ROOT / model.removeprefix('local-dir:'))}"
    else:
        source = _check_tag(model, pretrained)
    label = f"CLIP {model} {pretrained or ''}".rstrip()
    with reading(label):
        tag = open_clip.get_pretrained_cfg(source, pretrained or "")
    keys = tag.keys() & {"mean", "std", "interpolation", "resize_mode"}
    preprocessing = {f"image_{key}": tag[key] for key in keys}  # a file names none
    if revision is not None:
        if not tag.get("hf_hub"):
            raise ValueError(
                f"revision must be null: the weights {pretrained!r} of {model!r} are "
                f"not on the Hugging Face hub; got {revision!r}."
            )
        name, _, file = tag["hf_hub"].rpartition("/")
        pretrained = download_pretrained_from_hf(name, file or None, revision=revision)
    with reading(label):
        loaded, _, preprocess = open_clip.create_model_and_transforms(
            source, pretrained=pretrained, device=device, **preprocessing
        )
        tokenizer = open_clip.get_tokenizer(source)
    if not isinstance(loaded, open_clip.CLIP) or not hasattr(loaded.visual, "proj"):
        raise ValueError(
            f"{model!r} is a {type(loaded).__name__} without a projection of its image "
            "tokens; expected a CLIP model with a vision transformer, such as "
            "'ViT-L-14-quickgelu'."
        )
    check_weights(label, loaded)
    return Clip(loaded.eval(), preprocess, tokenizer)


def _check_folder(folder: Path) -> Path:
    """Return a folder if it holds a model and weights; open_clip would only warn."""
    check_file(folder / "open_clip_config.json", "Expected an open_clip model there.")
    if not any(file.is_file() for file in folder.glob("*.safetensors")):
        raise FileNotFoundError(
            f"{folder} holds no weights; expected open_clip_model.safetensors."
        )
    return folder


def _check_tag(model: str, pretrained: str | None) -> str:
    """Return a model's name if its weights, not downloaded yet, fit to it."""
    config = open_clip.get_model_config(model)
    if config is None:
        raise ValueError(
            f"open_clip has no model {model!r}."
            f"{did_you_mean(model, open_clip.list_models())}"
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained not in tags and not (pretrained and Path(pretrained).is_file()):
        raise ValueError(
            f"pretrained must be a checkpoint file or one of {tags} for {model!r}; got "
            f"{pretrained!r}.{did_you_mean(str(pretrained), tags)}"
        )
    tag = open_clip.get_pretrained_cfg(model, pretrained)
    if tag.get("quick_gelu") and not config.get("quick_gelu"):
        raise ValueError(
            f"{model!r} computes with GELU, but the weights {pretrained!r} were "
            f"trained with QuickGELU. Use '{model}-quickgelu'."
        )
    return model


@torch.inference_mode()
def image_tokens(
    clip: Clip, images: Sequence[Image.Image], *, normalize_by_cls: bool
) -> np.ndarray:
    """Compute the tokens of B images after the last layer norm and projection.

    ``normalize_by_cls`` divides them by the norm of the class token of their image. The
    result is of shape (B, L, D), float32: L is 257 and D 768 for ViT-L/14, and token 0
    is CLIP's image embedding.
    """
    visual = clip.model.visual
    hidden = visual.forward_intermediates(
        clip.pixels(images),
        indices=1,  # the last block
        normalize_intermediates=True,
        intermediates_only=True,
        output_fmt="NLC",
        output_extra_tokens=True,
    )
    parts = hidden["image_intermediates_prefix"][0], hidden["image_intermediates"][0]
    tokens = torch.cat(parts, dim=1) @ visual.proj  # B L D
    if normalize_by_cls:
        tokens = tokens / tokens[:, :1].norm(dim=-1, keepdim=True)
    return tokens.float().cpu().numpy()


@torch.inference_mode()
def text_tokens(clip: Clip, texts: Sequence[str], *, project: bool) -> np.ndarray:
    """Compute the last hidden states of B texts after the last layer norm.

    ``project`` applies the text projection, which leads to the space of image tokens.
    The result is of shape (B, 77, D), float32: longer texts are cut, and after the end
    token stand the states of padding.
    """
    hidden = clip.model.forward_intermediates(
        text=clip.ids(texts),
        text_indices=1,  # the last block
        normalize_intermediates=True,
        intermediates_only=True,
    )
    tokens = hidden["text_intermediates"][0]  # B 77 D
    if project:
        tokens = tokens @ clip.model.text_projection
    return tokens.float().cpu().numpy()


@torch.inference_mode()
def embed_images(clip: Clip, images: Sequence[Image.Image]) -> np.ndarray:
    """Compute CLIP's embeddings of B images, of shape (B, D) and norm 1."""
    embeddings = clip.model.encode_image(clip.pixels(images), normalize=True)
    return embeddings.float().cpu().numpy()


@torch.inference_mode()
def embed_texts(clip: Clip, texts: Sequence[str]) -> np.ndarray:
    """Compute CLIP's embeddings of B texts, of shape (B, D) and norm 1."""
    embeddings = clip.model.encode_text(clip.ids(texts), normalize=True)
    return embeddings.float().cpu().numpy()
