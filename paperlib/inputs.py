"""What a configuration needs from elsewhere, whether it is there, how it gets there.

Recordings, images and weights, participant by participant. ``./run_all.sh check`` and
``fetch`` ask here; the addresses are those of ``config/downloads.yml``.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
import yaml
from huggingface_hub.constants import HF_HUB_CACHE

from paperlib.config import ABLATIONS, load_config, load_settings, merge
from paperlib.paths import ROOT, locate
from paperlib.recordings.downloads import (
    RemoteFile,
    ask_password,
    check_space,
    disk_of,
    download,
    partial_path,
    unpack,
)
from paperlib.recordings.integrity import MISSING, Fault, find_fault
from paperlib.recordings.sources import source_files
from paperlib.recordings.things_meg import TRIAL_TABLE
from paperlib.stimuli.images import read_images
from paperlib.stimuli.minigpt4 import BLIP2_PARTS
from paperlib.stimuli.pretrained import (
    clip_fault,
    clip_source,
    cnn_fault,
    fetch_clip,
    fetch_cnn,
    fetch_model,
    model_fault,
)

WEIGHTS = "weights"
PASSWORD_PAGE = "osf.io/jum2f/files/52wrx"


@dataclass(frozen=True)
class Input:
    """Something that a configuration needs.

    Attributes
    ----------
    group : str
        Data set, or :data:`WEIGHTS`.
    name : str
    faults : callable
        Looks and returns what is wrong, one line each; nothing if all is well.
    fetch : callable or None
        Brings what is missing; None if only the reader can.
    by_hand : str
        How the reader can.
    subject : int or None
        Participant whose recordings these are.
    room : callable
        Returns estimates of the bytes still to come: of an archive, which is deleted
        once it is unpacked, and of what stays.
    cache : Path or None
        Where it goes, if not with the recordings.
    """

    group: str
    name: str
    faults: Callable[[], list[str]]
    fetch: Callable[[], None] | None = None
    by_hand: str = ""
    subject: int | None = None
    room: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0)
    cache: Path | None = None


def list_inputs(config: str) -> list[Input]:
    """List what a configuration needs.

    Parameters
    ----------
    config
        As for :func:`paperlib.config.load_config`; not of simulated recordings.
    """
    settings = load_config(config)
    inputs = []
    for dataset, entry in settings["datasets"].items():
        chosen = load_settings("01_preprocess", config, dataset=dataset)
        images, recordings = _MAKERS[dataset]
        where = partial(locate, chosen, dataset=dataset)
        inputs.append(images(where(subject=entry["subjects"][0])))
        inputs += [
            recordings(chosen["preprocessing"], where(subject=subject), subject)
            for subject in entry["subjects"]
        ]
    return inputs + _weights(settings)


def select_inputs(
    inputs: Sequence[Input],
    *,
    group: str | None = None,
    subjects: Sequence[int] | None = None,
) -> list[Input]:
    """Keep the inputs of one group, and of some participants.

    Parameters
    ----------
    inputs
        From :func:`list_inputs`.
    group
        Data set, or :data:`WEIGHTS`; None keeps all.
    subjects
        Numbers of participants; None keeps all.

    Raises
    ------
    ValueError
        If the configuration has no such participant.
    """
    kept = [item for item in inputs if group in (None, item.group)]
    known = {item.subject for item in kept} - {None}
    if unknown := set(subjects or ()) - known:
        raise ValueError(
            f"The configuration has no participant {min(unknown)}; it has "
            f"{', '.join(map(str, sorted(known)))}."
        )
    return [i for i in kept if subjects is None or i.subject in (None, *subjects)]


def fetch_inputs(
    inputs: Iterable[Input], folder: Path, *, check_room: Callable = check_space
) -> list[Input]:
    """Bring what is missing, one after the other.

    Parameters
    ----------
    inputs
        From :func:`select_inputs`.
    folder
        Where the recordings go, to look for free space before the first byte.
    check_room
        Stops if a folder has no room for so many bytes; asked once for each disk.

    Returns
    -------
    list of Input
        Those that only the reader can bring.

    Raises
    ------
    ValueError
        If something is not as it should be once it was brought.
    FileNotFoundError, OSError
        As `paperlib.recordings.downloads.download` and `unpack`.
    """
    wanted = [item for item in inputs if item.faults()]
    brought = [item for item in wanted if item.fetch]
    disks: dict[int, list[Input]] = {}
    for item in brought:
        disks.setdefault(disk_of(item.cache or folder), []).append(item)
    for items in disks.values():
        archives, files = zip(*(item.room() for item in items), strict=True)
        check_room(items[0].cache or folder, max(archives) + sum(files))
    for item in brought:
        print(f"{item.group}: {item.name}", flush=True)
        item.fetch()
        if faults := item.faults():
            raise ValueError(
                f"{item.group}, {item.name}: all was brought, but {faults[0]} "
                f"({len(faults)} in all). Delete what is wrong and fetch it again."
            )
    return [item for item in wanted if not item.fetch]


@cache
def _sources() -> dict:
    """Read where the public files come from."""
    return yaml.safe_load((ROOT / "config/downloads.yml").read_text(encoding="utf-8"))


def _lines(faults: Iterable[Fault | None]) -> list[str]:
    return [f"{fault.what}: {fault.path}" for fault in faults if fault]


def _image_faults(folder: Path, image_list: Path) -> list[str]:
    """Look for the list of images and for every file on it."""
    if fault := find_fault(image_list):
        return _lines([fault])
    try:
        read_images(folder)
    except FileNotFoundError as error:
        return [f"{MISSING}: {error}"]
    except ValueError as error:
        return [str(error)]
    return []


def _eeg_images(where: Callable) -> Input:
    source, folder = _sources()["things-eeg2"]["images"], where("images")
    archives = [folder / f"{name}.zip" for name in source["archives"]]
    return Input(
        "things-eeg2",
        "images",
        partial(_image_faults, folder, where("image_list")),
        partial(_fetch_eeg_images, source, archives, where("image_list")),
        room=partial(_room, source, folder, *archives),
    )


def _fetch_eeg_images(source: dict, archives: list[Path], image_list: Path) -> None:
    if find_fault(image_list):
        image_list.unlink(missing_ok=True)
        download(RemoteFile(source["image_metadata"]), image_list)
    for archive in archives:
        place = partial(_below, archive.stem, archive.parent)
        _fetch_archive(RemoteFile(source["archives"][archive.stem]), archive, place)


def _eeg_recordings(preprocessing: dict, where: Callable, subject: int) -> Input:
    source = _sources()["things-eeg2"][preprocessing["source"]]
    files = source_files(preprocessing, where, subject=subject)
    urls = source["urls"]
    number = f"{subject:02d}"
    url = urls.get(subject) if isinstance(urls, dict) else urls.format(subject=number)
    folder = where(preprocessing["source"])
    archive, place = folder.with_suffix(".zip"), partial(_as_wanted, folder, files)
    return Input(
        "things-eeg2",
        f"participant {subject}, {preprocessing['source']}",
        lambda: _lines(find_fault(file) for file in files),
        partial(_fetch_archive, RemoteFile(url), archive, place) if url else None,
        f"config/downloads.yml has no address for participant {subject}; put the files "
        f"below {folder}",
        subject,
        partial(_room, source, folder, archive),
    )


def _meg_images(where: Callable) -> Input:
    source, folder = _sources()["things-meg"]["images"], where("images")
    archive = folder / "images_THINGS.zip"
    return Input(
        "things-meg",
        "images",
        partial(_image_faults, folder, where("image_list")),
        partial(_fetch_meg_images, RemoteFile(source["url"]), archive),
        room=partial(_room, source, folder / "object_images", archive),
    )


def _fetch_meg_images(remote: RemoteFile, archive: Path) -> None:
    """Ask for the password first: the download takes its time."""
    folder = archive.parent
    _fetch_listed(folder, [TRIAL_TABLE])
    if not _image_faults(folder, folder / TRIAL_TABLE):
        return
    password = ask_password(
        f"Password of images_THINGS.zip (in password_images.txt, {PASSWORD_PAGE}; to "
        "use it is to accept the license of THINGS): "
    )
    place = partial(_below, "object_images", folder)
    _fetch_archive(remote, archive, place, password=password)


def _meg_recordings(preprocessing: dict, where: Callable, subject: int) -> Input:
    make = {"epochs": _meg_epochs, "raw_ctf": _meg_runs}[preprocessing["source"]]
    return make(preprocessing, where, subject)


def _meg_epochs(preprocessing: dict, where: Callable, subject: int) -> Input:
    listed, folder = _sources()["things-meg"]["files"], where("images")
    names = [TRIAL_TABLE, *(n for n in listed if f"preprocessed_P{subject}-" in n)]
    return Input(
        "things-meg",
        f"participant {subject}, epochs",
        lambda: _lines(_listed_fault(folder, name) for name in names),
        partial(_fetch_listed, folder, names) if len(names) > 1 else None,
        f"config/downloads.yml lists no epochs of participant {subject}",
        subject,
        lambda: (0.0, sum(_left(folder, name) for name in names)),
    )


def _meg_runs(preprocessing: dict, where: Callable, subject: int) -> Input:
    folder = where("raw")
    name = f"sub-BIGMEG{subject}"
    return Input(
        "things-meg",
        f"participant {subject}, raw_ctf",
        partial(_run_faults, preprocessing, where, subject),
        by_hand=(
            "pip install openneuro-py && openneuro-py download --dataset=ds004212 "
            f"--tag=3.0.0 --include={name} --target-dir={folder} # 64 GB"
        ),
        subject=subject,
    )


def _run_faults(preprocessing: dict, where: Callable, subject: int) -> list[str]:
    """Look at every run that is there, and for as many as there must be."""
    expected = _sources()["things-meg"]["raw_ctf"]
    try:
        files = source_files(preprocessing, where, subject=subject)
    except FileNotFoundError as error:
        return [f"{MISSING}: {error}"]
    size = expected["size"]
    faults = [find_fault(f, size=size if f.suffix == ".ds" else None) for f in files]
    n_runs = sum(file.suffix == ".ds" for file in files)
    if n_runs < expected["runs"]:
        some = f"{n_runs} of {expected['runs']} runs are there"
        faults.append(Fault(where("raw") / f"sub-BIGMEG{subject}", some))
    return _lines(faults)


def _listed_fault(folder: Path, name: str) -> Fault | None:
    size = _sources()["things-meg"]["files"][name]["size"]
    return find_fault(folder / name, size=size)


def _left(folder: Path, name: str) -> int:
    """Count the bytes of a file of THINGS-MEG that are still to come."""
    if not _listed_fault(folder, name):
        return 0
    size = _sources()["things-meg"]["files"][name]["size"]
    return max(0, size - _bytes(partial_path(folder / name)))


def _fetch_listed(folder: Path, names: Iterable[str]) -> None:
    """Bring the files of THINGS-MEG that are not as they should be."""
    source = _sources()["things-meg"]
    for name in names:
        if _listed_fault(folder, name):
            remote = RemoteFile(source["url"] + name, **source["files"][name])
            download(remote, folder / name)


def _fetch_archive(
    remote: RemoteFile,
    archive: Path,
    place: Callable[[str], Path | None],
    *,
    password: bytes | None = None,
) -> None:
    """Bring an archive, unpack it and delete it."""
    download(remote, archive)
    unpack(archive, place, password=password)
    archive.unlink()


def _below(top: str, folder: Path, member: str) -> Path | None:
    """Put what lies below a folder of an archive below ``folder``."""
    parts = Path(member).parts
    if top not in parts or ".." in parts or parts[-1].startswith("._"):
        return None
    return folder.joinpath(*parts[parts.index(top) :])


def _as_wanted(folder: Path, files: Sequence[Path], member: str) -> Path | None:
    """Put a member of an archive where a file of the same end of path is wanted."""
    for file in files:
        end = file.relative_to(folder).parts
        if Path(member).parts[-len(end) :] == end:
            return file
    return None


def _room(source: dict, folder: Path, *archives: Path) -> tuple[float, float]:
    """Estimate the bytes still to come: of an archive, and of its files."""
    estimates = source["gigabytes"]
    brought = {a: _bytes(a) + _bytes(partial_path(a)) for a in archives}
    archive = max(0.0, estimates["archive"] * 1e9 - sum(brought.values()))
    unpacked = _bytes(folder) - sum(brought[a] for a in archives if folder in a.parents)
    return archive, max(0.0, estimates["files"] * 1e9 - unpacked)


def _bytes(path: Path) -> int:
    """Count the bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _weights(settings: dict) -> list[Input]:
    """List the models that the configuration's runs and captions need."""
    inputs = [
        _weight(f"CLIP {source[0]} ({source[1]})", clip_fault, fetch_clip, *source)
        for source in _encoders(settings)
    ]
    conditions = _conditions(settings)
    networks = {chosen["network"] for chosen in conditions} - {None}
    for network in sorted(networks):
        inputs.append(_weight(network, cnn_fault, fetch_cnn, network))
    captioners = {chosen["captioner"] for chosen in conditions} - {None}
    captioners.update(settings["clip_score"]["captioners"])
    for name, entry in settings["captioning"]["captioners"].items():
        if name in captioners:
            inputs += _CAPTIONERS[entry["kind"]](name, entry)
    return inputs


def _encoders(settings: dict) -> list[tuple[str, str | None, str | None]]:
    """List the CLIP models, each once."""
    entries = [settings["embedding"], *settings["clip_score"]["encoders"]]
    return list(dict.fromkeys(map(clip_source, entries)))


def _conditions(settings: dict) -> list[dict]:
    """Say what each run is conditioned on that a table needs."""
    names = {row["run"] for row in settings["comparison"]}
    names.update(*(settings["ablations"][group] for group in ABLATIONS))
    runs = [settings["runs"][name] for name in sorted(names)]
    return [
        merge(settings["conditioning"], run.get("conditioning", {})) for run in runs
    ]


def _weight(name: str, fault: Callable, fetch: Callable, *about: object) -> Input:
    def faults() -> list[str]:
        found = fault(*about)
        return [found] if found else []

    n_bytes = 1e9 * _sources()["weights"]["gigabytes"].get(about[0], 0.0)
    return Input(
        WEIGHTS,
        name,
        faults,
        partial(fetch, *about),
        room=lambda: (0.0, n_bytes),
        cache=Path(torch.hub.get_dir() if fetch is fetch_cnn else HF_HUB_CACHE),
    )


def _qwen2_vl(name: str, entry: dict) -> list[Input]:
    model, revision = entry["model"], entry["revision"]
    return [_weight(f"{name}: {model}", model_fault, fetch_model, model, revision)]


def _minigpt4(name: str, entry: dict) -> list[Input]:
    vision = (entry["vision"], entry["vision_revision"], BLIP2_PARTS)
    language = (entry["language"], entry["language_revision"])
    advice = (
        f"put pretrained_minigpt4_7b.pth at {entry['projection']}; the README of "
        "github.com/Vision-CAIR/MiniGPT-4 leads to it (Google Drive)"
    )
    return [
        _weight(f"{name}: {entry['vision']}", model_fault, fetch_model, *vision),
        _weight(f"{name}: {entry['language']}", model_fault, fetch_model, *language),
        _own_file(f"{name}: projection", entry["projection"], advice),
    ]


def _caption_file(name: str, entry: dict) -> list[Input]:
    advice = f"write {entry['file']}: README, On the real recordings"
    return [_own_file(f"{name}: captions", entry["file"], advice)]


def _own_file(name: str, file: str, advice: str) -> Input:
    """Describe a file that only the reader can bring."""
    return Input(
        WEIGHTS, name, lambda: _lines([find_fault(ROOT / file)]), by_hand=advice
    )


_MAKERS = {  # of inputs: images, recordings of a participant
    "things-eeg2": (_eeg_images, _eeg_recordings),
    "things-meg": (_meg_images, _meg_recordings),
}
_CAPTIONERS = {"qwen2-vl": _qwen2_vl, "minigpt4": _minigpt4, "file": _caption_file}
