"""Captioners: Qwen2-VL, and the door to MiniGPT-4.

VisualGLM needs an environment of its own (``workflow/visualglm.py``); its captions, as
those of any other program, are imported from a file.
"""

from collections.abc import Sequence

import torch
from PIL import Image
from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

from paperlib.stimuli.captions import GREEDY, Captioner, decoding
from paperlib.stimuli.minigpt4 import MiniGPT4
from paperlib.stimuli.weights import find_commit, find_model, load_model
from paperlib.validation import check_option, reading


def load_captioner(kind: str, *, device: torch.device, **options) -> Captioner:
    """Load a captioner, in the precision that suits its device.

    ``kind`` is ``"qwen2-vl"`` or ``"minigpt4"``, and ``options`` are those of
    :class:`Qwen2VL` or :class:`paperlib.stimuli.minigpt4.MiniGPT4`.
    """
    kinds = {"qwen2-vl": Qwen2VL, "minigpt4": MiniGPT4}
    check_option("The kind of a captioner to load", kind, tuple(kinds))
    return kinds[kind](**options, device=device, dtype=pick_dtype(device))


def pick_dtype(device: torch.device) -> torch.dtype:
    """Return the precision in which captioners run on a device.

    Qwen2-VL was trained in bfloat16 and its activations can overflow float16, which
    then answers "!!!!" to everything: float16 is left to GPUs without bfloat16.
    """
    if torch.device(device).type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


class Qwen2VL:
    """Qwen2-VL in evaluation mode; every image is resized to the area ``pixels``."""

    def __init__(
        self,
        *,
        model: str,
        revision: str | None,
        pixels: int,
        device: torch.device,
        dtype: torch.dtype,
    ):
        source = find_model(model)
        self.name, self.revision = model, find_commit(source, revision)
        self.decoding = decoding(pixels, dtype)
        area = {"shortest_edge": pixels, "longest_edge": pixels}
        with reading(source):
            self.processor = AutoProcessor.from_pretrained(
                source, revision=revision, size=area
            )
        self.processor.tokenizer.padding_side = "left"  # answers continue at the right
        kind = Qwen2VLForConditionalGeneration
        weights = load_model(kind, source, revision=revision, dtype=dtype)
        self.model = weights.to(device)

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
        """Describe images, as every captioner does."""
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
