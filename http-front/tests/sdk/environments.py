"""Virtual environments holding the published clients, one for each version.

An environment is made once and kept under `target/sdk-environments`; a stamp
says what it was made from. Several processes may ask for the same one at once.

    python3 environments.py            makes all of them
"""

import concurrent.futures
import contextlib
import fcntl
import hashlib
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements"
ENVIRONMENTS = HERE.parents[2] / "target" / "sdk-environments"
VERSIONS = ("0.4.0", "0.13.11", "0.14.6", "0.18.5", "0.22.2")
WITH_WEBSOCKETS = "0.22.2-websockets"


class EnvironmentFailure(Exception):
    """An environment cannot be made; the text says what to do about it."""


def python_of(name):
    """The interpreter of the environment `name`, made now unless it is there."""
    if sys.version_info < (3, 10):
        raise EnvironmentFailure(
            f"the published clients need Python 3.10 or newer, this is {sys.version.split()[0]}: "
            "put a newer python3 first in PATH"
        )
    directory = ENVIRONMENTS / name
    stamp = directory / "made-from"
    wanted = _fingerprint(name)
    with _locked(name):
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(directory, ignore_errors=True)
            _make(name, directory)
            stamp.write_text(wanted)
    return directory / "bin" / "python"


def _make(name, directory):
    _run(
        [sys.executable, "-m", "venv", directory],
        "python3 lacks its venv module (on Debian and Ubuntu: apt-get install python3-venv)",
    )
    _run(
        [directory / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-input",
         "--disable-pip-version-check", "--requirement", REQUIREMENTS / f"{name}.txt"],
        f"pip cannot install {name}: the package index must be reachable (see `pip config list`)",
    )


def _run(command, remedy):
    result = subprocess.run(
        [str(part) for part in command], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    if result.returncode != 0:
        raise EnvironmentFailure(f"{remedy}\n{' '.join(map(str, command))} said:\n{result.stdout}")


def _fingerprint(name):
    files = (REQUIREMENTS / f"{name}.txt", REQUIREMENTS / "constraints.txt")
    made_from = sys.executable + sys.version + "".join(file.read_text() for file in files)
    return hashlib.sha256(made_from.encode()).hexdigest()


@contextlib.contextmanager
def _locked(name):
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    with open(ENVIRONMENTS / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make(names):
    """Makes the named environments, two at a time."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(names, pool.map(python_of, names)))


if __name__ == "__main__":
    try:
        make((*VERSIONS, WITH_WEBSOCKETS))
    except EnvironmentFailure as failure:
        sys.exit(str(failure))
