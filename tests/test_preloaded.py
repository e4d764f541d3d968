"""Programs that are forked from a process that has imported what they need."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paperlib.paths import ROOT

LONG = 100 * "x"  # for the name of a socket
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
    (tmp_path / LONG).mkdir()
    return tmp_path


def ask(folder, *arguments, served=True):
    """Run the program through the script, with or without a server."""
    command = [sys.executable, "-S", SCRIPT, "run", "program", *arguments]
    server = [sys.executable, "-c", SERVE, "env", "-C", str(folder)] if served else []
    return subprocess.run(
        [*server, *command],
        cwd=ROOT if served else folder,
        env=os.environ | {"COLOR": "blue", "TMPDIR": str(folder / LONG)},
        input="typed",
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("served", [True, False])
@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [(["exit", "0"], 0, ""), (["exit", "7"], 7, ""), (["fail"], 1, "RuntimeError: no")],
)
def test_a_program_is_that_of_who_asks(program, served, arguments, status, error):
    done = ask(program, *arguments, served=served)
    assert done.returncode == status and error in done.stderr
    assert done.stdout == f"{arguments} typed blue {program}\n"


def test_a_client_that_dies_early_leaves_the_server_to_others(program):
    early = "import os, socket; s = socket.socket(1); s.connect(os.environ['{}'])"
    early = f'{sys.executable} -c "{early.format("PRELOADED_PYTHON")}"'
    later = f"exec {sys.executable} -S {SCRIPT} run program exit 0"
    shell = f"cd {program}; {early}; echo $$; {later}"
    done = subprocess.run(
        [sys.executable, "-c", SERVE, "sh", "-c", shell],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    client = done.stdout.split()[0]
    (fork,) = re.findall(r"^(\d+) \d+ True$", done.stderr, re.MULTILINE)
    assert fork != client  # which becomes the program itself where nobody serves


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def wait_for_the_end_of(*pids):
    deadline = time.monotonic() + 10
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


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
    wait_for_the_end_of(fork, helper, client)  # helper: what the fork has started
    server.wait()
