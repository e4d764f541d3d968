"""MiniGPT-4 (Zhu et al. 2023, arXiv 2304.10592), assembled from its parts.

The vision tower and Q-Former are those of BLIP-2 (Li et al. 2023), the language model
is Vicuna. MiniGPT-4 itself is the linear layer between the two: it was trained to map
the 32 output tokens of the Q-Former to input embeddings of the language model, and only
this layer was released.
"""

from collections.abc import Sequence

import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms
from transformers import (
    AutoTokenizer,
    Blip2Config,
    Blip2QFormerModel,
    Blip2VisionModel,
    LlamaForCausalLM,
)

from paperlib.paths import ROOT
from paperlib.stimuli.captions import GREEDY, decoding
from paperlib.stimuli.weights import (
    fill,
    find_commit,
    find_model,
    load_model,
    read_tensors,
    read_torch_file,
)
from paperlib.validation import reading

# The text around image and question with which the layer was trained.
BEFORE_IMAGE = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the "
    "image once I provide it to you. Please answer my questions.###Human: <Img>"
)
BEFORE_PROMPT, AFTER_PROMPT = "</Img> ", "###Assistant: "
STOP = "###"  # ends the turn of either side

BLIP2_PARTS = ("vision_model.", "qformer.", "query_tokens")  # T5 is not read


class MiniGPT4:
    """MiniGPT-4 in evaluation mode; Q-Former and projection stay in float32."""

    def __init__(
        self,
        *,
        vision: str,
        vision_revision: str | None,
        projection: str,
        language: str,
        language_revision: str | None,
        device: torch.device,
        dtype: torch.dtype,
    ):
        source, spoken = find_model(vision), find_model(language)
        with reading(spoken):
            self.tokenizer = AutoTokenizer.from_pretrained(
                spoken, revision=language_revision
            )
        with reading(source):
            config = Blip2Config.from_pretrained(source, revision=vision_revision)
        self.language = load_model(
            LlamaForCausalLM, spoken, revision=language_revision, dtype=dtype
        ).to(device)
        width, file = config.qformer_config.hidden_size, ROOT / projection
        self.projection = nn.Linear(width, self.language.config.hidden_size)
        fill(self.projection, read_torch_file(file, "model"), "llama_proj.", file)
        tensors = read_tensors(source, BLIP2_PARTS, revision=vision_revision)
        self.vision = Blip2VisionModel(config.vision_config).eval()
        fill(self.vision, tensors, "vision_model.", source)
        self.qformer = Blip2QFormerModel(config.qformer_config).eval()
        fill(self.qformer, tensors, "qformer.", source)
        queries = torch.empty(1, config.num_query_tokens, width)  # of the Q-Former
        parameters = nn.ParameterDict({"query_tokens": queries})
        fill(parameters, tensors, "", source)
        self.queries = parameters["query_tokens"].to(device)
        self.vision.to(device, dtype)
        self.qformer.to(device)
        self.projection.to(device)
        self.name = f"MiniGPT-4: {vision}, {projection}, {language}"
        parts = ((source, vision_revision), (spoken, language_revision))
        self.revision = (
            ", ".join(filter(None, (find_commit(*p) for p in parts))) or None
        )
        self.decoding = decoding(config.vision_config.image_size**2, dtype)

    @torch.inference_mode()
    def __call__(
        self, images: Sequence[Image.Image], *, prompt: str, max_new_tokens: int
    ) -> list[str]:
        """Describe images, as every captioner does."""
        before, _, after = self.chat(prompt).partition("<image>")
        parts = (
            self._embed(before, start=True),
            self.image_tokens(images),
            self._embed(after),
        )  # the same number of tokens for all images: no padding
        rows = [part.expand(len(images), -1, -1) for part in parts]
        embedded = torch.cat(rows, dim=1)  # B L D
        ids = self.language.generate(
            inputs_embeds=embedded,
            attention_mask=embedded.new_ones(embedded.shape[:2], dtype=torch.long),
            max_new_tokens=max_new_tokens,
            **GREEDY,
            stop_strings=[STOP],
            tokenizer=self.tokenizer,
            pad_token_id=self.tokenizer.eos_token_id,
        )  # new tokens only
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text.split(STOP)[0].strip() for text in texts]

    def chat(self, prompt: str) -> str:
        """Return the text that the language model reads, with a place for the image."""
        return f"{BEFORE_IMAGE}<image>{BEFORE_PROMPT}{prompt}{AFTER_PROMPT}"

    def image_tokens(self, images: Sequence[Image.Image]) -> Tensor:
        """Map B images to input embeddings of the language model, (B, L, D)."""
        transform = image_transform(self.vision.config.image_size)
        pixels = torch.stack([transform(image) for image in images])  # B 3 H W
        vision, language = self.vision, self.language
        patches = vision(pixels.to(vision.device, vision.dtype)).last_hidden_state
        tokens = self.qformer(
            query_embeds=self.queries.expand(len(images), -1, -1),
            encoder_hidden_states=patches.to(self.queries.dtype),
        ).last_hidden_state
        return self.projection(tokens).to(language.dtype)

    def _embed(self, text: str, *, start: bool = False) -> Tensor:
        """Return the input embeddings of a text, (1, L, D)."""
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        if start:
            ids = [self.tokenizer.bos_token_id, *ids]
        row = torch.tensor([ids], device=self.language.device)
        return self.language.get_input_embeddings()(row)


def image_transform(size: int) -> transforms.Compose:
    """Return BLIP's transform for evaluation: squash to a square, then normalize."""
    return transforms.Compose(
        [
            transforms.Resize((size, size), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(OPENAI_DATASET_MEAN, OPENAI_DATASET_STD),
        ]
    )
