"""Files of captions: written with a captioner, or imported from another program.

The product is one JSON object a line: image_id, caption, model, revision, prompt,
decoding, n_clip_tokens and truncated. Later notebooks read only this file, so any
captioner can stand behind it (paper, section 3.2.2 and appendix F).
"""

import json
import os
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

import pandas as pd
from open_clip import SimpleTokenizer
from PIL import Image

from paperlib.atomic import write_text
from paperlib.progress import progress_bar
from paperlib.stimuli.images import open_image
from paperlib.validation import check_option, did_you_mean

CLIP_CONTEXT = 77  # tokens of CLIP's text encoder, start and end token included


class Captioner(Protocol):
    """A model that describes images in words.

    Attributes
    ----------
    name : str
        Of the model or its parts, on the hub or as folders.
    revision : str or None
        Commit of the weights; None for folders.
    """

    name: str
    revision: str | None

    @property
    def decoding(self) -> dict:
        """How words are chosen, and at which size images are seen."""

    def __call__(
        self, images: Sequence[Image.Image], *, prompt: str, max_new_tokens: int
    ) -> list[str]:
        """Describe images by greedy decoding.

        Parameters
        ----------
        images
            B pictures of any size.
        prompt
            What to ask for.
        max_new_tokens
            Longest answer, in tokens of the captioner.

        Returns
        -------
        list of str
            A caption for each image; the same as if it had been captioned alone.
        """


def write_captions(
    path: Path,
    images: pd.DataFrame,
    *,
    captioner: Captioner,
    prompt: str,
    max_new_tokens: int,
    batch_size: int,
) -> None:
    """Caption images in batches and write the caption file.

    Lines are appended to ``<stem>.partial.jsonl``, which gets its name when the last
    image is done. A call after a kill goes on behind the last whole batch.

    Parameters
    ----------
    path
        Of the finished file, ``.jsonl``.
    images
        Table of :func:`paperlib.stimuli.images.read_images`.
    captioner, prompt, max_new_tokens
        See :class:`Captioner`.
    batch_size
        Images captioned together.

    Raises
    ------
    ValueError
        If the unfinished file was made from other images or with other settings, or
        if no caption of a batch holds a letter.
    """
    source = {
        "model": captioner.name,
        "revision": captioner.revision,
        "prompt": prompt,
        "decoding": captioner.decoding | {"max_new_tokens": max_new_tokens},
    }
    partial = path.with_suffix(".partial.jsonl")
    partial.parent.mkdir(parents=True, exist_ok=True)
    n_done = _resume(partial, images["image_id"], source, batch_size)
    ids, paths = images["image_id"].tolist(), images["path"].tolist()
    with (
        partial.open("a", encoding="utf-8") as file,
        progress_bar(
            total=len(ids), done=n_done, label="Captions", unit="image"
        ) as bar,
    ):
        for start in range(n_done, len(ids), batch_size):
            batch = slice(start, start + batch_size)
            captions = captioner(
                [open_image(path) for path in paths[batch]],
                prompt=prompt,
                max_new_tokens=max_new_tokens,
            )
            _check_words(captions, source=f"The captioner {captioner.name}")
            file.writelines(_lines(ids[batch], captions, source))
            file.flush()
            bar.update(len(captions))
    os.replace(partial, path)


def save_imported_captions(
    path: Path, captions: Mapping[str, str], *, source: str
) -> None:
    """Write the caption file from captions that another program made.

    Parameters
    ----------
    path
        Of the file, ``.jsonl``.
    captions
        Caption of each image, by image id.
    source
        Where they come from; stands in the place of the model.
    """
    made_by = {"model": source, "revision": None, "prompt": None, "decoding": None}
    write_text(path, "".join(_lines(captions.keys(), captions.values(), made_by)))


def read_captions(path: Path, image_ids: Sequence[str]) -> pd.DataFrame:
    """Read a caption file.

    Parameters
    ----------
    path
        Written by :func:`write_captions` or :func:`save_imported_captions`.
    image_ids
        Images whose captions are wanted, in this order.

    Returns
    -------
    DataFrame
        A row for each image: image_id, caption, model, revision, prompt, decoding,
        n_clip_tokens and truncated.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If an image has no caption or more than one, a line is damaged, or no caption
        holds a letter.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"There are no captions at {path}; run notebook 02 for this captioner."
        )
    lines = _read_jsonl(path)
    _check_coverage(path, [line["image_id"] for line in lines], image_ids)
    table = pd.DataFrame(lines).set_index("image_id").loc[list(image_ids)]
    _check_words(table["caption"], source=str(path))
    return table.reset_index()


def import_captions(path: Path, image_ids: Sequence[str]) -> dict[str, str]:
    """Read captions that another program made.

    Parameters
    ----------
    path
        ``.json``: an object {image id: caption}; ``.jsonl``: objects with image_id and
        caption, one a line; ``.csv``: columns image_id and caption.
    image_ids
        Images that need a caption; captions of other images are left out.

    Returns
    -------
    dict
        Caption of each image, in the order of ``image_ids``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If an image has no caption, one without a letter or more than one, or if the
        file is not of its format.

    Warns
    -----
    UserWarning
        If captions hold no ASCII letter: CLIP was trained on English.
    """
    readers = {".json": _read_json, ".jsonl": _read_jsonl, ".csv": _read_csv}
    path = Path(path)
    check_option("The ending of a caption file", path.suffix, tuple(readers))
    if not path.is_file():
        raise FileNotFoundError(f"There is no caption file {path}.")
    lines = readers[path.suffix](path)
    _check_coverage(path, [line["image_id"] for line in lines], image_ids)
    by_id = {line["image_id"]: line["caption"] for line in lines}
    captions = {name: by_id[name] for name in image_ids}
    _check_texts(path, captions)
    return {name: caption.strip() for name, caption in captions.items()}


def count_clip_tokens(caption: str) -> int:
    """Count CLIP's tokens of a caption, start and end included, without truncation."""
    return len(_clip_tokenizer().encode(caption)) + 2


@cache
def _clip_tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


def _lines(image_ids: Sequence[str], captions: Sequence[str], source: dict) -> list:
    """Return the lines of the caption file for some images."""
    lines = []
    for image_id, caption in zip(image_ids, captions, strict=True):
        n_tokens = count_clip_tokens(caption)
        line = {"image_id": image_id, "caption": caption, **source}
        line |= {"n_clip_tokens": n_tokens, "truncated": n_tokens > CLIP_CONTEXT}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return lines


def _resume(partial: Path, image_ids: pd.Series, source: dict, batch_size: int) -> int:
    """Drop a batch that a kill cut short; return how many images are done."""
    if not partial.is_file():
        return 0
    whole = partial.read_bytes().split(b"\n")[:-1]
    whole = whole[: len(whole) - len(whole) % batch_size]
    os.truncate(partial, sum(len(line) + 1 for line in whole))
    done = _read_jsonl(partial)
    changed = {key for line in done for key in source if line[key] != source[key]}
    if [line["image_id"] for line in done] != image_ids[: len(done)].tolist():
        changed.add("images")
    if changed:
        raise ValueError(
            f"{partial} holds {len(done)} captions made with other "
            f"{', '.join(sorted(changed))}. Restore these to go on from there, or "
            "delete the file to start over."
        )
    return len(done)


def _read_json(path: Path) -> list[dict]:
    """Read {image id: caption}; a repeated key stays visible."""
    try:
        pairs = json.loads(path.read_text("utf-8"), object_pairs_hook=list)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}).") from error
    if not all(isinstance(pair, tuple) for pair in pairs):
        raise ValueError(
            f"{path} must be one JSON object of the form {{image id: caption}}."
        )
    return [{"image_id": key, "caption": value} for key, value in pairs]


def _read_jsonl(path: Path) -> list[dict]:
    with path.open(encoding="utf-8") as file:
        return [_parse_line(path, number, text) for number, text in enumerate(file, 1)]


def _parse_line(path: Path, number: int, text: str) -> dict:
    try:
        line = json.loads(text)
        return {"image_id": line["image_id"], "caption": line["caption"], **line}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"Line {number} of {path} must be a JSON object with image_id and caption; "
            f"got {text[:60]!r}."
        ) from error


def _read_csv(path: Path) -> list[dict]:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    for column in ("image_id", "caption"):
        if column not in table:
            raise ValueError(
                f"{path} must have the columns image_id and caption; it has "
                f"{list(table.columns)}.{did_you_mean(column, table.columns)}"
            )
    return table[["image_id", "caption"]].to_dict("records")


def _check_coverage(path: Path, given: list[str], wanted: Sequence[str]) -> None:
    """Check that every wanted image is given once."""
    counts = Counter(given)
    missing = [name for name in wanted if name not in counts]
    if missing:
        raise ValueError(
            f"{path} has no caption for {len(missing)} of {len(wanted)} images: "
            f"{', '.join(missing[:5])}.{did_you_mean(missing[0], counts)}"
        )
    repeated = [name for name in wanted if counts[name] > 1]
    if repeated:
        raise ValueError(
            f"{path} has more than one caption for {len(repeated)} images: "
            f"{', '.join(repeated[:5])}. Keep one for each."
        )


def _check_texts(path: Path, captions: Mapping[str, str]) -> None:
    """Check that captions are texts with letters; warn of those not in English."""
    empty = [name for name, caption in captions.items() if not _has_letter(caption)]
    if empty:
        raise ValueError(
            f"{path} has an empty caption, or one that is not a text with letters, for "
            f"{len(empty)} of {len(captions)} images: {', '.join(empty[:5])}."
        )
    foreign = sum(
        not any(letter.isascii() and letter.isalpha() for letter in caption)
        for caption in captions.values()
    )
    if foreign:
        warnings.warn(
            f"{foreign} of {len(captions)} captions ({foreign / len(captions):.0%}) of "
            f"{path.name} hold no ASCII letter; CLIP was trained on English.",
            stacklevel=3,
        )


def _check_words(captions: Collection[str], *, source: str) -> None:
    """Check that a letter is among captions; a model may fail at single images."""
    if len(captions) and not any(map(_has_letter, captions)):
        raise ValueError(
            f"{source} gives only captions without a letter, as "
            f"{next(iter(captions))[:20]!r}; expected words. Its weights or their "
            "precision are at fault (float16 overflows in models that were trained in "
            "bfloat16): mend that, and run notebook 02 again."
        )


def _has_letter(caption: object) -> bool:
    return isinstance(caption, str) and any(map(str.isalpha, caption))
