"""Every path template of the project, once.

The Snakefile asks ``template("alias", ...)`` and notebooks ask their
:class:`paperlib.notebook.Notebook`, so producer, consumer and driver cannot disagree.
Keys in braces are identity keys.
"""

import hashlib
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_RUN = "results/{config}/{dataset}/runs/{run}/sub-{subject}"
TEMPLATES = {
    # public files, downloaded or simulated
    "data": "{data_root}",
    "images": "{data_root}/{dataset}/images",
    "image_list": "{data_root}/{dataset}/images/image_metadata.npy",
    "raw": "{data_root}/{dataset}/raw_data/sub-{subject}",
    "published": "{data_root}/{dataset}/preprocessed_data/sub-{subject}",
    # intermediate results
    "signals": "results/{config}/{dataset}/signals/sub-{subject}",
    "captions": "results/{config}/{dataset}/captions/{captioner}.jsonl",
    "tokens": "results/{config}/{dataset}/tokens/{tokens}.npy",
    "clip_scores": "results/{config}/{dataset}/clip_scores/{captioner}.csv",
    "run": _RUN,
    "checkpoint": f"{_RUN}/seed-{{seed}}/checkpoint",
    "training": f"{_RUN}/seed-{{seed}}/training",
    "samples": f"{_RUN}/seed-{{seed}}/samples.npy",
    "posterior_mean": f"{_RUN}/seed-{{seed}}/posterior_mean.npy",
    "sampling": f"{_RUN}/seed-{{seed}}/sampling.json",
    "own_images": (
        "results/{config}/{dataset}/own_images/"
        "own_images_{run}_sub-{subject}_{images}-epo.fif"
    ),
    # what a reader looks at
    "figure": "figures/{config}/{name}",
    "table": "tables/{config}/{name}",
    "published_table": "tables/published/{name}.csv",
    "page": "results/{config}/paper.html",
    # what happened
    "record": "results/{config}/records/{job}.json",
    "notebook": "results/{config}/notebooks/{job}.ipynb",
    "log": "results/{config}/logs/{job}.txt",
}

# What a data set has elsewhere: THINGS-MEG is published as one BIDS folder.
OTHER_TEMPLATES = {
    "things-meg": {
        "images": "{data_root}/{dataset}",
        "image_list": "{data_root}/{dataset}/sourcedata/sample_attributes_P1.csv",
        "raw": "{data_root}/{dataset}",
        "published": "{data_root}/{dataset}/derivatives/preprocessed",
    },
}

# Keys that tell the executions of a notebook apart, in the order of their names.
IDENTITY = {
    "00_minithings": (),
    "01_preprocess": ("dataset", "subject"),
    "02_caption": ("dataset", "captioner"),
    "03_embed": ("dataset", "tokens"),
    "04_train": ("dataset", "run", "subject"),
    "05_sample": ("dataset", "run", "subject"),
    "06_evaluate": ("dataset",),
    "07_ablations": ("dataset",),
    "08_clip_score": (),
    "09_topographies": ("dataset",),
    "10_schematics": (),
    "11_own_images": ("dataset", "run", "subject", "images"),
    "12_paper": (),
}
NOTEBOOKS = tuple(IDENTITY)

# Numbers under which the paper shows a data set.
MAIN_TABLES = {"things-eeg2": "tab01_things_eeg2", "things-meg": "tab02_things_meg"}
ABLATION_TABLES = {
    "things-eeg2": {
        "components": "tab03_things_eeg2",
        "captioners": "tab05_things_eeg2",
        "conditioning": "first_version_things_eeg2",
    },
    "things-meg": {
        "components": "tab04_things_meg",
        "captioners": "tab06_things_meg",
        "conditioning": "first_version_things_meg",
    },
}
REGION_FIGURES = {"things-eeg2": "fig06_things_eeg2", "things-meg": "fig06_things_meg"}
TOPOGRAPHIES = {"things-eeg2": "fig03_things_eeg2", "things-meg": "fig07_things_meg"}
SCHEMATICS = ("fig01_framework", "fig02_architecture")

# ... and the captioners of the CLIP Score, in the order of the configuration.
CLIP_SCORE_TABLES = ("fig05_clip_score", "tab07_clip_score", "tab08_clip_score")
CLIP_SCORE_FIGURES = (
    "fig04_caption",
    "fig05_clip_score",
    "fig08_clip_score",
    "captioners_clip_score",
)


def job_name(notebook: str, **keys: str | int) -> str:
    """Name one execution of a notebook, such as ``04_train_things-eeg2_ours_v_sub-01``.

    Keys that do not belong to its identity are ignored.
    """
    prefix = {"subject": "sub-"}
    parts = [prefix.get(k, "") + _as_text(k, keys[k]) for k in IDENTITY[notebook]]
    return "_".join([notebook, *parts])


def template(alias: str, **known: str | int) -> str:
    """Return the path template ``alias`` relative to the repository.

    Keys given are filled in; the others stay in braces, as Snakemake's wildcards.
    """
    if alias not in TEMPLATES:
        raise ValueError(
            f"No path is called {alias!r}; there are {', '.join(map(repr, TEMPLATES))}."
        )
    text = OTHER_TEMPLATES.get(known.get("dataset"), {}).get(alias, TEMPLATES[alias])
    for key, value in known.items():
        text = text.replace("{" + key + "}", _as_text(key, value))
    return text


def _as_text(key: str, value: object) -> str:
    """Write subjects with two digits, images as a word of their own, all else as is."""
    if key == "subject" and str(value).isdigit():
        return f"{int(value):02d}"
    if key != "images":
        return str(value)
    text = value if isinstance(value, str) else " ".join(map(str, value))
    if not text:
        return "test-images"
    word = re.sub(r"\W+", "-", text).strip("-")[:50]
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
    return f"{word}-{digest[:8]}"
