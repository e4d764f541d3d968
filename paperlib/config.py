"""Load a configuration, check it against the schema, hand out sections.

``config/<name>.yaml`` holds every value once. A notebook gets only the sections listed
for it in :data:`SECTIONS`; the Snakefile declares the same sections as that notebook's
parameters, less what decides nothing (:func:`deciding_settings`), so a changed value
re-runs exactly what can depend on it.
"""

import json
from collections.abc import Iterable
from copy import deepcopy
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from typing import TextIO

import yaml
from jsonschema_rs import Draft202012Validator, ValidationError

from paperlib.paths import ROOT
from paperlib.validation import check_distinct, check_option, did_you_mean

SECTIONS = {
    "00_minithings": ("seed", "minithings"),
    "01_preprocess": ("preprocessing",),
    "02_caption": ("captioning",),
    "03_embed": ("embedding",),
    "04_train": (
        *("simulated", "channels", "conditioning", "tokens"),
        *("model", "diffusion", "training"),
    ),
    "05_sample": ("seed", "conditioning", "sampling"),
    "06_evaluate": (
        *("seed", "simulated", "subjects", "training_subject", "seeds"),
        *("runs", "comparison", "evaluation"),
    ),
    "07_ablations": ("seed", "simulated", "runs", "ablations", "evaluation"),
    "08_clip_score": ("seed", "simulated", "dataset_subjects", "clip_score"),
    "09_topographies": ("simulated", "subjects", "training_subject", "topographies"),
    "10_schematics": (
        *("seed", "simulated", "datasets", "captioning", "embedding", "conditioning"),
        *("methods", "diffusion", "sampling", "runs"),
    ),
    "11_own_images": ("seed", "simulated", "sampling", "topographies"),
}

ABLATIONS = ("components", "captioners", "conditioning", "regions")
"""Groups of runs, the last of each the full model from which the others are told."""

OF_SPEED = ("processes", "workers", "checkpointing", "compile", "tensorboard")
OF_SPEED += ("save_every",)
"""Values of ``training`` that change how fast it is and nothing that comes out."""

_OF_MACHINE = ("device", "resources")
_BATCHED = ("captioning", "embedding", "clip_score", "sampling")
"""Sections whose ``batch_size`` says how much is computed at once, and no more."""


def load_config(config: str, overrides: str = "") -> dict:
    """Read and validate a whole configuration.

    Parameters
    ----------
    config
        Name of a file in ``config/`` without its ending, or a path to a YAML file.
    overrides
        YAML that replaces single values, such as ``"sampling: {steps: 20}"``.

    Returns
    -------
    dict

    Raises
    ------
    FileNotFoundError
        If there is no such configuration.
    ValueError
        If a key is unknown or a value has the wrong type or range; every problem is
        listed with its place.
    """
    path = _config_path(config)
    with path.open(encoding="utf-8") as stream:
        settings = _parse(stream)
    if overrides:
        settings = merge(settings, _parse_overrides(overrides))
    if problems := list(_validator().iter_errors(settings)):
        lines = "\n".join(f"  - {_explain(problem)}" for problem in problems)
        raise ValueError(f"{path.name} is not a valid configuration:\n{lines}")
    _check_names(settings)
    return settings


def load_settings(
    notebook: str,
    config: str,
    overrides: str = "",
    *,
    dataset: str | None = None,
    run: str | None = None,
) -> dict:
    """Return what ``notebook`` may read of a configuration.

    Parameters
    ----------
    notebook
        A key of :data:`SECTIONS`.
    config, overrides
        As for :func:`load_config`.
    dataset, run
        Entries of ``datasets`` and ``runs``: their values replace those of the
        sections, the run's last.

    Returns
    -------
    dict
        The sections, beside ``notebook``, ``name``, ``data_root`` and ``device``;
        ``dataset_subjects`` are the subjects of each of ``datasets``.
    """
    check_option("notebook", notebook, tuple(SECTIONS))
    settings = load_config(config, overrides)
    entries = settings["datasets"].items()
    settings["dataset_subjects"] = {name: entry["subjects"] for name, entry in entries}
    settings = specialize(settings, dataset=dataset, run=run)
    if run is not None:
        settings["model"] = model_options(settings, run)
        settings["tokens"] = token_options(settings)
    wanted = ("name", "data_root", "device", *SECTIONS[notebook])
    if missing := [key for key in wanted if key not in settings]:
        raise ValueError(
            f"Notebook {notebook} reads {', '.join(missing)} of a data set or run: "
            f"name dataset, one of {', '.join(settings['datasets'])}, and run if it "
            "has one."
        )
    return {"notebook": notebook} | {key: settings[key] for key in wanted}


def deciding_settings(
    notebook: str,
    config: str,
    *,
    dataset: str | None = None,
    run: str | None = None,
    captioner: str | None = None,
    tokens: str | None = None,
) -> dict:
    """Return those values a notebook may read that decide what it makes.

    Parameters
    ----------
    notebook, config, dataset, run
        As for :func:`load_settings`.
    captioner, tokens
        The captioner, or the kind of tokens, that the execution is for, if it is for
        one.

    Returns
    -------
    dict
        As of :func:`load_settings`, without the values that say where and how fast
        something runs, wherever they stand; of ``runs`` only those that the notebook's
        ``comparison`` or ``ablations`` name, if it has one of these; of captioners and
        networks only those that the execution is for.
    """
    settings = load_settings(notebook, config, dataset=dataset, run=run)
    if named := _named_runs(settings):
        settings["runs"] = _select(settings["runs"], named)
    if captioner is not None:
        captioning = settings["captioning"]
        chosen = _select(captioning["captioners"], [captioner])
        settings["captioning"] = captioning | {"captioners": chosen}
    if tokens is not None:
        embedding = settings["embedding"]
        chosen = _select(embedding["networks"], [tokens])
        settings["embedding"] = embedding | {"networks": chosen}
    return without_speed(settings)


def without_speed(settings: dict, *, batched: bool = False) -> dict:
    """Leave out where and how fast something runs, and sections of nothing else.

    Parameters
    ----------
    settings
        A configuration, a part of it, or a recipe.
    batched
        Whether ``batch_size`` is such a value, as it is within some sections.
    """
    of_speed = (*_OF_MACHINE, *OF_SPEED, *(["batch_size"] if batched else []))
    kept = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            value = without_speed(value, batched=batched or key in _BATCHED)
        if key not in of_speed and value != {}:
            kept[key] = value
    return kept


def specialize(settings: dict, *, dataset: str | None, run: str | None) -> dict:
    """Return a configuration as it holds for a data set and a run, if they are given.

    Parameters
    ----------
    settings
        From :func:`load_config`.
    dataset, run
        As for :func:`load_settings`.
    """
    for kind, entry in (("datasets", dataset), ("runs", run)):
        if entry is not None:
            check_option(kind.removesuffix("s"), entry, tuple(settings[kind]))
            settings = merge(settings, settings[kind][entry])
    return settings


def merge(base: dict, changes: dict) -> dict:
    """Return ``base`` with single values replaced, recursively; neither is changed."""
    merged = deepcopy(base)
    for key, value in changes.items():
        both_sections = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both_sections else deepcopy(value)
    return merged


def model_options(settings: dict, run: str) -> dict:
    """Return a run's method with its options, those of the run replaced."""
    entry = settings["runs"][run]
    options = merge(settings["methods"][entry["method"]], entry.get("model", {}))
    return {"method": entry["method"], **options}


def token_options(settings: dict) -> dict:
    """Return how the tokens of a run's condition are made, and nothing of others.

    Parameters
    ----------
    settings
        A configuration, the values of the run in place.

    Returns
    -------
    dict
        Sections ``embedding`` and ``captioning``; instead of all networks and
        captioners they hold the entries of the run's ``network`` and ``captioner``.
        What is not used is None.
    """
    chosen = settings["conditioning"]
    embedding, captioning = dict(settings["embedding"]), dict(settings["captioning"])
    network = embedding.pop("networks").get(chosen["network"])
    captioning["captioner"] = captioning.pop("captioners").get(chosen["captioner"])
    sees_clip = chosen["image"] or chosen["captioner"]
    return {
        "embedding": (embedding if sees_clip else {}) | {"network": network},
        "captioning": captioning if chosen["captioner"] else None,
    }


def first_run(settings: dict, method: str) -> str:
    """Name the first run of a method.

    Raises
    ------
    ValueError
        If the configuration has none.
    """
    for name, run in settings["runs"].items():
        if run["method"] == method:
            return name
    raise ValueError(
        f"No run has the method {method!r}; add one to the configuration's runs."
    )


def token_sources(conditioning: dict) -> list[str]:
    """Name the token files of a condition, images first.

    Parameters
    ----------
    conditioning
        With ``image`` (bool), ``captioner`` and ``network`` (names or None).
    """
    sources = ["image"] if conditioning["image"] else []
    named = (conditioning["captioner"], conditioning["network"])
    return sources + [name for name in named if name]


def _named_runs(settings: dict) -> list[str]:
    """List the runs that a notebook's rows and groups of ablations name."""
    groups = settings.get("ablations", {})
    named = [row["run"] for row in settings.get("comparison", [])]
    return named + [run for group in ABLATIONS for run in groups.get(group, [])]


def _select(entries: dict, names: Iterable[str]) -> dict:
    return {name: entries[name] for name in names if name in entries}


def _check_names(settings: dict) -> None:
    """Stop at names that nothing has, and at labels that two runs have."""
    for row in settings["comparison"]:
        check_option("comparison.run", row["run"], tuple(settings["runs"]))
    for group in ABLATIONS:
        for run in settings["ablations"][group]:
            check_option(f"ablations.{group}", run, tuple(settings["runs"]))
    for name, entry in settings["datasets"].items():
        place = f"datasets.{name}.training_subject"
        check_option(place, entry["training_subject"], tuple(entry["subjects"]))
        ablated = merge(settings["ablations"], entry.get("ablations", {}))
        for subject in ablated["subjects"]:
            check_option("ablations.subjects", subject, tuple(entry["subjects"]))
    captioners = tuple(settings["captioning"]["captioners"])
    for name in settings["clip_score"]["captioners"]:
        check_option("clip_score.captioners", name, captioners)
    for name, run in settings["runs"].items():
        chosen = merge(settings["conditioning"], run.get("conditioning", {}))
        place = f"runs.{name}.conditioning"
        known = (None, *captioners)
        check_option(f"{place}.captioner", chosen["captioner"], known)
        known = (None, *settings["embedding"]["networks"])
        check_option(f"{place}.network", chosen["network"], known)
    _check_regions(settings)
    labels = [run["label"] for run in settings["runs"].values()]
    check_distinct("Runs", "labels", labels)
    answering = dict.fromkeys(
        row["run"]
        for row in settings["comparison"]
        if not (row.get("cross_subject") or row.get("other_image"))
    )
    reference = settings["evaluation"]["reference"]
    check_option("evaluation.reference", reference, tuple(answering))


def _check_regions(settings: dict) -> None:
    """Stop at a group of regions that is not one run without each, then the whole."""
    listed = settings["ablations"]["regions"]
    removed = [settings["runs"][run].get("channels", {}) for run in listed]
    *regions, whole = [entry.get("without") for entry in removed]
    if None in regions or whole is not None:
        raise ValueError(
            "ablations.regions must name runs that lack a region each, and last the "
            f"model of all channels; got {', '.join(listed)}."
        )


def _config_path(config: str) -> Path:
    named = ROOT / "config" / f"{config}.yaml"
    path = named if named.is_file() else ROOT / config
    if not path.is_file():
        names = sorted(p.stem for p in (ROOT / "config").glob("*.yaml"))
        names.remove("schema")
        raise FileNotFoundError(
            f"There is no configuration {config!r}: expected one of {names} or a path "
            f"to a YAML file.{did_you_mean(config, names)}"
        )
    return path


def _parse(text: str | TextIO) -> object:
    """Read YAML as the types of JSON, all that a schema knows: keys, dates are text."""
    return json.loads(json.dumps(yaml.load(text, yaml.CSafeLoader), default=str))


def _parse_overrides(overrides: str) -> dict:
    changes = _parse(overrides)
    if not isinstance(changes, dict):
        raise ValueError(
            'overrides must be YAML of the form "section: {key: value}"; '
            f"got {overrides!r}"
        )
    return changes


@cache
def _schema() -> dict:
    with (ROOT / "config/schema.yaml").open(encoding="utf-8") as stream:
        return _parse(stream)


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(_schema())


def _explain(problem: ValidationError) -> str:
    """Say where a schema error is, with the nearest known key or option."""
    place = ".".join(str(part) for part in problem.instance_path) or "the top level"
    if problem.kind.name == "propertyNames":
        problem = problem.kind.error  # about a key in this place
    kind, given = problem.kind, problem.instance
    if kind.name == "enum":
        hint = did_you_mean(given, kind.options)
        return f"{place}: {given!r} is not one of {kind.options}.{hint}"
    if kind.name != "additionalProperties":
        return f"{place}: {problem.message}".replace('"', "'")
    known = reduce(getitem, problem.schema_path[:-1], _schema())["properties"]
    return "; ".join(
        f"{place}: unknown key {key!r}.{did_you_mean(key, known)}"
        for key in kind.unexpected
    )
