import json
import shutil
from copy import deepcopy
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_stimuli_images import noise
from tiny_captioner import ENTRY, PROMPT, write_captioner
from transformers import Qwen2VLImageProcessor

from paperlib.config import load_config
from paperlib.stimuli.captioners import load_captioner, pick_dtype
from paperlib.stimuli.captions import (
    CLIP_CONTEXT,
    count_clip_tokens,
    import_captions,
    read_captions,
    write_captions,
)

IDS = [f"image_{i:02d}" for i in range(7)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return write_captioner(tmp_path_factory.mktemp("captioner"))


def load(model, **changes):
    return load_captioner(**ENTRY | changes, model=str(model), device="cpu")


@pytest.fixture(scope="module")
def captioner(saved):
    return load(saved)


@pytest.fixture(scope="module")
def pictures():
    return noise([(40, 40), (60, 30), (30, 60), (50, 50), (32, 32), (90, 40), (33, 77)])


@pytest.fixture(scope="module")
def images(tmp_path_factory, pictures):
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{name}.png" for name in IDS]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    return pd.DataFrame({"image_id": IDS, "path": paths})


class Counting:
    """A captioner that counts the images of each batch and may be killed."""

    def __init__(self, captioner, *, n_batches=99):
        self.name, self.revision = captioner.name, captioner.revision
        self.decoding, self.describe = captioner.decoding, captioner
        self.asked, self.n_batches = [], n_batches

    def __call__(self, images, **options):
        if len(self.asked) == self.n_batches:
            raise KeyboardInterrupt
        self.asked.append(len(images))
        return self.describe(images, **options)


def write(path, images, captioner, *, prompt=PROMPT):
    options = {"prompt": prompt, "max_new_tokens": 6, "batch_size": 3}
    write_captions(path, images, captioner=captioner, **options)


def interrupted(path, images, captioner, n_batches):
    with pytest.raises(KeyboardInterrupt):
        write(path, images, Counting(captioner, n_batches=n_batches))
    assert not path.exists()


def test_batch_gives_the_captions_of_single_images(captioner, pictures):
    options = {"prompt": PROMPT, "max_new_tokens": 12}
    captions = captioner(pictures, **options)
    assert captions == [captioner([picture], **options)[0] for picture in pictures]
    assert len(set(captions)) > 1
    assert not any(PROMPT[:7] in caption for caption in captions)  # new tokens only


@pytest.mark.parametrize("side", [500, 800])  # of the images of THINGS
def test_the_published_captioner_sees_256_tokens_of_an_image(captioner, side):
    size = captioner.processor.image_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == (1024, 1024)
    captioning = load_config("paper").captioning
    entry = captioning.captioners["qwen2-vl"]
    assert entry.model == "Qwen/Qwen2-VL-2B-Instruct"
    assert captioning.max_new_tokens == CLIP_CONTEXT
    area = {"shortest_edge": entry.pixels, "longest_edge": entry.pixels}
    processor = Qwen2VLImageProcessor(size=area)
    picture = Image.new("RGB", (side, side))
    grid = processor(picture, return_tensors="pt")["image_grid_thw"]
    assert grid.prod() / processor.merge_size**2 == 256


def test_decoding_is_greedy_whatever_the_model_suggests(
    captioner, pictures, monkeypatch
):
    options = {"prompt": PROMPT, "max_new_tokens": 12}
    greedy = captioner(pictures, **options)
    suggested = deepcopy(captioner.model.generation_config)
    suggested.update(do_sample=True, temperature=9.0, num_beams=2)
    monkeypatch.setattr(captioner.model, "generation_config", suggested)
    assert captioner(pictures, **options) == greedy


def test_the_model_gets_all_that_the_processor_makes(captioner, pictures, monkeypatch):
    passed, answer = {}, captioner.model.generate
    monkeypatch.setattr(
        captioner.model,
        "generate",
        lambda **given: passed.update(given) or answer(**given),
    )
    captioner(pictures[:2], prompt=PROMPT, max_new_tokens=2)
    made = {"input_ids", "attention_mask", "mm_token_type_ids"}
    assert made | {"pixel_values", "image_grid_thw"} <= set(passed)
    assert captioner.processor.tokenizer.padding_side == "left"


def test_caption_file(tmp_path, images, captioner):
    path = tmp_path / "mini.jsonl"
    write(path, images, captioner)
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [line["image_id"] for line in lines] == IDS
    assert list(lines[0]) == [
        *("image_id", "caption", "model", "revision", "prompt", "decoding"),
        *("n_clip_tokens", "truncated"),
    ]
    assert lines[0]["prompt"] == PROMPT
    assert lines[0]["decoding"] == {
        **{"do_sample": False, "num_beams": 1, "max_new_tokens": 6},
        **{"pixels": 1024, "dtype": "float32"},
    }
    table = read_captions(path, IDS[::-1])
    assert table["image_id"].tolist() == IDS[::-1]
    assert table["caption"].tolist() == [line["caption"] for line in lines[::-1]]


@pytest.mark.parametrize("n_batches", [0, 1, 2])
def test_killed_run_ends_with_the_file_of_an_unbroken_one(
    tmp_path, images, captioner, n_batches
):
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    write(whole, images, captioner)
    interrupted(broken, images, captioner, n_batches)
    partial = tmp_path / "broken.partial.jsonl"
    with partial.open("a") as file:  # a line and a half of the batch under way
        file.write('{"image_id": "image_09", "caption": "a"}\n{"image_id": "im')
    write(broken, images, captioner)
    assert broken.read_bytes() == whole.read_bytes()
    assert not partial.exists()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_captioners_run_in_the_precision_they_were_trained_in(dtype, monkeypatch):
    supported = dtype == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: supported)
    assert pick_dtype(torch.device("cuda")) == dtype
    assert pick_dtype(torch.device("cpu")) == torch.float32


@pytest.mark.parametrize("useless", ["", " ", "!!!!", "1. 2."])
def test_a_captioner_without_words_is_stopped_at_its_first_batch(
    tmp_path, images, captioner, useless
):
    path, broken = tmp_path / "mini.jsonl", Counting(captioner)
    broken.describe = lambda images, **options: [useless] * len(images)
    with pytest.raises(ValueError, match="captioner .* only captions without a letter"):
        write(path, images, broken)
    assert broken.asked == [3] and not path.exists()
    write(path, images, captioner)  # nothing of it was kept


@pytest.mark.parametrize(("order", "prompt"), [(-1, PROMPT), (1, "Why?")])
def test_unfinished_captions_of_something_else_start_over(
    tmp_path, images, captioner, order, prompt
):
    path, again = tmp_path / "mini.jsonl", Counting(captioner)
    interrupted(path, images, captioner, 1)
    write(path, images[::order], again, prompt=prompt)
    assert len(read_captions(path, IDS)) == sum(again.asked) == 7


def test_clip_tokens_are_counted_without_truncation():
    assert [count_clip_tokens("a " * n) for n in (0, 2, 75, 200)] == [2, 4, 77, 202]


CAPTIONS = {"cat_01": "A cat, asleep.", "dog_01": 'A "dog"\u2028barks.'}


def save(path, captions):
    pairs = [{"image_id": k, "caption": v} for k, v in captions.items()]
    lines = [json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs]
    path.write_text("".join(lines), "utf-8")


def imported(tmp_path, image_ids, captions=None):
    """Import own.jsonl, which is written if there are captions."""
    if captions is not None:
        save(tmp_path / "own.jsonl", captions)
    import_captions(tmp_path / "file.jsonl", tmp_path / "own.jsonl", image_ids)
    return read_captions(tmp_path / "file.jsonl", image_ids)


def test_captions_of_another_program(tmp_path):
    """In any order, with blank lines, a byte-order mark and line ends of Windows."""
    file, ids = tmp_path / "own.jsonl", ["dog_01", "emu_01", "cat_01"]
    captions = CAPTIONS | {"emu_01": "a " * 76, "ant_01": "An ant."}
    save(file, captions)
    text = file.read_text("utf-8").replace("\n", "\r\n") + "\r\n \n"
    file.write_bytes(text.encode("utf-8-sig"))
    table = imported(tmp_path, ids)
    assert table["image_id"].tolist() == ids
    assert table["caption"].tolist() == [captions[name].strip() for name in ids]
    assert table["model"].tolist() == [str(file)] * 3
    assert table["truncated"].tolist() == [False, True, False]


def test_missing_files_and_captions(tmp_path):
    with pytest.raises(FileNotFoundError, match="own.jsonl is missing. Expected what"):
        imported(tmp_path, [])
    with pytest.raises(FileNotFoundError, match="Run notebook 02"):
        read_captions(tmp_path / "own.jsonl", [])
    message = "no caption for 2 of 3 images: cat_02, emu_01. Did you mean 'cat_01'"
    with pytest.raises(ValueError, match=message):
        imported(tmp_path, ["cat_01", "cat_02", "emu_01"], CAPTIONS)


@pytest.mark.parametrize("text", ["  ", "!!!!"])
def test_captions_without_words(tmp_path, text):
    captions = CAPTIONS | {"dog_01": text}
    with pytest.raises(ValueError, match="without a letter for 1 of 2 images: dog_01"):
        imported(tmp_path, list(captions), captions)
    save(tmp_path / "file.jsonl", dict.fromkeys(CAPTIONS, text))
    with pytest.raises(ValueError, match="file.jsonl gives only captions without"):
        read_captions(tmp_path / "file.jsonl", list(CAPTIONS))
    save(tmp_path / "file.jsonl", {"cat_01": "一只猫。", "dog_01": text})
    assert len(read_captions(tmp_path / "file.jsonl", list(CAPTIONS))) == 2


GOOD = '{"image_id": "cat_01", "caption": "a"}'
DAMAGED = "Line 2 of .*own.jsonl is damaged.*Expected image_id and caption"
TWO = "more than one caption for 1 images: cat_01"
CP1252 = "own.jsonl is damaged.*Save it as UTF-8"


@pytest.mark.parametrize(
    ("line", "message"),
    [(line, DAMAGED) for line in ("a cat", "null", "3", "[1]", "[" * 100_000)]
    + [(GOOD[:end], DAMAGED) for end in (-1, -5, -8)]
    + [(GOOD.replace('"a"', text), DAMAGED) for text in ("null", '["a"]', '"\\ud800"')]
    + [('{"image_id": 3, "caption": "a"}', DAMAGED), ('{"image_id": "a"}', DAMAGED)]
    + [(GOOD, TWO), (GOOD.replace("a", "é"), CP1252)],
)
def test_damaged_lines(tmp_path, line, message):
    (tmp_path / "own.jsonl").write_bytes(f"{GOOD}\n{line}\n".encode("cp1252"))
    with pytest.raises(ValueError, match=message):
        imported(tmp_path, ["cat_01"])


@pytest.fixture
def copied(tmp_path, saved):
    """Return a copy of the captioner's folder to damage."""
    return Path(shutil.copytree(saved, tmp_path / "captioner"))


def test_weights_that_are_not_whole(copied):
    """Transformers itself would fill in random weights with a warning."""
    file = copied / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("norm.weight"))
    for changed, message in (
        (tensors | {name: tensors[name] * torch.nan}, "are NaN"),
        (tensors | {"model.layers.9.norm.weight": torch.ones(1)}, "has fewer layers"),
        ({k: t for k, t in tensors.items() if k != name}, f"missing, such as .*{name}"),
    ):
        save_file(changed, file, {"format": "pt"})
        with pytest.raises(ValueError, match=message):
            load(copied)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("content", [b"", b"half", b"[" * 100_000, None])
def test_damaged_files_of_a_captioner(copied, file, content):
    cut = (copied / file).read_bytes()[:-100]
    (copied / file).write_bytes(cut if content is None else content)
    with pytest.raises((ValueError, OSError), match=str(copied)):
        load(copied)


@pytest.mark.parametrize(
    ("kind", "model", "message"),
    [
        *(
            ("qwen2-vl", m, f"no folder .*{m}")
            for m in ("data/none/x", "qwen", "./none")
        ),
        ("file", "a", "'qwen2-vl', 'minigpt4'; got 'file'"),
        ("minigpt", "a", "Did you mean 'minigpt4'"),
    ],
)
def test_captioner_that_is_nowhere_or_no_model(kind, model, message):
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        load(model, kind=kind)
