"""Caption files: written with a captioner or imported, and read by image id.

One JSON object a line: image_id, caption, model, revision, prompt, decoding,
n_clip_tokens and truncated. Later notebooks read only this file, so that any captioner
can stand behind it (paper, section 3.2.2 and appendix F).
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

import pandas as pd
import torch
from open_clip import SimpleTokenizer
from PIL import Image
from pydantic import BaseModel
from tqdm.auto import tqdm

from paperlib.atomic import write_text
from paperlib.paths import ROOT
from paperlib.stimuli.images import open_image
from paperlib.validation import check_file, did_you_mean, reading

CLIP_CONTEXT = 77  # tokens of CLIP's text encoder, start and end token included
GREEDY = {"do_sample": False, "num_beams": 1}  # decoding, in transformers' terms
_clip_tokenizer = cache(SimpleTokenizer)


class Captioner(Protocol):
    """A model that describes images."""

    name: str  # of the model or its parts, on the hub or as folders
    revision: str | None  # commit of the weights; None for folders
    decoding: dict  # how words are chosen, and at which size images are shown

    def __call__(
        self, images: Sequence[Image.Image], *, prompt: str, max_new_tokens: int
    ) -> list[str]:
        """Describe images of any size, each as if it were alone."""


class _Line(BaseModel, extra="allow"):
    """A line of a caption file, in whose other keys anything may stand."""

    image_id: str
    caption: str


def decoding(pixels: int, dtype: torch.dtype) -> dict:
    """Describe how a captioner writes; ``pixels`` is the area of what it sees."""
    return {**GREEDY, "pixels": pixels, "dtype": str(dtype).removeprefix("torch.")}


def write_captions(
    path: Path,
    images: pd.DataFrame,
    *,
    captioner: Captioner,
    prompt: str,
    max_new_tokens: int,
    batch_size: int,
) -> None:
    """Caption a table of images in batches and write the caption file.

    Lines go to ``<stem>.partial.jsonl`` first; an interrupted run of the same images
    and settings resumes after the last complete batch.
    """
    source = {
        "model": captioner.name,
        "revision": captioner.revision,
        "prompt": prompt,
        "decoding": captioner.decoding | {"max_new_tokens": max_new_tokens},
    }
    ids, paths = images["image_id"].tolist(), images["path"].tolist()
    partial = path.with_suffix(".partial.jsonl")
    partial.parent.mkdir(parents=True, exist_ok=True)
    n_done = _resume(partial, ids, source, batch_size)
    with (
        partial.open("a", encoding="utf-8") as file,
        tqdm(total=len(ids), initial=n_done, desc="Captions", unit="image") as bar,
    ):
        for start in range(n_done, len(ids), batch_size):
            batch = slice(start, start + batch_size)
            pictures = [open_image(path) for path in paths[batch]]
            captions = captioner(pictures, prompt=prompt, max_new_tokens=max_new_tokens)
            _check_words(captions, f"The captioner {captioner.name}")
            file.writelines(map(_as_line, ids[batch], captions, [source] * len(ids)))
            file.flush()
            bar.update(len(captions))
    os.replace(partial, path)


def _resume(partial: Path, ids: list[str], source: dict, batch_size: int) -> int:
    """Drop what cannot be continued; return how many images are done."""
    if not partial.is_file():
        return 0
    lines = partial.read_bytes().split(b"\n")[:-1]
    lines = lines[: len(lines) - len(lines) % batch_size]
    done = [json.loads(line) for line in lines]
    made = [{key: line.get(key) for key in ("image_id", *source)} for line in done]
    if made != [{"image_id": name, **source} for name in ids[: len(done)]]:
        lines = []
    os.truncate(partial, sum(len(line) + 1 for line in lines))
    return len(lines)


def import_captions(path: Path, source: str | Path, image_ids: Sequence[str]) -> None:
    """Write the caption file from captions that another program made.

    ``source`` has one JSON object a line with image_id and caption, in UTF-8; a
    relative path is relative to the repository. Captions of other images are ignored.
    """
    file = ROOT / source
    check_file(file, "Expected what another program wrote (workflow/visualglm.py).")
    lines = _read_lines(file, image_ids)
    empty = [x["image_id"] for x in lines if not _has_letter(x["caption"])]
    if empty:
        raise ValueError(
            f"{file} has a caption without a letter for {len(empty)} of {len(lines)} "
            f"images: {', '.join(empty[:5])}. Describe them again."
        )
    made_by = {"model": str(source), "revision": None, "prompt": None, "decoding": None}
    texts = (_as_line(x["image_id"], x["caption"].strip(), made_by) for x in lines)
    write_text(path, "".join(texts))


def read_captions(path: Path, image_ids: Sequence[str]) -> pd.DataFrame:
    """Read a caption file: one row for each of ``image_ids``, in their order."""
    check_file(path, "Run notebook 02 for this captioner.")
    captions = pd.DataFrame(_read_lines(path, image_ids))
    _check_words(captions["caption"].tolist(), str(path))
    return captions


def _read_lines(path: Path, image_ids: Sequence[str]) -> list[dict]:
    """Return the line of each wanted image; blank lines and a BOM are ignored."""
    with reading(path, "Save it as UTF-8."):
        text = path.read_text(encoding="utf-8-sig")
    lines = []
    for number, written in enumerate(text.split("\n"), 1):  # captions hold U+2028
        if written.strip():
            with reading(f"Line {number} of {path}", "Expected image_id and caption."):
                lines.append(_Line.model_validate_json(written).model_dump())
    counts = Counter(line["image_id"] for line in lines)
    if missing := [name for name in image_ids if name not in counts]:
        raise ValueError(
            f"{path} has no caption for {len(missing)} of {len(image_ids)} images: "
            f"{', '.join(missing[:5])}.{did_you_mean(missing[0], counts)} Add them, or "
            "make the file again."
        )
    if repeated := [name for name in image_ids if counts[name] > 1]:
        raise ValueError(
            f"{path} has more than one caption for {len(repeated)} images: "
            f"{', '.join(repeated[:5])}. Keep one for each."
        )
    by_id = {line["image_id"]: line for line in lines}
    return [by_id[name] for name in image_ids]


def count_clip_tokens(caption: str) -> int:
    """Count CLIP's tokens of a caption, start and end included, without truncation."""
    return len(_clip_tokenizer().encode(caption)) + 2


def _as_line(image_id: str, caption: str, source: dict) -> str:
    n_tokens = count_clip_tokens(caption)
    line = {"image_id": image_id, "caption": caption, **source}
    line |= {"n_clip_tokens": n_tokens, "truncated": n_tokens > CLIP_CONTEXT}
    return json.dumps(line, ensure_ascii=False) + "\n"


def _check_words(captions: Sequence[str], source: str) -> None:
    """Stop if not one caption contains a letter; a model may fail at single images."""
    if captions and not any(map(_has_letter, captions)):
        raise ValueError(
            f"{source} gives only captions without a letter, such as "
            f"{captions[0][:20]!r}. Check the weights and their dtype (float16 "
            "overflows in models trained in bfloat16), and run notebook 02 again."
        )


def _has_letter(caption: str) -> bool:
    return any(map(str.isalpha, caption))
