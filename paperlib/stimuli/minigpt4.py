"""MiniGPT-4 (Zhu et al. 2023, arXiv 2304.10592), assembled from its parts.

The vision tower and Q-Former are those of BLIP-2 (Li et al. 2023), the language model
is Vicuna. MiniGPT-4 itself is the linear layer between the two: it was trained to map
the 32 output tokens of the Q-Former to input embeddings of the language model, and only
this layer was released.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
    PreTrainedTokenizerBase,
)

from paperlib.paths import ROOT
from paperlib.stimuli.captions import GREEDY, decoding
from paperlib.stimuli.weights import (
    fill,
    find_commit,
    find_model,
    load_model,
    loading,
    read_tensors,
    read_torch_file,
)

# The text around image and question with which the layer was trained.
BEFORE_IMAGE = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the "
    "image once I provide it to you. Please answer my questions.###Human: <Img>"
)
BEFORE_PROMPT, AFTER_PROMPT = "</Img> ", "###Assistant: "
STOP = "###"  # ends the turn of either side

BLIP2_PARTS = ("vision_model.", "qformer.", "query_tokens")  # T5 is not read


@dataclass(frozen=True)
class MiniGPT4:
    """MiniGPT-4 in evaluation mode.

    Attributes
    ----------
    vision : Blip2VisionModel
    qformer : Blip2QFormerModel
    queries : Tensor of shape (1, L, D)
        Learned input tokens of the Q-Former.
    projection : Linear
        From the width of the Q-Former to that of the language model.
    language : LlamaForCausalLM
    tokenizer : PreTrainedTokenizerBase
    name, revision, decoding
        See :class:`paperlib.stimuli.captions.Captioner`; of all parts.
    """

    vision: Blip2VisionModel
    qformer: Blip2QFormerModel
    queries: Tensor
    projection: nn.Linear
    language: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerBase
    name: str
    revision: str | None
    decoding: dict

    @torch.inference_mode()
    def __call__(
        self, images: Sequence[Image.Image], *, prompt: str, max_new_tokens: int
    ) -> list[str]:
        """Describe B images; see :class:`paperlib.stimuli.captions.Captioner`."""
        before, _, after = self.chat(prompt).partition("<image>")
        before, after = self._embed(before, start=True), self._embed(after)
        n_images = len(images)  # all take the same number of tokens: no padding
        embedded = torch.cat(
            [
                before.expand(n_images, -1, -1),
                self.image_tokens(images),
                after.expand(n_images, -1, -1),
            ],
            dim=1,
        )  # B L D
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


def load_minigpt4(
    *,
    vision: str,
    vision_revision: str | None,
    projection: str,
    language: str,
    language_revision: str | None,
    device: torch.device,
    dtype: torch.dtype,
) -> MiniGPT4:
    """Assemble MiniGPT-4.

    Parameters
    ----------
    vision
        BLIP-2 with the Q-Former that the layer was trained on (blip2-flan-t5-xxl); its
        language model is not read.
    projection
        File that MiniGPT-4's authors released, relative to the repository.
    language
        Vicuna of the version that the layer was trained on.
    vision_revision, language_revision
        Commits or branches on the hub; None for the newest, or with folders.
    device
        Where the model runs.
    dtype
        Of vision tower and language model; Q-Former and projection stay in float32.
    """
    source, spoken = find_model(vision), find_model(language)
    with loading(spoken):
        tokenizer = AutoTokenizer.from_pretrained(spoken, revision=language_revision)
    weights = read_torch_file(ROOT / projection, "model")
    with loading(source):
        config = Blip2Config.from_pretrained(source, revision=vision_revision)
    llama = load_model(
        LlamaForCausalLM, spoken, revision=language_revision, dtype=dtype
    )
    linear = nn.Linear(config.qformer_config.hidden_size, llama.config.hidden_size)
    fill(linear, weights, "llama_proj.")
    tower, qformer, queries = _load_blip2(source, config, vision_revision)
    commits = (
        find_commit(source, vision_revision),
        find_commit(spoken, language_revision),
    )
    return MiniGPT4(
        vision=tower.to(device, dtype).eval(),
        qformer=qformer.to(device).eval(),
        queries=queries.to(device),
        projection=linear.to(device),
        language=llama.to(device),
        tokenizer=tokenizer,
        name=f"MiniGPT-4: {vision}, {projection}, {language}",
        revision=", ".join(filter(None, commits)) or None,
        decoding=decoding(tower.config.image_size**2, dtype),
    )


def image_transform(size: int) -> transforms.Compose:
    """Return BLIP's transform for evaluation: squash to a square, then normalize."""
    return transforms.Compose(
        [
            transforms.Resize((size, size), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(OPENAI_DATASET_MEAN, OPENAI_DATASET_STD),
        ]
    )


def _load_blip2(
    source: str, config: Blip2Config, revision: str | None
) -> tuple[Blip2VisionModel, Blip2QFormerModel, Tensor]:
    """Read vision tower, Q-Former and its queries."""
    tensors = read_tensors(source, BLIP2_PARTS, revision=revision)
    tower = Blip2VisionModel(config.vision_config)
    qformer = Blip2QFormerModel(config.qformer_config)
    fill(tower, tensors, "vision_model.")
    fill(qformer, tensors, "qformer.")
    shape = (1, config.num_query_tokens, config.qformer_config.hidden_size)
    queries = nn.ParameterDict({"query_tokens": torch.empty(shape)})
    fill(queries, tensors, "")
    return tower, qformer, queries["query_tokens"]
