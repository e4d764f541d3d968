import ast
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from paperlib.paths import ROOT
from paperlib.stimuli.captions import import_captions, read_captions
from workflow.visualglm import VisualGLM, list_images, main, write_captions

SCRIPT = ROOT / "workflow/visualglm.py"
NAMES = ["cat_01", "cat_02", "dog_01", "emu_01"]
SETTINGS = {"model": "m", "prompt": "What?", "seed": None}


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for name in NAMES:
        path = folder / name.split("_")[0] / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    return folder


def describe(path):
    return f"A {path.parent.name}, “{path.stem}”."


def test_command_line_writes_what_the_file_captioner_imports(tmp_path, images):
    asked = []

    def load(name, **how):
        asked.append((name, how))
        return describe

    output = tmp_path / "captions/visualglm.jsonl"
    options = ["--prompt", "What?", "--max-new-tokens", "9", "--seed", "4"]
    main([str(images), str(output), *options], load=load)
    how = {"revision": None, "prompt": "What?", "max_new_tokens": 9, "seed": 4}
    assert asked == [("THUDM/visualglm-6b", how)]
    import_captions(tmp_path / "imported.jsonl", output, NAMES[::-1])
    imported = read_captions(tmp_path / "imported.jsonl", NAMES)
    assert imported["caption"].tolist() == [f"A {n[:3]}, “{n}”." for n in NAMES]
    first = json.loads(output.read_text("utf-8").splitlines()[0])
    named = {"image_id": "cat_01", "caption": "A cat, “cat_01”."}
    assert first == named | {"model": "THUDM/visualglm-6b"} | how


@pytest.mark.parametrize("n_images", [0, 1, 3])
def test_killed_run_ends_with_the_file_of_an_unbroken_one(tmp_path, images, n_images):
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    found, seen, left = list_images(images), [], [KeyboardInterrupt]
    write_captions(whole, found, describe, SETTINGS)

    def dying(path):
        if len(seen) == n_images and left:
            raise left.pop()
        seen.append(path.stem)
        return describe(path)

    with pytest.raises(KeyboardInterrupt):
        write_captions(broken, found, dying, SETTINGS)
    partial = tmp_path / "broken.partial.jsonl"
    with partial.open("a") as file:
        file.write('{"image_id": "em')
    assert not broken.exists()
    write_captions(broken, found, dying, SETTINGS)
    assert seen == NAMES  # each once
    assert broken.read_bytes() == whole.read_bytes()
    assert not partial.exists()


def test_an_unfinished_file_of_another_run_starts_over(tmp_path, images):
    path, found, asked = tmp_path / "own.jsonl", list_images(images), []

    def counting(path):
        asked.append(path)
        return describe(path)

    for settings in (SETTINGS, SETTINGS | {"seed": 1}):
        write_captions(path, found, counting, settings)
        path.rename(tmp_path / "own.partial.jsonl")
    del found["cat_01"]
    write_captions(path, found, counting, settings)
    assert len(asked) == 4 + 4 + 3
    assert [json.loads(line)["image_id"] for line in path.open()] == NAMES[1:]


def test_images_need_stems_of_their_own(tmp_path, images):
    assert list(list_images(images)) == NAMES
    (images / "notes.txt").write_text("no image")
    Image.new("RGB", (8, 8)).save(images / "cat_02.png")
    with pytest.raises(ValueError, match=r"cat_02\.jpg and .*cat_02\.png share one"):
        list_images(images)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="found none"):
        list_images(tmp_path / "none")


def fake_model(calls):
    """Return what answers with the likeliest and the second of its tokens."""

    def generate(*, input_ids, logits_processor, **options):
        ids, draw = input_ids[0].tolist(), torch.rand(()).item()
        calls.append({"ids": ids, "draw": draw, **options})
        scores = torch.zeros(1, 130_528)
        scores[0, [70_000, 64, 65]] = torch.tensor([9.0, 5.0, 4.0])  # Chinese, @, A
        for processor in logits_processor:
            scores = processor(input_ids, scores)
        return torch.cat([input_ids, scores.topk(2).indices], dim=1)

    return SimpleNamespace(
        process_image=lambda text: (None, None, torch.full((1, 3, 2, 2), len(text))),
        image_length=3,
        device=torch.device("cpu"),
        dtype=torch.float16,
        generate=generate,
    )


def fake_tokenizer():
    return SimpleNamespace(
        encode=lambda text, add_special_tokens: [ord(letter) for letter in text],
        decode=lambda ids: "".join(chr(i) for i in ids) + "\n",
        unk_token_id=0,
        build_inputs_with_special_tokens=lambda ids: [*ids, 130_001, 130_004],
    )


def test_question_and_answer_are_english():
    calls = []
    options = {"prompt": "What?", "max_new_tokens": 7}
    captioner = VisualGLM(fake_model(calls), fake_tokenizer(), seed=None, **options)
    assert captioner(Path("cat.jpg")) == "@A"
    call = calls[0]
    text = "".join(chr(i) if i else "_" for i in call["ids"][:-2])
    assert text == "<img>___</img>Q:What?\nA:"
    assert call["ids"][-2:] == [130_001, 130_004]
    assert call["pre_image_length"] == len("<img>")
    assert call["images"].dtype == torch.float16
    assert (call["max_new_tokens"], call["do_sample"]) == (7, False)


def test_draws_depend_on_the_seed_only():
    calls, options = [], {"prompt": "What?", "max_new_tokens": 7}
    for seed in (1, 1, 2):
        with torch.random.fork_rng():
            model = VisualGLM(fake_model(calls), fake_tokenizer(), seed=seed, **options)
            model(Path("cat.jpg"))
    assert all(call["do_sample"] for call in calls)
    assert calls[0]["draw"] == calls[1]["draw"] != calls[2]["draw"]


def test_script_stands_alone():
    tree = ast.parse(SCRIPT.read_text("utf-8"), feature_version=(3, 9))
    imported = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not any(name.startswith("paperlib") for name in imported)
    done = subprocess.run(
        [sys.executable, "-I", str(SCRIPT), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--max-new-tokens" in done.stdout
