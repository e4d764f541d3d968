"""Programs that are forked from a process that has imported what they need."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paperlib.paths import ROOT

SCRIPT = str(ROOT / "workflow/preloaded.py")
SERVE = (
    "import sys; sys.path.insert(0, 'workflow'); import preloaded; "
    "preloaded.MODULES = ('json',); sys.exit(preloaded.serve(sys.argv[1:]))"
)
PROGRAM = """
import os, sys
print(sys.argv[1:], sys.stdin.read(), os.environ.get("COLOR"), os.getcwd(), flush=True)
print(os.getpid(), os.getppid(), "json" in sys.modules, file=sys.stderr, flush=True)
if sys.argv[1] == "exit":
    sys.exit(int(sys.argv[2]))
if sys.argv[1] == "fail":
    raise RuntimeError("no luck")
if sys.argv[1] == "wait":
    import subprocess, time
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(helper.pid, file=sys.stderr, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def ask(folder, *arguments, served=True):
    """Run the program through the script, with or without a server."""
    command = [sys.executable, "-S", SCRIPT, "run", "program", *arguments]
    server = [sys.executable, "-c", SERVE, "env", "-C", str(folder)] if served else []
    return subprocess.run(
        [*server, *command],
        cwd=ROOT if served else folder,
        env=os.environ | {"COLOR": "blue"},
        input="typed",
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("served", [True, False])
def test_a_program_has_the_environment_of_who_asks(program, served):
    done = ask(program, "exit", "0", served=served)
    assert done.stdout == f"['exit', '0'] typed blue {program}\n"
    assert done.returncode == 0


@pytest.mark.parametrize("served", [True, False])
@pytest.mark.parametrize("status", [0, 7])
def test_the_exit_status_is_returned(program, served, status):
    assert ask(program, "exit", str(status), served=served).returncode == status


@pytest.mark.parametrize("served", [True, False])
def test_an_error_is_printed_and_returned(program, served):
    done = ask(program, "fail", served=served)
    assert done.returncode == 1
    assert "RuntimeError: no luck" in done.stderr


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition):
    for _ in range(100):
        if condition():
            return
        time.sleep(0.1)
    raise TimeoutError


@pytest.mark.parametrize("victim", ["client", "server"])
def test_a_fork_ends_with_its_client_and_with_its_server(program, victim):
    command = [sys.executable, "-S", SCRIPT, "run", "program", "wait"]
    shell = f"cd {program} && exec {' '.join(command)}"
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, "sh", "-c", shell],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    fork, helper = (int(server.stderr.readline().split()[0]) for _ in range(2))
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
    client = int(children.split()[0])
    assert is_running(fork)
    os.kill(client if victim == "client" else server.pid, signal.SIGKILL)
    wait_until(lambda: not is_running(fork))
    wait_until(lambda: not is_running(helper))  # that the fork has started
    wait_until(lambda: not is_running(client))
    server.wait()
