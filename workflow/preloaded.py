"""Start Python programs in a fraction of a second, forked from one that has imported.

Importing papermill, torch and the rest costs some ten seconds, more than many a
notebook computes, and a run starts hundreds of programs. ``preloaded.py serve COMMAND``
imports once, runs COMMAND and meanwhile forks, for whoever asks at a socket, a process
that runs a module. ``preloaded.py run MODULE ARGUMENTS`` asks it; where nobody serves
(on another node, or by hand) it is ``python -m MODULE ARGUMENTS``.

The process that asks stays in front: it passes on its environment, working directory
and standard streams, returns the exit status, and if it ends first, so does the fork.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile

ADDRESS = "PRELOADED_PYTHON"  # environment variable that names the socket
# Code of this repository may change during a run and is not imported here, but for the
# package itself, without which torchvision cannot be.
MODULES = (
    *("paperlib", "accelerate", "huggingface_hub.repocard", "ipykernel.kernelapp"),
    *("jupytext", "matplotlib.backends.backend_agg", "matplotlib.pyplot", "mne.epochs"),
    *("nbclient", "nbconvert", "numba", "open_clip", "pandas", "papermill"),
    *("pydantic.main", "safetensors.torch", "scipy.stats", "seaborn"),
    *("sklearn.decomposition", "sklearn.linear_model", "torch._dynamo", "tqdm.auto"),
    "transformers.models.qwen2_vl.modeling_qwen2_vl",
)
UNUSED = ("rfc3987_syntax", "debugpy")  # slow to import, and no notebook needs them
LENGTH = struct.Struct("!I")  # of a request
LOCK = 9  # file that run_all.sh has opened
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def run(module: str, arguments: list[str]) -> int:
    """Run a module in a fork of the server; returns its exit status."""
    end_with_parent()
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(os.environ.get(ADDRESS, ""))
        except OSError:
            os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
        request = [module, arguments, dict(os.environ), os.getcwd()]
        content = json.dumps(request).encode()
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # end without a traceback
        socket.send_fds(server, [LENGTH.pack(len(content))], [0, 1, 2])
        server.sendall(content)
        return int(server.makefile().read() or 1)


def serve(command: list[str]) -> int:
    """Run a command and fork for whoever asks until it ends; returns its status."""
    end_with_parent()
    short = tempfile.TemporaryDirectory(dir="/tmp")  # a socket needs a short name
    with short as folder, socket.socket(socket.AF_UNIX) as door:
        door.bind(f"{folder}/socket")
        door.listen(64)
        main = subprocess.Popen(
            command,
            env=os.environ | {ADDRESS: f"{folder}/socket"},
            preexec_fn=end_with_parent,
            close_fds=False,  # it keeps the lock of run_all.sh, forks must not
        )
        with contextlib.suppress(OSError):
            os.close(LOCK)
        for number in (signal.SIGINT, signal.SIGTERM):  # the command decides
            signal.signal(number, lambda number, _: main.send_signal(number))
        os.environ |= dict.fromkeys(THREADS, "1")  # threads would be lost in a fork
        os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
        for name in UNUSED:
            sys.modules.setdefault(name, None)
        for name in MODULES:
            importlib.import_module(name)
        gc.freeze()  # garbage collection in a fork would copy the memory of all this
        waiting, supervisors = [door, os.pidfd_open(main.pid)], []
        while door in select.select(waiting, [], [])[0]:
            client = door.accept()[0]
            if (pid := os.fork()) == 0:
                try:
                    door.close()
                    supervise(client)
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                finally:  # the fork must not go on as a second server
                    os._exit(1)
            client.close()
            alive = [p for p in supervisors if os.waitpid(p, os.WNOHANG) == (0, 0)]
            supervisors = [*alive, pid]
        return main.wait()


def supervise(client: socket.socket) -> None:
    """Fork for one client and return the status; end all if it or the server ends."""
    server = os.pidfd_open(os.getppid())
    length, streams, _, _ = socket.recv_fds(client, LENGTH.size, 3)
    content = client.makefile("rb").read(*LENGTH.unpack(length))
    worker = os.fork()
    if worker == 0:
        client.close()
        become(*json.loads(content), streams)
    ended = select.select([client, server, os.pidfd_open(worker)], [], [])[0]
    if client in ended or server in ended:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker, signal.SIGKILL)  # with the processes that it has started
        os.kill(worker, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        client.sendall(str(status if status >= 0 else 128 - status).encode())
    os._exit(0)


def become(
    module: str, arguments: list[str], environment: dict, folder: str, streams: list
) -> None:
    """Turn this process into ``python -m module arguments`` of the client."""
    end_with_parent()
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream, number in zip(streams, (0, 1, 2), strict=True):
        os.dup2(stream, number)
    environment.pop("JPY_PARENT_PID", None)  # is the client's
    os.environ.clear()
    os.environ |= environment
    os.chdir(folder)
    if torch := sys.modules.get("torch"):  # as the variables would have said
        n_threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count()))
        torch.set_num_threads(n_threads)
        importlib.import_module("threadpoolctl").threadpool_limits(n_threads)
    sys.argv[1:], sys.path[0] = arguments, folder
    status = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def end_with_parent() -> None:
    """Let Linux end this process when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    action, *rest = sys.argv[1:]
    sys.exit(serve(rest) if action == "serve" else run(rest[0], rest[1:]))
