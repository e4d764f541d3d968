"""Captioners: Qwen2-VL, and the door to MiniGPT-4.

VisualGLM needs an environment of its own (``workflow/visualglm.py``); its captions, as
those of any other program, are imported from a file.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from transformers import (
    AutoProcessor,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
)

from paperlib.stimuli.captions import GREEDY, Captioner, decoding
from paperlib.stimuli.minigpt4 import load_minigpt4
from paperlib.stimuli.weights import find_commit, find_model, load_model, loading
from paperlib.validation import check_option


def load_captioner(kind: str, *, device: torch.device, **options) -> Captioner:
    """Load a captioner, in the precision that suits its device.

    Parameters
    ----------
    kind
        ``"qwen2-vl"`` or ``"minigpt4"``.
    device
        Where the model runs.
    **options
        Of :func:`load_qwen2_vl` or :func:`paperlib.stimuli.minigpt4.load_minigpt4`:
        the other values of a configuration's captioner.

    Returns
    -------
    Captioner
        Called as ``captioner(images, prompt=..., max_new_tokens=...)``.

    Raises
    ------
    ValueError
        If models of this kind cannot be loaded, or the weights are damaged or
        incomplete; for ``"file"`` see
        :func:`paperlib.stimuli.captions.import_captions`.
    FileNotFoundError
        If a model is neither a folder nor of the form owner/name.
    """
    loaders = {"qwen2-vl": load_qwen2_vl, "minigpt4": load_minigpt4}
    check_option("The kind of a captioner to load", kind, tuple(loaders))
    return loaders[kind](**options, device=device, dtype=pick_dtype(device))


def pick_dtype(device: torch.device) -> torch.dtype:
    """Return the precision in which captioners run on a device.

    Qwen2-VL was trained in bfloat16 and its activations can overflow float16, which
    then answers "!!!!" to everything: float16 is left to GPUs without bfloat16.
    """
    if torch.device(device).type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


@dataclass(frozen=True)
class Qwen2VL:
    """A Qwen2-VL model in evaluation mode with its processor.

    Attributes
    ----------
    model : Qwen2VLForConditionalGeneration
    processor : Qwen2VLProcessor
    name, revision, decoding
        See :class:`paperlib.stimuli.captions.Captioner`.
    """

    model: Qwen2VLForConditionalGeneration
    processor: Qwen2VLProcessor
    name: str
    revision: str | None
    decoding: dict

    def chat(self, prompt: str) -> str:
        """Return the text that the language model reads, with a place for the image."""
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )

    @torch.inference_mode()
    def __call__(
        self, images: Sequence[Image.Image], *, prompt: str, max_new_tokens: int
    ) -> list[str]:
        """Describe B images; see :class:`paperlib.stimuli.captions.Captioner`."""
        inputs = self.processor(
            images=list(images),
            text=[self.chat(prompt)] * len(images),
            padding=True,
            return_tensors="pt",
        ).to(self.model.device)
        # all of `inputs`: without mm_token_type_ids the text changes and nothing warns
        ids = self.model.generate(**inputs, max_new_tokens=max_new_tokens, **GREEDY)
        answers = ids[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(answers, skip_special_tokens=True)
        return [text.strip() for text in texts]


def load_qwen2_vl(
    *,
    model: str,
    revision: str | None,
    pixels: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Qwen2VL:
    """Load Qwen2-VL through transformers.

    Parameters
    ----------
    model
        Name on the Hugging Face hub, or a folder; relative folders are relative to the
        repository.
    revision
        Commit or branch on the hub; None for the newest, or with a folder.
    pixels
        Area to which every image is resized, so that all cost the same: 448 x 448 is
        256 tokens of Qwen2-VL-2B.
    device, dtype
        Where and in which precision the model runs.
    """
    source = find_model(model)
    with loading(source):
        processor = AutoProcessor.from_pretrained(
            source,
            revision=revision,
            size={"shortest_edge": pixels, "longest_edge": pixels},
        )
    processor.tokenizer.padding_side = "left"  # answers continue at the right
    loaded = load_model(
        Qwen2VLForConditionalGeneration, source, revision=revision, dtype=dtype
    )
    return Qwen2VL(
        model=loaded.to(device),
        processor=processor,
        name=model,
        revision=find_commit(source, revision),
        decoding=decoding(pixels, dtype),
    )
