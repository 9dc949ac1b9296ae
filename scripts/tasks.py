"""Set up the environment once, then run a task in it: demo, check, test, lab, setup, space, clean, help.

Standard library only, because it runs before anything is installed. `make demo`
calls it; without make, `python scripts/tasks.py demo` is the same thing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / ".stamp"

TASKS = {
    "demo": "serve the app on the embedded scene (ARGS go to `negmerge demo`)",
    "check": "lint, types and the unit tests, in a minute or two (ARGS go to pytest)",
    "test": "lint, types and the whole test suite (ARGS go to pytest)",
    "lab": "open JupyterLab on the first notebook (ARGS go to JupyterLab)",
    "setup": "only build the environment in .venv",
    "space": "lay out in the folder ARGS what a Space of the Hub is built from",
    "clean": "remove .venv and what the tools left behind",
    "help": "print this list",
}


def fingerprint() -> str:
    """Digest of what decides the environment: both requirement files and this Python."""
    digest = hashlib.sha256(sys.version.encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def setup() -> None:
    """Build .venv unless it already matches pyproject.toml and constraints.txt."""
    wanted = fingerprint()
    if STAMP.exists() and PYTHON.exists() and STAMP.read_text() == wanted:
        return
    print("Setting up .venv (torch is large: minutes the first time, nothing afterwards) ...", flush=True)
    try:
        # A leftover of another Python or of a broken set-up cannot be mended in place.
        venv.create(VENV, with_pip=True, clear=True)
    except subprocess.CalledProcessError:
        sys.exit("Python's venv module cannot install pip here; on Debian or Ubuntu: apt install python3-venv")
    pip = [str(PYTHON), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    # --group needs pip 25.1; Python 3.11 bundles an older one.
    subprocess.run([*pip, "--upgrade", "pip>=25.1"], cwd=ROOT, check=True)
    subprocess.run([*pip, "-c", "constraints.txt", "-e", ".[all]", "--group", "dev"], cwd=ROOT, check=True)
    STAMP.write_text(wanted)


def ready() -> None:
    """Say what the environment is good for, once it is there."""
    activate = VENV.name + (r"\Scripts\activate" if os.name == "nt" else "/bin/activate")
    lead = "" if os.name == "nt" else "source "
    print(f".venv is ready: `make demo` serves the app, `{lead}{activate}` puts `negmerge` on your path.")


def run(*command: str) -> int:
    """Run one program of the environment; Ctrl-C ends it without a traceback of ours."""
    try:
        return subprocess.run([str(PYTHON), *command], cwd=ROOT).returncode
    except KeyboardInterrupt:
        return 130


def test(arguments: list[str]) -> int:
    """Lint and types first (seconds), then tests through pytest, a worker a core.

    A file's tests stay together, because they share what they set up; `ARGS="-n 0"` runs all in one process.
    """
    for tool in (["-m", "ruff", "check", "."], ["-m", "ruff", "format", "--check", "."], ["-m", "mypy"]):
        if code := run(*tool):
            return code
    # One worker more than cores: tests wait for browsers and processes half of their time. More than four would each
    # import torch for little: the longest file decides.
    workers = min(4, 1 + (os.cpu_count() or 1))
    return run("-m", "pytest", "-n", str(workers), "--dist", "loadfile", *arguments)


def lab(arguments: list[str]) -> int:
    """JupyterLab on the first notebook, without its question about news: nothing here asks the network."""
    settings = VENV / "share" / "jupyter" / "lab" / "settings"
    settings.mkdir(parents=True, exist_ok=True)
    quiet = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
    (settings / "overrides.json").write_text(json.dumps(quiet))
    return run("-m", "jupyterlab", "--notebook-dir", "notebooks", "notebooks/01_forget_in_ten_lines.ipynb", *arguments)


def space(arguments: list[str]) -> int:
    """Copy what the Dockerfile needs, and the Space's own README, into a new folder."""
    if len(arguments) != 1 or Path(arguments[0]).exists():
        print('name one new folder: make space ARGS="../negmerge-space"', file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    for name in ("Dockerfile", ".dockerignore", "constraints.txt", "pyproject.toml", "LICENSE", "scripts/serve.sh"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "negmerge_kit", folder / "negmerge_kit", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "docs" / "space" / "README.md", folder / "README.md")
    print(f"{folder} is ready: docs/space/README.md says how it is pushed.")
    return 0


def clean() -> None:
    """Remove the environment and the caches of the tools; the user's pools stay."""
    for name in (".venv", ".pytest_cache", ".ruff_cache", ".mypy_cache", ".hypothesis", "dist"):
        shutil.rmtree(ROOT / name, ignore_errors=True)
    for cache in ROOT.rglob("__pycache__"):
        shutil.rmtree(cache, ignore_errors=True)


def main(arguments: list[str]) -> int:
    """Run the named task and return its exit code."""
    task, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
    if task not in TASKS or task == "help":
        print("usage: python scripts/tasks.py TASK [ARGS]\n")
        print("\n".join(f"  {name:6} {text}" for name, text in TASKS.items()))
        return 0 if task == "help" else 2
    if sys.version_info < (3, 11):  # noqa: UP036 (this file runs on whatever Python the user has)
        print(f"negmerge-kit needs Python 3.11 or newer; this is {sys.version.split()[0]}.", file=sys.stderr)
        return 2
    if task == "clean":
        clean()
        return 0
    if task == "space":
        return space(rest)
    try:
        setup()
    except subprocess.CalledProcessError as error:
        print(f"Setting up failed: {' '.join(map(str, error.cmd[:5]))} ... (see the lines above)", file=sys.stderr)
        return 1
    if task == "demo":
        return run("-m", "negmerge_kit.cli", "demo", *rest)
    if task == "lab":
        return lab(rest)
    if task == "check":
        return test(rest)
    if task == "test":
        # pyproject.toml leaves the slow tiers out; an empty marker takes them in.
        return test(["-m", "", *rest])
    ready()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
