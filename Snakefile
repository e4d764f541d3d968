"""The paper as a graph: one rule for each notebook, no analysis.

Every rule executes a notebook with papermill. Its inputs are the notebook, the modules
of paperlib that it imports, and data; its params are the values of the configuration
that decide what it makes, so that a changed value re-runs exactly what depends on it.
Every rule writes a run record under results/, which is never committed: a fresh clone
therefore runs everything, although figures and tables are there. The executed notebook
is a log: Snakemake keeps logs of failed jobs.
"""

import sys
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import yaml
from snakemake.logging import logger
from snakemake.utils import min_version

sys.path.insert(0, workflow.basedir)
from paperlib.config import (
    ABLATIONS,
    deciding_settings,
    first_run,
    load_config,
    load_settings,
    specialize,
    token_sources,
)
from paperlib.paths import (
    ABLATION_TABLES,
    CLIP_SCORE_FIGURES,
    CLIP_SCORE_TABLES,
    IDENTITY,
    MAIN_TABLES,
    REGION_FIGURES,
    SCHEMATICS,
    TOPOGRAPHIES,
    job_name,
    template,
)
from paperlib.plan import Plan
from paperlib.provenance import library_modules
from paperlib.recordings.sources import source_files
from paperlib.results import select_results
from paperlib.runs_left import RunsLeft

min_version("9.0")

CONFIG = config.get("config", "mini")
SETTINGS = load_config(CONFIG)
NAME = SETTINGS["name"]
DATASETS = SETTINGS["datasets"]
SIMULATED = "minithings" in SETTINGS
OWN_IMAGES = {  # the run that the others are compared with, on one participant
    "dataset": next(iter(DATASETS)),
    "run": SETTINGS["evaluation"]["reference"],
    "subject": next(iter(DATASETS.values()))["training_subject"],
    "seed": next(iter(DATASETS.values()))["seeds"][0],
    "images": "",
}
CAPTIONERS = dict(zip(SETTINGS["clip_score"]["captioners"], CLIP_SCORE_TABLES))
TABLES = ("", "_supplement", "_across", "_paired", "_budgets")  # of a data set
MANIFEST = f"{SETTINGS['data_root']}/manifest.json"
ONLY = str(config.get("only", ""))  # how the names of the wanted results begin

wildcard_constraints:
    dataset="|".join(DATASETS),
    run="|".join(SETTINGS["runs"]),
    subject=r"\d\d+",
    seed=r"\d+",
    captioner="[a-z0-9-]+",
    tokens="[a-z0-9-]+",


def path(alias, **keys):
    """Fill the configuration into a path template; other keys stay wildcards."""
    return template(alias, config=NAME, data_root=SETTINGS["data_root"], **keys)


def job(notebook, **fixed):
    """Name a notebook's executions, with wildcards for the keys that are not fixed."""
    return job_name(notebook, **{key: "{" + key + "}" for key in IDENTITY[notebook]} | fixed)


def record(notebook, **fixed):
    """Name the run record of a notebook's executions."""
    return path("record", job=job(notebook, **fixed))


def logs(notebook, **fixed):
    """Name the executed notebook and what it printed."""
    executed = job(notebook, **fixed)
    return {
        "notebook": path("notebook", job=executed),
        "text": path("log", job=executed),
    }


def library(notebook):
    """List the modules of paperlib that decide what a notebook makes.

    Notebooks 00 to 05 make data: how they draw their figures does not rerun them.
    """
    modules = library_modules(Path(workflow.basedir, f"notebooks/{notebook}.py"))
    if notebook < "06":
        return [m for m in modules if not m.startswith("paperlib/reporting/")]
    return modules


def identity(**fixed):
    """Return a params function: the YAML that papermill injects."""

    def parameters(wildcards):
        keys = {k: int(v) if k in ("subject", "seed") else v for k, v in wildcards.items()}
        return yaml.safe_dump({"config": CONFIG, **keys, **fixed})

    return parameters


def settings(notebook, **fixed):
    """Return a params function: the values that decide what a notebook makes."""

    def values(wildcards):
        keys = {**wildcards, **fixed}
        about = ("dataset", "run", "captioner", "tokens")
        entries = {key: keys.get(key) for key in about}
        return yaml.safe_dump(deciding_settings(notebook, CONFIG, **entries))

    return values


@cache
def shares(notebook, dataset, run):
    """Return the cores, memory (GB), hours and GPUs that an execution may use."""
    return specialize(SETTINGS, dataset=dataset, run=run)["resources"][notebook]


def share(notebook, name, unit=1, **fixed):
    """Return a function: how much of one of them, in a unit of Snakemake's."""

    def amount(wildcards):
        keys = {**wildcards, **fixed}
        return round(shares(notebook, keys.get("dataset"), keys.get("run"))[name] * unit)

    return amount


def needs(notebook, **fixed):
    """Return the resources functions of a notebook's executions."""
    memory = share(notebook, "memory", 1000, **fixed)
    return {
        "mem_mb": lambda wildcards, attempt: attempt * memory(wildcards),
        "runtime": share(notebook, "hours", 60, **fixed),  # min
        "gpu": share(notebook, "gpu", **fixed),
    }


def compared(alias, dataset, file=""):
    """List one file of every training that the comparison needs, for a data set."""
    entry = DATASETS[dataset]
    runs = [row["run"] for row in SETTINGS["comparison"]]
    return trained(alias, dataset, runs, entry["subjects"], entry["seeds"], file)


def ablated(alias, dataset):
    """List one file of every training that the ablations need, for a data set."""
    chosen = load_settings("07_ablations", CONFIG, dataset=dataset)["ablations"]
    runs = [run for group in ABLATIONS for run in chosen[group]]
    return trained(alias, dataset, runs, chosen["subjects"], chosen["seeds"])


def trained(alias, dataset, runs, subjects, seeds, file=""):
    """List one file of every training."""
    return [
        path(alias, dataset=dataset, run=run, subject=subject, seed=seed) + file
        for run in dict.fromkeys(runs)
        for subject in subjects
        for seed in seeds
    ]


def signals(dataset):
    """List the preprocessed signals of every participant of a data set."""
    return [
        path("signals", dataset=dataset, subject=subject) + "/info.json"
        for subject in DATASETS[dataset]["subjects"]
    ]


def public(files):
    """Leave out missing files in a dry run, which shows every run without any data."""
    return [file for file in files if not workflow.dryrun or Path(file).exists()]


def raw_recordings(wildcards):
    """Name what notebook 01 reads: the simulated world, or the recordings."""
    if SIMULATED:
        return [MANIFEST]
    entry = load_settings("01_preprocess", CONFIG, dataset=wildcards.dataset)
    where = partial(path, dataset=wildcards.dataset, subject=wildcards.subject)
    subject = int(wildcards.subject)
    try:
        return public(source_files(entry["preprocessing"], where, subject=subject))
    except FileNotFoundError:  # runs of raw_ctf are listed as far as they are there
        if workflow.dryrun:
            return []
        raise


def image_list(dataset):
    """Name what tells the images of a data set."""
    return [MANIFEST] if SIMULATED else public([path("image_list", dataset=dataset)])


def images(wildcards):
    """Name what notebook 03 reads, and 02 beside a captioner's own files."""
    return image_list(wildcards.dataset)


def captioner_files(wildcards):
    """Name captions that were written elsewhere, or weights that stand in a file."""
    entry = SETTINGS["captioning"]["captioners"][wildcards.captioner]
    return public([entry[key] for key in ("file", "projection") if key in entry])


def captioner_gpu(wildcards):
    """Return the GPUs of a captioner: none where its captions are only read."""
    entry = SETTINGS["captioning"]["captioners"][wildcards.captioner]
    return 0 if entry["kind"] == "file" else share("02_caption", "gpu")(wildcards)


def embedded(wildcards):
    """Name what is turned into tokens: images, or images with captions."""
    if wildcards.tokens in SETTINGS["captioning"]["captioners"]:
        captions = path("captions", dataset=wildcards.dataset, captioner=wildcards.tokens)
        return [*images(wildcards), captions]
    return images(wildcards)


def condition_tokens(wildcards):
    """List the token files that condition a run."""
    keys = {"dataset": wildcards.dataset, "run": wildcards.run}
    chosen = load_settings("04_train", CONFIG, **keys)["conditioning"]
    return [
        path("tokens", dataset=wildcards.dataset, tokens=source)
        for source in token_sources(chosen)
    ]


def drawn(wildcards):
    """List what the schematics show: images, tokens and signals of every data set."""
    files = []
    for dataset, entry in DATASETS.items():
        keys = SimpleNamespace(dataset=dataset, run=first_run(SETTINGS, "dit"))
        files += [*images(keys), *condition_tokens(keys)]
        recorded = path("signals", dataset=dataset, subject=entry["training_subject"])
        files.append(recorded + "/info.json")
    return files


def files(*, tables=(), figures=()):
    """Name the three files of every table and the two of every figure."""
    return [
        *[path("table", name=f"{n}.{e}") for n in tables for e in ("csv", "md", "tex")],
        *[path("figure", name=f"{n}.{e}") for n in figures for e in ("png", "pdf")],
    ]


RESULTS = {  # by the run that makes them
    job("08_clip_score"): files(tables=CAPTIONERS.values(), figures=CLIP_SCORE_FIGURES),
    job("10_schematics"): files(figures=SCHEMATICS),
    job("11_own_images", **OWN_IMAGES): [path("own_images", **OWN_IMAGES)],
}
for dataset in DATASETS:
    scores, maps = MAIN_TABLES[dataset], TOPOGRAPHIES[dataset]
    regions, parts = REGION_FIGURES[dataset], ABLATION_TABLES[dataset].values()
    RESULTS |= {
        job("06_evaluate", dataset=dataset): files(
            tables=[scores + ending for ending in TABLES], figures=[scores + "_scores"]
        ),
        job("07_ablations", dataset=dataset): files(
            tables=[name + end for name in (*parts, regions) for end in ("", "_paired")],
            figures=[regions],
        ),
        job("09_topographies", dataset=dataset): files(
            figures=[maps, maps + "_all_subjects"]
        ),
    }
WANTED = select_results(RESULTS, ONLY)

RECORDS = Path(path("record", job="")).parent
ELSEWHERE = Path(f"benchmarks/run_times_{NAME}.json")
logger.addHandler(RunsLeft(RECORDS, elsewhere=ELSEWHERE))
logger.addHandler(Plan(SETTINGS, records=RECORDS, elsewhere=ELSEWHERE))  # of a dry run

EXECUTE = (  # without looking on the hub for what `check` has found in its cache
    "HF_HUB_OFFLINE=1 OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads} "
    "OPENBLAS_NUM_THREADS={threads} "
    "python paperlib/execution.py {input.notebook} {log.notebook} {params.identity:q} "
    "--gpu {resources.gpu} > {log.text} 2>&1 || {{ tail -n 25 {log.text}; exit 1; }}"
)


rule all:
    """Every table and figure of the configuration, or those that are wanted."""
    input:
        WANTED.values(),
        [path("record", job=executed) for executed in WANTED],
    message:
        "all: every wanted table and figure"


if SIMULATED:

    rule minithings:
        """Make the embedded world: stimuli, participants, small encoders."""
        input:
            notebook="notebooks/00_minithings.py",
            library=library("00_minithings"),
        output:
            manifest=MANIFEST,
            record=record("00_minithings"),
        log:
            notebook=path("notebook", job="00_minithings"),
            text=path("log", job="00_minithings"),
        params:
            identity=identity(),
            settings=settings("00_minithings"),
        threads: share("00_minithings", "threads")
        resources:
            **needs("00_minithings"),
        message:
            "00: making the embedded world"
        shell:
            EXECUTE


rule preprocess:
    """Cut, resample and whiten the trials of one participant."""
    input:
        raw_recordings,
        notebook="notebooks/01_preprocess.py",
        library=library("01_preprocess"),
    output:
        training=path("signals") + "/training.npy",
        test=path("signals") + "/test.npy",
        info=path("signals") + "/info.json",
        record=record("01_preprocess"),
    log:
        **logs("01_preprocess"),
    params:
        identity=identity(),
        settings=settings("01_preprocess"),
    threads: share("01_preprocess", "threads")
    resources:
        **needs("01_preprocess"),
    message:
        "01: preprocessing {wildcards.dataset}, participant {wildcards.subject}"
    shell:
        EXECUTE


rule caption:
    """Describe every image in words."""
    input:
        images,
        captioner_files,
        notebook="notebooks/02_caption.py",
        library=library("02_caption"),
    output:
        captions=path("captions"),
        record=record("02_caption"),
    log:
        **logs("02_caption"),
    params:
        identity=identity(),
        settings=settings("02_caption"),
    threads: share("02_caption", "threads")
    resources:
        **needs("02_caption") | {"gpu": captioner_gpu},
    message:
        "02: captions of {wildcards.dataset} by {wildcards.captioner}"
    shell:
        EXECUTE


rule embed:
    """Turn images, or captions, into CLIP tokens, or images into CNN features."""
    input:
        embedded,
        notebook="notebooks/03_embed.py",
        library=library("03_embed"),
    output:
        tokens=path("tokens"),
        record=record("03_embed"),
    log:
        **logs("03_embed"),
    params:
        identity=identity(),
        settings=settings("03_embed"),
    threads: share("03_embed", "threads")
    resources:
        **needs("03_embed"),
    message:
        "03: tokens of {wildcards.dataset}, {wildcards.tokens}"
    shell:
        EXECUTE


rule train:
    """Train one model on one participant."""
    input:
        condition_tokens,
        signals=rules.preprocess.output.info,
        notebook="notebooks/04_train.py",
        library=library("04_train"),
    output:
        weights=path("checkpoint") + "/model.safetensors",
        recipe=path("checkpoint") + "/config.json",
        budget=path("training") + "/budget.json",
        record=record("04_train"),
    log:
        **logs("04_train"),
    params:
        identity=identity(),
        settings=settings("04_train"),
    threads: share("04_train", "threads")
    resources:
        **needs("04_train"),
    priority: 2 # before what waits for many of them
    message:
        "04: training {wildcards.run} on {wildcards.dataset}, "
        "participant {wildcards.subject}, seed {wildcards.seed}"
    shell:
        EXECUTE


rule sample:
    """Generate signals for the test images with one trained model."""
    input:
        condition_tokens,
        recipe=rules.train.output.recipe,
        notebook="notebooks/05_sample.py",
        library=library("05_sample"),
    output:
        samples=path("samples"),
        sampling=path("sampling"),
        record=record("05_sample"),
    log:
        **logs("05_sample"),
    params:
        identity=identity(),
        settings=settings("05_sample"),
    threads: share("05_sample", "threads")
    resources:
        **needs("05_sample"),
    priority: 2 # before what waits for many of them
    message:
        "05: sampling {wildcards.run} for {wildcards.dataset}, "
        "participant {wildcards.subject}, seed {wildcards.seed}"
    shell:
        EXECUTE


rule clip_score:
    """Compare images with their captions: Figures 4, 5 and 8, Tables 7 and 8."""
    input:
        lambda wildcards: [file for d in DATASETS for file in image_list(d)],
        [path("captions", dataset=d, captioner=c) for d in DATASETS for c in CAPTIONERS],
        [path("published_table", name=name) for name in CAPTIONERS.values()],
        notebook="notebooks/08_clip_score.py",
        library=library("08_clip_score"),
    output:
        [path("clip_scores", dataset=d, captioner=c) for d in DATASETS for c in CAPTIONERS],
        RESULTS[job("08_clip_score")],
        record=record("08_clip_score"),
    log:
        notebook=path("notebook", job="08_clip_score"),
        text=path("log", job="08_clip_score"),
    params:
        identity=identity(),
        settings=settings("08_clip_score"),
    threads: share("08_clip_score", "threads")
    resources:
        **needs("08_clip_score"),
    message:
        "08: CLIP Scores of all captions"
    shell:
        EXECUTE


for dataset in DATASETS:

    rule:
        """Score every method of a data set: Table 1 or 2."""
        name:
            f"evaluate_{dataset}"
        input:
            signals(dataset),
            compared("samples", dataset),
            compared("sampling", dataset),
            compared("training", dataset, "/budget.json"),
            compared("checkpoint", dataset, "/config.json"),
            published=path("published_table", name=MAIN_TABLES[dataset]),
            notebook="notebooks/06_evaluate.py",
            library=library("06_evaluate"),
        output:
            RESULTS[job("06_evaluate", dataset=dataset)],
            record=record("06_evaluate", dataset=dataset),
        log:
            **logs("06_evaluate", dataset=dataset),
        params:
            identity=identity(dataset=dataset),
            settings=settings("06_evaluate", dataset=dataset),
        threads: share("06_evaluate", "threads", dataset=dataset)
        resources:
            **needs("06_evaluate", dataset=dataset),
        priority: 1 # before 07, which takes half the time
        message:
            f"06: scoring every method on {dataset}"
        shell:
            EXECUTE

    rule:
        """Score a data set's models without one of their parts: Tables 3 to 6."""
        name:
            f"ablations_{dataset}"
        input:
            signals(dataset),
            ablated("samples", dataset),
            [path("published_table", name=n) for n in ABLATION_TABLES[dataset].values()],
            path("published_table", name=REGION_FIGURES[dataset]),
            notebook="notebooks/07_ablations.py",
            library=library("07_ablations"),
        output:
            RESULTS[job("07_ablations", dataset=dataset)],
            record=record("07_ablations", dataset=dataset),
        log:
            **logs("07_ablations", dataset=dataset),
        params:
            identity=identity(dataset=dataset),
            settings=settings("07_ablations", dataset=dataset),
        threads: share("07_ablations", "threads", dataset=dataset)
        resources:
            **needs("07_ablations", dataset=dataset),
        message:
            f"07: scoring the ablations of {dataset}"
        shell:
            EXECUTE

    rule:
        """Draw the scalp maps of a data set: Figure 3 or 7."""
        name:
            f"topographies_{dataset}"
        input:
            signals(dataset),
            notebook="notebooks/09_topographies.py",
            library=library("09_topographies"),
        output:
            RESULTS[job("09_topographies", dataset=dataset)],
            record=record("09_topographies", dataset=dataset),
        log:
            **logs("09_topographies", dataset=dataset),
        params:
            identity=identity(dataset=dataset),
            settings=settings("09_topographies", dataset=dataset),
        threads: share("09_topographies", "threads", dataset=dataset)
        resources:
            **needs("09_topographies", dataset=dataset),
        message:
            f"09: scalp maps of {dataset}"
        shell:
            EXECUTE


rule schematics:
    """Draw the framework and the network: Figures 1 and 2."""
    input:
        drawn,
        notebook="notebooks/10_schematics.py",
        library=library("10_schematics"),
    output:
        RESULTS[job("10_schematics")],
        record=record("10_schematics"),
    log:
        **logs("10_schematics"),
    params:
        identity=identity(),
        settings=settings("10_schematics"),
    threads: share("10_schematics", "threads")
    resources:
        **needs("10_schematics"),
    message:
        "10: schematics of framework and network"
    shell:
        EXECUTE


rule own_images:
    """Answer for images that no data set has; here, as an example, for test images."""
    input:
        lambda wildcards: image_list(OWN_IMAGES["dataset"]),
        path("checkpoint", **OWN_IMAGES) + "/config.json",
        notebook="notebooks/11_own_images.py",
        library=library("11_own_images"),
    output:
        RESULTS[job("11_own_images", **OWN_IMAGES)],
        record=record("11_own_images", **OWN_IMAGES),
    log:
        **logs("11_own_images", **OWN_IMAGES),
    params:
        identity=identity(**OWN_IMAGES),
        settings=settings("11_own_images", **OWN_IMAGES),
    threads: share("11_own_images", "threads", **OWN_IMAGES)
    resources:
        **needs("11_own_images", **OWN_IMAGES),
    message:
        "11: responses to images of one's own"
    shell:
        EXECUTE
