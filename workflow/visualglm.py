"""Describe images with VisualGLM-6B (THUDM 2023), in an environment of its own.

The model's code needs transformers 4.27 to 4.30, far older than the repository's. This
file therefore stands alone: it imports nothing of paperlib, runs on Python 3.9 or 3.10
and writes captions that a captioner of ``kind: file`` imports. Once, on a GPU with
16 GB of memory, for the images of either data set or for all of THINGS::

    conda env create -f config/visualglm-environment.yml
    conda activate visualglm
    pip install --no-deps SwissArmyTransformer==0.4.4
    python workflow/visualglm.py data/paper/things-eeg2/images \
        data/paper/captions/visualglm.jsonl --max-new-tokens 77 \
        --prompt "Describe this image in one or two sentences."

An interrupted run resumes where it stopped. Transformers runs code from the model's
repository and unpickles its weights: name the commit that you have read with
``--revision``. The weights are for non-commercial research.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

ENDINGS = (".jpg", ".jpeg", ".png")
CHINESE = slice(63823, 130000)  # tokens that the authors' demo excludes with --english
REPETITION_PENALTY = 1.2  # as in the authors' demo, and the next
DEMO_SAMPLING = {"do_sample": True, "top_p": 0.4, "top_k": 100, "temperature": 0.8}


class VisualGLM:
    """VisualGLM-6B; ``seed`` is that of sampling, None takes the likeliest tokens."""

    def __init__(
        self, model, tokenizer, *, prompt: str, max_new_tokens: int, seed: int | None
    ):
        self.model, self.tokenizer, self.seed = model, tokenizer, seed
        self.question = f"</img>Q:{prompt}\nA:"  # the English form in training
        self.decoding = {"do_sample": False} if seed is None else DEMO_SAMPLING
        self.max_new_tokens = max_new_tokens

    def __call__(self, path: Path) -> str:
        """Describe the image at ``path``."""
        import torch

        _, _, image = self.model.process_image(f"<img>{path}</img>")  # 1 3 224 224
        before = self.tokenizer.encode("<img>", add_special_tokens=False)
        after = self.tokenizer.encode(self.question, add_special_tokens=False)
        places = [self.tokenizer.unk_token_id] * self.model.image_length
        ids = self.tokenizer.build_inputs_with_special_tokens(before + places + after)
        if self.seed is not None:
            torch.manual_seed(self.seed)  # for each image, so that resuming is exact
        with torch.no_grad():
            written = self.model.generate(
                input_ids=torch.tensor([ids], device=self.model.device),
                images=image.to(self.model.device, self.model.dtype),
                pre_image_length=len(before),
                max_new_tokens=self.max_new_tokens,
                repetition_penalty=REPETITION_PENALTY,
                logits_processor=[exclude_chinese],
                **self.decoding,
            )
        return self.tokenizer.decode(written[0].tolist()[len(ids) :]).strip()


def exclude_chinese(input_ids, scores):
    """Exclude Chinese tokens; scores of shape (B, vocabulary)."""
    scores[:, CHINESE] = float("-inf")
    return scores


def load_visualglm(name: str, *, revision: str | None, **decoding) -> VisualGLM:
    """Load the model, a folder or a name on the hub, in half precision on the GPU."""
    from transformers import AutoModel, AutoTokenizer

    source = {"revision": revision, "trust_remote_code": True}
    tokenizer = AutoTokenizer.from_pretrained(name, **source)
    model = AutoModel.from_pretrained(name, **source).half().cuda().eval()
    return VisualGLM(model, tokenizer, **decoding)


def list_images(folder: Path) -> dict[str, Path]:
    """List the images below a folder by the stem of their name, in its order."""
    images: dict[str, Path] = {}
    for path in sorted(folder.rglob("*"), key=lambda path: (path.stem, str(path))):
        if path.suffix.lower() in ENDINGS:
            if path.stem in images:
                raise ValueError(
                    f"Images are identified by their stem, but {images[path.stem]} and "
                    f"{path} share one; keep one of them."
                )
            images[path.stem] = path
    if not images:
        raise ValueError(f"Expected images {ENDINGS} below {folder}; found none.")
    return images


def write_captions(
    output: Path, images: dict[str, Path], describe: Callable, settings: dict
) -> None:
    """Describe images one by one; each line holds a caption and the settings.

    Lines go to ``<stem>.partial.jsonl`` first; an interrupted run of the same images
    and settings resumes after the last complete line.
    """
    partial = output.with_suffix(".partial.jsonl")
    partial.parent.mkdir(parents=True, exist_ok=True)
    names = list(images)
    done = partial.read_bytes().split(b"\n")[:-1] if partial.is_file() else []
    lines = [json.loads(line) for line in done]
    made = [{key: line.get(key) for key in ("image_id", *settings)} for line in lines]
    if made != [{"image_id": name, **settings} for name in names[: len(made)]]:
        done = []  # of another run
    left = names[len(done) :]
    with partial.open("ab") as file:
        file.truncate(sum(len(line) + 1 for line in done))
        for name in tqdm(left, "Captions", len(names), initial=len(done)):
            line = {"image_id": name, "caption": describe(images[name]), **settings}
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            file.flush()
    os.replace(partial, output)


def main(arguments: list[str] | None = None, load: Callable = load_visualglm) -> None:
    """Read the command line and write the captions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="folder; searched to any depth")
    parser.add_argument("output", type=Path, help="file of captions, .jsonl")
    parser.add_argument("--prompt", required=True, help="the question, in English")
    parser.add_argument("--max-new-tokens", type=int, required=True)
    parser.add_argument("--model", default="THUDM/visualglm-6b", help="name or folder")
    parser.add_argument(
        "--revision", help="commit of the model; the newest if left out"
    )
    parser.add_argument(
        "--seed", type=int, help="sample, instead of taking likeliest tokens"
    )
    given = vars(parser.parse_args(arguments))
    images, output = list_images(given.pop("images")), given.pop("output")
    how = {key: given[key] for key in ("revision", "prompt", "max_new_tokens", "seed")}
    write_captions(output, images, load(given["model"], **how), given)


if __name__ == "__main__":
    main()
