"""Every reader of files from outside, with valid files, for benchmarks/malformed.py.

Each function writes valid files to a folder and returns what reads them, from a folder
to arrays and texts.
"""

import json
import pickle
import shutil
import sys
from functools import partial
from zipfile import ZipFile

import numpy as np
import pandas as pd
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from minithings.world import World
from paperlib.atomic import write_text
from paperlib.checkpoints import Checkpoint
from paperlib.config import load_config
from paperlib.paths import ROOT
from paperlib.recordings import signals, things_eeg2, things_meg, things_meg_raw
from paperlib.stimuli import captions, clip, images, tokens, weights
from paperlib.validation import check_finite
from workflow.data import _Images
from workflow.downloads import unpack

sys.path.insert(0, str(ROOT / "tests"))
import meg_participant
from tiny_checkpoint import make_checkpoint, make_recipe
from tiny_clip import ARCHITECTURE, write_clip

IDS = ["cat_01", "dog_02", "sun_03", "sea_04"]
rng = np.random.default_rng


def own_signals(folder):
    options = {"ch_names": ["Fz", "Cz", "Oz"], "sfreq": 20.0, "tmin": 0, "unit": "V"}
    arrays = map(rng(0).standard_normal, ((6, 2, 3, 20), (3, 4, 3, 20)))
    signals.save_signals(folder, *arrays, **options)
    return lambda folder: vars(signals.load_signals(folder))


def raw_eeg(folder):
    def read(folder):
        raw = things_eeg2.load_raw_session(folder / "raw_eeg_training.npy")
        events = things_eeg2.stimulus_events(raw)[0]
        return {"data": raw.get_data(), "names": raw.ch_names, "events": events}

    data = rng(0).normal(scale=1e-5, size=(64, 60))
    data[-1] = 0
    data[-1, [5, 20, 40]] = 3, 99999, 7
    content = {"raw_eeg_data": data, "ch_types": ["eeg"] * 63 + ["stim"]}
    content |= {"ch_names": [*things_eeg2.RAW_CHANNELS, "stim"], "sfreq": 1000}
    np.save(folder / "raw_eeg_training.npy", content)
    return read


def published_eeg(folder):
    def read(folder):
        values = {}
        for kind in ("pickle", "torch"):
            loaded = things_eeg2.load_published(folder / kind, "training")
            check_finite(str(loaded.path), loaded.data)  # as the preprocessing does
            values |= {f"{kind} {key}": value for key, value in vars(loaded).items()}
            del values[f"{kind} path"]
        return values

    data, times = rng(0).standard_normal((3, 2, 63, 9)), np.arange(9) / 250
    common = {"ch_names": list(things_eeg2.NICE_CHANNELS)}
    for kind in ("pickle", "torch"):
        (folder / kind).mkdir()
    content = common | {"preprocessed_eeg_data": data, "times": times}
    file = folder / "pickle/preprocessed_eeg_training.npy"
    file.write_bytes(pickle.dumps(content))
    content = common | {"eeg": torch.tensor(data).half(), "times": torch.tensor(times)}
    torch.save(content, folder / "torch/train.pt")
    return read


def meg(folder):
    def read(folder):
        options = {"subject": 1, "concepts": "all_concepts"}
        things_meg.import_epochs(folder, folder / "signals", **options)
        names = things_meg.list_images(folder).to_csv()
        return vars(signals.load_signals(folder / "signals")) | {"names": names}

    table = pd.read_csv(meg_participant.EXCERPT)
    trials = meg_participant.trial_table(table, rng(0))
    meg_participant.write_trial_table(folder, trials)
    path = folder / "derivatives/preprocessed/preprocessed_P1-epo.fif"
    meg_participant.write_epochs(path, meg_participant.image_numbers(trials))
    return read


def raw_meg_events(folder):
    rows = [("exp", 10, 4), ("test", 60, 8), ("catch", 110, None), ("exp", 160, 5)]
    table = pd.DataFrame(rows, columns=["trial_type", "sample", "value"])
    table.to_csv(folder / "run_events.tsv", sep="\t", index=False)
    return lambda f: dict(enumerate(things_meg_raw.read_events(f / "run_events.tsv")))


def image_list(folder):
    content = {}
    for partition, prefix in (("training", "train"), ("test", "test")):
        files = [f"{prefix}1.png", f"{prefix}2.png"]
        content[f"{prefix}_img_concepts"] = ["00001_cat", "00002_dog"]
        content[f"{prefix}_img_files"] = files
        for concept, file in zip(("00001_cat", "00002_dog"), files, strict=True):
            path = folder / f"{partition}_images" / concept / file
            path.parent.mkdir(parents=True)
            path.touch()
    np.save(folder / "image_metadata.npy", content)
    return lambda f: {"list": images.read_images(f).to_csv().replace(str(f), "")}


def pictures(folder):
    values = rng(0).integers(0, 255, (9, 12, 3), np.uint8)
    for kind in images.FORMATS:
        Image.fromarray(values).save(folder / f"x.{kind.lower()}", kind)
    return lambda f: {p.name: np.asarray(images.open_image(p)) for p in f.iterdir()}


def token_files(folder):
    def read(folder):
        opened = tokens.Tokens(folder / "t.npy")
        return {"values": opened[IDS], "settings": opened.made_with}

    values = rng(0).standard_normal((4, 3, 5))
    options = {"encode": lambda _: values, "batch_size": 4, "made_with": {"model": "x"}}
    tokens.write_tokens(folder / "t.npy", dict.fromkeys(IDS, "x"), **options)
    return read


def caption_files(folder):
    def read(folder):
        copy = folder / "new/c.jsonl"
        captions.import_captions(copy, folder / "captions.jsonl", IDS)
        table = captions.read_captions(copy, IDS)
        return {"captions": table[["image_id", "caption"]].to_csv()}

    lines = [{"image_id": name, "caption": f"A {name[:3]}, $5."} for name in IDS]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_text(folder / "captions.jsonl", text)
    return read


def configurations(folder):
    def read(folder):
        cfg = load_config(folder / "small.yaml")
        cfg.check_runs()
        world = World.of(cfg)  # as notebook 00 does
        return {"values": cfg.model_dump_json(), "world": world.model_dump_json()}

    shutil.copy(ROOT / "tests/small.yaml", folder)
    return read


def checkpoints(folder):
    def read(folder):
        loaded = Checkpoint.from_pretrained(folder, device="cpu")
        state = loaded.model.tensors() | loaded.model.coordinates.tensors()
        return state | {"recipe": loaded.recipe.model_dump_json()}

    make_checkpoint(make_recipe()).save_pretrained(folder)
    (folder / "README.md").unlink()
    return read


def clip_folders(folder):
    def read(folder):
        return clip.load_clip(f"local-dir:{folder}", None, device="cpu")

    write_clip(folder)
    return lambda folder: read(folder).model.state_dict()


def clip_files(folder):
    def read(folder):
        return clip.load_clip("tiny", str(folder / "x.pt"), device="cpu")

    config = folder / "tiny.json"
    write_text(config, json.dumps(ARCHITECTURE))
    clip.open_clip.add_model_config(config)
    file = write_clip(folder) / "open_clip_model.safetensors"
    torch.save(load_file(file), folder / "x.pt")
    for path in (config, file, folder / "open_clip_config.json"):
        path.unlink()
    return lambda folder: read(folder).model.state_dict()


def language_models(folder):
    def read(folder):
        kind, options = transformers.LlamaForCausalLM, {"dtype": torch.float32}
        model = weights.load_model(kind, str(folder), revision=None, **options)
        return model.state_dict()

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "vocab_size": 11}
    config = transformers.LlamaConfig(**sizes)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return read


def parts_of_models(folder):
    def read(folder):
        file, linear = folder / "projection.pth", torch.nn.Linear
        parts = {"llama_proj.": linear(3, 2), "a.": linear(3, 1), "b.": linear(2, 1)}
        tensors = weights.read_torch_file(file, "model")  # as for MiniGPT-4
        tensors |= weights.read_tensors(str(folder), ("a.", "b."), revision=None)
        for prefix, part in parts.items():
            weights.fill(part, tensors, prefix, file)
        return {k + n: v for k, p in parts.items() for n, v in p.state_dict().items()}

    def layer(name, inputs, outputs):
        weight, bias = torch.ones(outputs, inputs), torch.ones(outputs)
        return {f"{name}.weight": weight, f"{name}.bias": bias}

    torch.save({"model": layer("llama_proj", 3, 2)}, folder / "projection.pth")
    shards = {"1.safetensors": layer("a", 3, 1), "2.bin": layer("b", 2, 1)}
    places = {name: file for file, shard in shards.items() for name in shard}
    index = json.dumps({"weight_map": places})
    write_text(folder / "model.safetensors.index.json", index)
    save_file(shards["1.safetensors"], folder / "1.safetensors")
    torch.save(shards["2.bin"], folder / "2.bin")
    return read


def archives(folder):
    def read(folder):
        place = partial(_Images("things", "images", folder / "out")._place, "images")
        unpack(folder / "images.zip", place)
        files = [path for path in (folder / "out").rglob("*") if path.is_file()]
        return {str(p.relative_to(folder)): str(p.read_bytes()) for p in files}

    with ZipFile(folder / "images.zip", "w") as archive:
        for name in IDS:
            archive.writestr(f"images/{name[:3]}/{name}.jpg", name * 20)
    return read


READERS = (
    *(own_signals, raw_eeg, published_eeg, meg, raw_meg_events, image_list, pictures),
    *(token_files, caption_files, configurations, checkpoints, clip_folders),
    *(clip_files, language_models, parts_of_models, archives),
)
