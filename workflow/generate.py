"""Generate responses to own images: ``./run_all.sh generate PHOTO [PHOTO ...]``.

Executes notebook 11 and names what it made: the responses as an MNE file, and the
notebook as a page with pictures, scalp maps, and captions where the model reads them.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

from papermill import PapermillExecutionError

from paperlib.config import load_config
from paperlib.generation import find_pictures
from paperlib.paths import ROOT, job_name, template
from paperlib.validation import check_option
from workflow.run_notebook import execute

NOTEBOOK = "11_own_images"


def generate(images: list[Path], config: str, keys: dict) -> list[Path]:
    """Generate responses with the models of a run; returns the files made."""
    for image in images:
        if not image.exists():
            raise FileNotFoundError(f"There is no image {image}.")
    pictures = [str(picture.resolve()) for picture in find_pictures(images)]
    if odd := [p for p in pictures if p.encode(errors="ignore").decode() != p]:
        raise ValueError(
            f"The name {odd[0]!r} is not UTF-8. Rename the file or folder."
        )
    cfg = load_config(config)
    keys = {"dataset": next(iter(cfg.datasets)), "run": cfg.evaluation.reference} | keys
    cfg = cfg.of(dataset=keys["dataset"], run=keys["run"])
    keys.setdefault("subject", cfg.training_subject)
    check_option("subject", keys["subject"], cfg.subjects)
    known = keys | {"config": cfg.name, "seed": cfg.seeds[0], "images": pictures}
    if not (ROOT / template("checkpoint", **known)).is_dir():
        record = template("record", job=job_name("04_train", **keys), config=cfg.name)
        raise FileNotFoundError(
            f"No model of {keys['run']} is trained on {keys['dataset']}, subject "
            f"{keys['subject']}. Train it with\n"
            f"  ./run_all.sh --config {config} {record}"
        )
    known["job"] = job_name(NOTEBOOK, **known)
    paths = [ROOT / template(alias, **known) for alias in ("own_images", "notebook")]
    os.chdir(ROOT)
    parameters = keys | {"config": config, "images": pictures}
    execute(f"notebooks/{NOTEBOOK}.py", str(paths[1]), parameters)
    return [paths[0], paths[1].with_suffix(".html")]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="./run_all.sh generate")
    parser.add_argument("images", nargs="+", type=Path, help="files or folders")
    parser.add_argument("--config", default="mini", help="default: mini")
    parser.add_argument("--dataset", help="default: the first of the configuration")
    parser.add_argument("--run", help="default: the configuration's reference")
    parser.add_argument("--subject", type=int, help="default: the training subject")
    options = vars(parser.parse_args())
    asked = {key: options.pop(key) for key in ("images", "config")}
    keys = {key: value for key, value in options.items() if value is not None}
    logging.basicConfig(level=logging.WARNING)
    try:
        print(*generate(**asked, keys=keys), sep="\n")
    except (OSError, ValueError, PapermillExecutionError) as error:
        end = "\n".join(str(error).splitlines()[-20:])
        sys.exit(f"run_all.sh generate: {end}")
