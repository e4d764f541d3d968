"""Build the embedded world: independent tasks in two processes, each done once."""

import hashlib
import inspect
import json
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from paperlib.atomic import write_text
from paperlib.paths import ROOT
from paperlib.provenance import library_modules

_STATE = "minithings.json"  # in each task's folder
_SIMULATOR = Path("paperlib/minithings")


@dataclass(frozen=True)
class Task:
    """A function that fills a folder.

    Attributes
    ----------
    name
        For messages.
    function
        Called as ``function(folder, **arguments)``; may return numbers to keep.
    folder
        Belongs to the task alone.
    arguments
        What JSON can hold.
    """

    name: str
    function: Callable[..., dict | None]
    folder: Path
    arguments: dict


def build(tasks: Sequence[Task], manifest: Path) -> dict[str, dict | None]:
    """Do what has not been done yet, in two processes of one thread each.

    A task counts as done if its folder says so and names the same arguments and the
    same code. If they differ the folder is emptied first; an interrupted task is
    started again and may use what it finds.

    Parameters
    ----------
    tasks
        Independent of each other; the longest should come first.
    manifest
        Gets the arguments, code and results of all tasks, once they are done.

    Returns
    -------
    dict
        What the tasks returned, by name.

    Raises
    ------
    FileExistsError
        If a folder holds files that no task has made.
    """
    for task in tasks:
        _prepare(task)
    todo = [task for task in tasks if not _state(task)["done"]]
    print(f"{len(todo)} of {len(tasks)} tasks are to be done.")
    start = time.monotonic()
    with ProcessPoolExecutor(
        max_workers=2, mp_context=get_context("spawn"), initializer=_use_one_thread
    ) as pool:
        jobs: dict[Future, Task] = {pool.submit(_run, task): task for task in todo}
        for number, job in enumerate(as_completed(jobs), start=1):
            job.result()
            seconds = time.monotonic() - start
            name = jobs[job].name
            print(f"{number} of {len(todo)} done after {seconds:.0f} s: {name}.")
    states = {task.name: _state(task) for task in tasks}
    write_text(manifest, json.dumps(states, indent=2) + "\n")
    return {name: state["result"] for name, state in states.items()}


def _prepare(task: Task) -> None:
    """Make the task's folder, empty if other arguments or other code made it."""
    if (task.folder / _STATE).is_file():
        if _state(task).items() >= _recipe(task).items():
            return
        shutil.rmtree(task.folder)
    elif task.folder.is_dir() and any(task.folder.iterdir()):
        raise FileExistsError(
            f"{task.folder} holds files that were not simulated: expected an empty "
            f"folder or one with {_STATE}. Move them away, or choose another data_root."
        )
    _write_state(task, done=False, result=None)


def _recipe(task: Task) -> dict:
    """Say what a task's files depend on."""
    return {"arguments": task.arguments, "code": _code_digest(task.function)}


def _code_digest(function: Callable) -> str:
    """Hash the simulator's modules that a function can use, its own among them."""
    own = Path(inspect.getfile(function)).resolve()
    simulator = [
        ROOT / name for name in library_modules(own) if Path(name).parent == _SIMULATOR
    ]
    sources = (path.read_bytes() for path in sorted({own, *simulator}))
    return hashlib.sha256(b"".join(sources)).hexdigest()


def _state(task: Task) -> dict:
    return json.loads((task.folder / _STATE).read_text(encoding="utf-8"))


def _write_state(task: Task, *, done: bool, result: dict | None) -> None:
    state = {"done": done, **_recipe(task), "result": result}
    write_text(task.folder / _STATE, json.dumps(state, indent=2) + "\n")


def _use_one_thread() -> None:
    threadpool_limits(1)
    torch.set_num_threads(1)


def _run(task: Task) -> None:
    """Do a task in a worker process."""
    _write_state(task, done=True, result=task.function(task.folder, **task.arguments))
