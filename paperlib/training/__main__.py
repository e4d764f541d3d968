"""Train one run: ``python -m paperlib.training RUN.yaml``.

The file names what notebook 04 has as parameters: config, dataset, subject and run,
and optionally seed and overrides. On several GPUs or nodes:
``accelerate launch -m paperlib.training RUN.yaml``.
"""

import argparse
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import yaml

from paperlib.config import load_settings
from paperlib.paths import locate
from paperlib.provenance import start_record
from paperlib.runs import (
    discard_states,
    is_first_process,
    make_recipe,
    open_training_data,
    train_run,
)
from paperlib.validation import did_you_mean


@dataclass(frozen=True)
class Parameters:
    """What a file of a run may hold; the parameters of notebook 04."""

    config: str
    dataset: str
    subject: int
    run: str
    seed: int = 0
    overrides: str = ""


def read_parameters(path: Path) -> Parameters:
    """Read the file of a run.

    Parameters
    ----------
    path
        YAML, a mapping.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a key is unknown or missing, or a value of the wrong type.
    """
    given = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    known = {field.name: field for field in fields(Parameters)}
    if not isinstance(given, dict):
        raise ValueError(f"{path} must map {', '.join(known)} to values; got {given!r}")
    for name, value in given.items():
        if name not in known:
            hint = did_you_mean(name, known)
            raise ValueError(
                f"{path}: unknown key {name!r}; known are {', '.join(known)}.{hint}"
            )
        if type(value) is not known[name].type:
            raise ValueError(
                f"{path}: {name} must be of type {known[name].type.__name__}; got "
                f"{value!r} ({type(value).__name__})."
            )
    try:
        return Parameters(**given)
    except TypeError as error:  # names what is missing
        raise ValueError(f"{path}: {error}") from error


def main(arguments: list[str] | None = None) -> int:
    """Train a run; the result is the exit status.

    Parameters
    ----------
    arguments
        Words of the command line; None for those of this process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m paperlib.training", description=__doc__.splitlines()[0]
    )
    parser.add_argument("run", type=Path, help="YAML file")
    try:
        _train(asdict(read_parameters(parser.parse_args(arguments).run)))
    except (OSError, ValueError, RuntimeError, ImportError, yaml.YAMLError) as error:
        print(f"{error}", file=sys.stderr)
        return 1
    return 0


def _train(parameters: dict) -> None:
    """Take the steps of notebook 04."""
    keys = {name: parameters[name] for name in ("dataset", "subject", "run", "seed")}
    entries = {name: keys[name] for name in ("dataset", "run")}
    config, overrides = parameters["config"], parameters["overrides"]
    settings = load_settings("04_train", config, overrides, **entries)
    where = locate(settings, **keys)
    record = start_record(settings, **parameters)
    data = open_training_data(settings, where, seed=keys["seed"])
    recipe = make_recipe(settings, data, keys)
    train_run(recipe, data, settings=settings, where=where)
    if is_first_process():
        outputs = [where("checkpoint"), where("training")]
        record.finish(where("record"), inputs=data.inputs, outputs=outputs)
        discard_states(where("training"))


if __name__ == "__main__":
    sys.exit(main())
