"""Check whether what a configuration needs from elsewhere is there, and fetch it.

python -m workflow.data check --config paper
python -m workflow.data fetch --config paper --dataset things-eeg2 --subjects 1,3

Recordings and images come from OSF and OpenNeuro (config/downloads.yml), weights from
the Hugging Face hub and torchvision.
"""

import argparse
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from getpass import GetPassWarning, getpass
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree

import requests
import yaml

from paperlib.config import Config, load_config
from paperlib.paths import ROOT, template
from paperlib.validation import check_option
from workflow.downloads import download, unpack
from workflow.jobs import ablated_runs, compared_runs, recording_files

SOURCES = ROOT / "config/downloads.yml"
WEIGHTS = "weights"  # group of what belongs to no data set
PROJECTION = (  # of MiniGPT-4
    "put pretrained_minigpt4_7b.pth at {}; the README of "
    "github.com/Vision-CAIR/MiniGPT-4 leads to it (Google Drive)"
)
SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]  # of a model on the hub
MAGIC = {  # how files begin; THINGS-EEG2 also has .npy files that are bare pickles
    **{".npy": (b"\x93NUMPY", b"\x80"), ".fif": (b"\x00\x00\x00\x64",)},
    **{".meg4": (b"MEG4",), ".res4": (b"MEG4",)},
}


@dataclass
class Item:
    """Something that a configuration needs, here a file that only the reader can bring.

    Subclasses fetch themselves.
    """

    group: str  # data set, or WEIGHTS
    name: str
    path: Path
    source: dict | str | None = None  # its entry of downloads.yml
    subject: int | None = None  # participant
    by_hand: str | None = None  # what the reader must do

    def problem(self) -> str | None:
        """Say what is missing or wrong; None if nothing is."""
        return first_problem({self.path: None})

    def fetch(self) -> None:
        """Download what is missing or wrong."""


class _Images(Item):
    def problem(self):
        from paperlib.stimuli.images import read_images

        try:
            read_images(self.path)
        except FileNotFoundError as error:
            return f"missing: {error}"
        except ValueError as error:
            return str(error)

    def fetch(self):
        _download_files(self.path, self.source["lists"])
        if not self.problem():
            return
        password = None
        if place := self.source.get("password"):  # asked for before the download
            password = ask_password(f"Password of the images ({place}): ")
        for top, url in self.source["archives"].items():
            archive, place = self.path / f"{top}.zip", partial(self._place, top)
            _download_archive(url, archive, place, password)

    def _place(self, top, member):
        parts = Path(member).parts
        if top not in parts or ".." in parts or parts[-1].startswith("._"):
            return None
        return self.path.joinpath(*parts[parts.index(top) :])


class _EEG(Item):
    def files(self):
        kind = "raw" if self.path.parent.name == "raw_data" else "published"
        return [Path(file) for file in recording_files(kind, self.path, self.subject)]

    def problem(self):
        files = [file for file in self.files() if not file.is_dir()]  # of BIDS
        return first_problem(dict.fromkeys(files))

    def fetch(self):
        url = self.source  # for all, or for each
        if isinstance(url, dict):
            check_option("participant", self.subject, list(url))
            url = url[self.subject]
        url = url.format(subject=f"{self.subject:02d}")
        _download_archive(url, self.path.with_suffix(".zip"), self._place)

    def _place(self, member):
        """Recognize a file by the end of its path, but not in another's folder."""
        owner = re.search(r"sub-0*(\d+)", member)
        if "__MACOSX" in member or (owner and int(owner[1]) != self.subject):
            return None
        ends = {file: f"/{file.relative_to(self.path)}" for file in self.files()}
        return next((f for f, end in ends.items() if f"/{member}".endswith(end)), None)


class _Epochs(Item):
    def files(self):
        files = self.source["files"].items()
        return {name: f for name, f in files if f"_P{self.subject}-" in name}

    def problem(self):
        first = map(Path, recording_files("epochs", self.path, self.subject))
        sizes = {self.path / name: f["size"] for name, f in self.files().items()}
        return first_problem(dict.fromkeys(first) | sizes)

    def fetch(self):
        folder = self.source["folder"]
        files = {n: f | {"url": f"{folder}/{n}"} for n, f in self.files().items()}
        _download_files(self.path, files)


class _Runs(Item):
    """Raw CTF runs as BIDS: 64 GB."""

    def problem(self):
        folder = self.path / f"sub-BIGMEG{self.subject}"
        runs = sorted(folder.glob("ses-*/meg/*_task-main_run-*_meg.ds"))
        if (missing := self.source["runs"] - len(runs)) > 0:
            return f"missing: {missing} of {self.source['runs']} runs in {folder}"
        sizes = {run / f"{run.stem}.meg4": self.source["size"] for run in runs}
        sizes |= {run / f"{run.stem}.res4": None for run in runs}
        tables = [Path(str(run).replace("_meg.ds", "_events.tsv")) for run in runs]
        return first_problem(sizes | dict.fromkeys(tables))

    def fetch(self):
        bucket, dataset = self.source["bucket"], self.source["dataset"]
        for key, size in list_bucket(bucket, f"{dataset}/sub-BIGMEG{self.subject}/"):
            source = {"url": f"{bucket}/{key}", "size": size}
            _download_files(self.path, {key.removeprefix(f"{dataset}/"): source})


@dataclass
class _Model(Item):
    """A model of transformers; of a sharded one, only the shards that are read."""

    revision: str | None = None
    prefixes: tuple[str, ...] = ("",)  # with which the names of its tensors begin

    def problem(self):
        folder = ROOT / self.source
        try:
            if not folder.is_dir():
                folder = self._snapshot(SMALL_FILES, local_files_only=True)
        except (FileNotFoundError, ValueError) as error:  # not in the cache, no name
            return f"missing: {self.source} ({str(error).splitlines()[0]})"
        files = [Path(folder, name) for name in self._files(folder)]
        return first_problem(dict.fromkeys(files))

    def fetch(self):
        folder = self._snapshot(SMALL_FILES)
        verify(self.source, self._snapshot(self._files(folder)))

    def _snapshot(self, patterns, **options):
        from huggingface_hub import snapshot_download

        options |= {"revision": self.revision, "allow_patterns": patterns}
        return Path(snapshot_download(self.source, **options))

    def _files(self, folder):
        from paperlib.stimuli.weights import find_shards

        try:
            shards = list(find_shards(str(folder), self.prefixes, revision=None))
        except FileNotFoundError:  # in one piece
            names = ["model.safetensors", "pytorch_model.bin"]
            shards = [n for n in names if Path(folder, n).exists()] or names[:1]
        return ["config.json", *shards]


class _Clip(_Model):
    """A CLIP model of open_clip, ``source`` its place on the hub."""

    def problem(self):
        from huggingface_hub import try_to_load_from_cache
        from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

        hub, _, file = self.source.rpartition("/")
        names = [file] if file else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
        found = [try_to_load_from_cache(hub, n, revision=self.revision) for n in names]
        return None if any(isinstance(f, str) for f in found) else f"missing: {hub}"

    def fetch(self):
        from open_clip.pretrained import download_pretrained_from_hf

        hub, _, file = self.source.rpartition("/")
        path = download_pretrained_from_hf(hub, file or None, revision=self.revision)
        verify(hub, Path(path).parent)


class _AlexNet(Item):
    def fetch(self):
        from torchvision.models import AlexNet_Weights

        AlexNet_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True)


def list_items(cfg: Config) -> Iterator[Item]:
    """List what a configuration needs: recordings, images and weights."""
    sources = yaml.safe_load(SOURCES.read_text(encoding="utf-8"))
    kinds = {"raw": _EEG, "published": _EEG, "epochs": _Epochs, "raw_ctf": _Runs}
    for dataset, entry in cfg.datasets.items():
        known = {"data_root": cfg.data_root, "dataset": dataset}
        kind, source = entry.preprocessing.source, sources[dataset]
        folder = ROOT / template("images", **known)
        yield _Images(dataset, "images", folder, source["images"])
        for subject in entry.subjects:
            alias = "raw" if kind.startswith("raw") else "published"
            folder = ROOT / template(alias, subject=subject, **known)
            name = f"participant {subject}, {kind}"
            yield kinds[kind](dataset, name, folder, source[kind], subject)
    yield from list_weights(cfg)


def list_weights(cfg: Config) -> Iterator[Item]:
    """List the models that runs and CLIP Scores need."""
    import open_clip
    import torch
    from torchvision.models import AlexNet_Weights

    from paperlib.stimuli.minigpt4 import BLIP2_PARTS

    encoders = [cfg.embedding, *cfg.clip_score.encoders]
    for model, tag, revision in {(e.model, e.pretrained, e.revision) for e in encoders}:
        place = open_clip.get_pretrained_cfg(model, tag or "").get("hf_hub")
        name = f"CLIP {model} ({tag})"
        if model.startswith("local-dir:"):
            folder = ROOT / model.removeprefix("local-dir:")
            yield Item(WEIGHTS, name, folder / "open_clip_config.json")
        elif place:
            yield _Clip(WEIGHTS, name, ROOT, place, revision=revision)
        else:
            raise ValueError(f"{name} is not on the Hugging Face hub.")
    datasets = [cfg.of(dataset=dataset) for dataset in cfg.datasets]
    runs = {run for d in datasets for run in (*compared_runs(d), *ablated_runs(d))}
    conditions = [d.of(run=run).conditioning for d in datasets for run in runs]
    if "alexnet" in {condition.network for condition in conditions}:
        folder = Path(torch.hub.get_dir(), "checkpoints")
        file = folder / Path(AlexNet_Weights.IMAGENET1K_V1.url).name
        yield _AlexNet(WEIGHTS, "AlexNet", file)
    needed = {*cfg.clip_score.captioners, *(c.captioner for c in conditions)}
    captioners = cfg.captioning.captioners.items()
    for name, entry in ((n, e) for n, e in captioners if n in needed):
        models = []
        if entry.kind == "file":
            advice = f"write {entry.file}: see workflow/visualglm.py"
            yield Item(WEIGHTS, f"{name}: captions", ROOT / entry.file, by_hand=advice)
        elif entry.kind == "qwen2-vl":
            models = [(entry.model, entry.revision, ("",))]
        else:
            models = [(entry.vision, entry.vision_revision, BLIP2_PARTS)]
            models += [(entry.language, entry.language_revision, ("",))]
            file, advice = ROOT / entry.projection, PROJECTION.format(entry.projection)
            yield Item(WEIGHTS, f"{name}: projection", file, by_hand=advice)
        for model, *how in models:
            yield _Model(WEIGHTS, f"{name}: {model}", ROOT, model, None, None, *how)


def first_problem(sizes: dict[Path, int | None]) -> str | None:
    """Say which file is missing, has another size than known, or begins wrongly."""
    for path, size in sizes.items():
        if not path.is_file():
            return f"missing: {path}"
        n_bytes = path.stat().st_size
        if size not in (None, n_bytes):
            return f"{path} has {n_bytes:,} bytes; expected {size:,}"
        with path.open("rb") as file:
            if not n_bytes or not file.read(8).startswith(MAGIC.get(path.suffix, b"")):
                return f"{path} is empty or damaged"
    return None


def list_bucket(url: str, prefix: str) -> Iterator[tuple[str, int]]:
    """List names and sizes of the files of a public S3 bucket."""
    query = {"list-type": "2", "prefix": prefix}
    while query:
        answer = requests.get(url, params=query, timeout=60)
        answer.raise_for_status()
        listed = ElementTree.fromstring(answer.content)
        for entry in listed.iterfind("{*}Contents"):
            yield entry.findtext("{*}Key"), int(entry.findtext("{*}Size"))
        token = listed.findtext("{*}NextContinuationToken")
        query = token and query | {"continuation-token": token}


def verify(model: str, folder: Path) -> None:
    """Compare a snapshot with the hub's checksums; its client compares sizes only."""
    from huggingface_hub import HfApi

    report = HfApi().verify_repo_checksums(model, revision=folder.name)
    wrong = [mismatch["path"] for mismatch in report.mismatches]
    for name in wrong:
        (folder / name).resolve().unlink()
        (folder / name).unlink(missing_ok=True)
    if wrong:
        problem = "had another checksum than on the hub and was removed; fetch it again"
        raise ValueError(f"{', '.join(wrong)} of {model} {problem}.")


def ask_password(prompt: str) -> bytes:
    """Ask for a password on the terminal, without showing it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", GetPassWarning)
        try:
            return getpass(prompt).encode()
        except (GetPassWarning, EOFError) as error:
            problem = "A password must be typed, and there is no terminal to ask on."
            raise OSError(problem) from error


def _download_files(folder: Path, sources: dict[str, dict]) -> None:
    for name, source in sources.items():
        if first_problem({folder / name: source.get("size")}):
            (folder / name).unlink(missing_ok=True)
            download(path=folder / name, **source)


def _download_archive(url, archive, place, password=None) -> None:
    download(url, archive, copies=2)
    unpack(archive, place, password)
    archive.unlink()


def check(items: list[Item], config: str) -> int:
    """Print the state of every item; 1 if something is missing or wrong."""
    faulty = []
    for group, members in groupby(items, lambda item: item.group):
        print(f"\n{group}")
        for item in members:
            problem = item.problem() or ""
            state = "missing" if problem.startswith("missing") else "wrong"
            print(f"  {state if problem else 'ok':8} {item.name}", flush=True)
            if problem:
                print(f"           {problem.replace(f'{ROOT}/', '')}")
                faulty.append(item)
    if not faulty:
        print(f"\nEverything that {config} needs is there.")
        return 0
    print(f"\nTo get it: ./run_all.sh fetch --config {config}")
    _print_by_hand(faulty)
    print("Or leave participants out: `subjects` of a data set in the configuration.")
    return 1


def fetch(items: list[Item]) -> int:
    """Get what is missing; 1 if something is left for the reader."""
    missing = [item for item in items if item.problem()]
    for item in missing:
        if not item.by_hand:
            print(f"{item.group}: {item.name}", flush=True)
            item.fetch()
            if problem := item.problem():
                raise ValueError(f"Everything was downloaded, and yet: {problem}.")
    left = _print_by_hand(missing)
    print("" if left else "Everything asked for is there.")
    return int(left)


def _print_by_hand(items: list[Item]) -> bool:
    left = [f"By hand, {item.name}: {item.by_hand}" for item in items if item.by_hand]
    print(*left, sep="\n")
    return bool(left)


def select(items: list[Item], group: str | None, subjects: str | None) -> list[Item]:
    """Keep the items of a group, and of some participants, as in "1,3"."""
    chosen = [item for item in items if group in (None, item.group)]
    if not subjects:
        return chosen
    numbers = subjects.split(",")
    for number in numbers:
        known = [str(item.subject) for item in chosen if item.subject]
        check_option("--subjects", number, known)
    return [i for i in chosen if i.subject is None or str(i.subject) in numbers]


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="./run_all.sh", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("check", "fetch"):
        commands.add_parser(command).add_argument("--config", required=True)
    fetching = commands.choices["fetch"]
    fetching.add_argument("--dataset", help="only this data set")
    fetching.add_argument("--weights", action="store_true", help="only weights")
    fetching.add_argument("--subjects", help="only these participants, such as 1,3")
    options = parser.parse_args(arguments)
    try:
        cfg = load_config(options.config)
        if cfg.simulated:
            print(f"{options.config} makes its own data; nothing to fetch.")
            return 0
        items = list(list_items(cfg))
        if options.command == "check":
            return check(items, options.config)
        if options.subjects and not options.dataset:
            parser.error("--subjects needs --dataset: each data set numbers its own")
        if options.dataset:
            check_option("--dataset", options.dataset, tuple(cfg.datasets))
        group = WEIGHTS if options.weights else options.dataset
        return fetch(select(items, group, options.subjects))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
