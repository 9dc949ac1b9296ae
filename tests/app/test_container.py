"""The image and the Space, as far as they can be tested without an engine: what they say, and their entry point run."""

import asyncio
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import httpx
import pytest
from huggingface_hub import RepoCard

from benchmarks.bench_visitor import Visitor

from .conftest import free_port

ROOT = Path(__file__).parents[2]
WAIT = 120


def instructions():
    """(instruction, rest) of the Dockerfile, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [
        (line.split(maxsplit=1)[0], line.split(maxsplit=1)[1].strip()) for line in text.splitlines() if line.strip()
    ]


def last_stage():
    whole = instructions()
    return whole[max(place for place, (name, _) in enumerate(whole) if name == "FROM") :]


def said(name, stage):
    return [rest for what, rest in stage if what == name]


def copied():
    """The sources that come from the checkout."""
    for rest in said("COPY", instructions()):
        words = rest.split()
        if not any(word.startswith("--from") for word in words):
            yield from [word for word in words if not word.startswith("--")][:-1]


def test_the_base_is_pinned_and_nothing_is_fetched_by_address():
    bases = [rest.split()[0] for rest in said("FROM", instructions())]
    assert bases and all(re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+-[\w-]+", base) for base in bases)
    assert len(set(bases)) == 1, "what was built on one base may not run on another"
    assert {name for name, _ in instructions()} <= {
        "FROM",
        "ARG",
        "ENV",
        "WORKDIR",
        "RUN",
        "COPY",
        "USER",
        "EXPOSE",
        "HEALTHCHECK",
        "ENTRYPOINT",
    }
    assert not [rest for rest in said("RUN", instructions()) if re.search(r"curl|wget|https?:|\bgit\b|sudo", rest)]


def test_the_base_is_a_python_that_the_package_takes():
    least = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    version = re.search(r"python:(\d+)\.(\d+)", said("FROM", instructions())[0])
    assert (int(version[1]), int(version[2])) >= tuple(map(int, least.split(".")))


def test_it_runs_as_nobody_special_on_a_port_that_is_told():
    stage = last_stage()
    users = said("USER", stage)
    assert users == ["1000"] and "useradd --create-home --uid 1000" in " ".join(said("RUN", stage))
    order = [name for name, _ in stage]
    assert order.index("USER") < order.index("ENTRYPOINT") and "RUN" not in order[order.index("USER") :]
    (port,) = said("EXPOSE", stage)
    assert f"PORT={port}" in " ".join(said("ENV", stage)) and len(said("HEALTHCHECK", stage)) == 1


def test_the_entry_point_is_a_script_of_this_checkout_that_the_shell_can_read():
    stage = last_stage()
    shell, place = json.loads(said("ENTRYPOINT", stage)[0])
    (source,) = [rest.split()[0] for rest in said("COPY", stage) if rest.split()[-1] == place]
    read = subprocess.run([shell, "-n", str(ROOT / source)], capture_output=True, text=True)
    assert (read.returncode, read.stderr) == (0, "")


def test_what_is_copied_is_there_and_nothing_else_goes_to_the_builder():
    sources = set(copied())
    assert sources and all((ROOT / source).exists() for source in sources)
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith(("#", "!", "**/"))] == ["*"]
    assert {line[1:] for line in lines if line.startswith("!")} == {source.removeprefix("./") for source in sources}


def test_the_space_says_what_the_hub_asks():
    card = RepoCard((ROOT / "docs" / "space" / "README.md").read_text(encoding="utf-8")).data.to_dict()
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert card["sdk"] == "docker" and {card["colorFrom"], card["colorTo"]} <= colours
    assert str(card["app_port"]) == said("EXPOSE", last_stage())[0]
    assert card["title"] and len(card["emoji"]) == 1 and ord(card["emoji"]) > 0x2000
    assert card["license"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"].lower()
    assert len(card["short_description"]) <= 60


def test_the_task_lays_out_all_that_the_space_is_built_from(tmp_path):
    task = [sys.executable, str(ROOT / "scripts" / "tasks.py"), "space"]
    folder = tmp_path / "space"
    subprocess.run([*task, str(folder)], check=True, capture_output=True)
    assert all((folder / source).exists() for source in copied())
    assert (folder / "README.md").read_text(encoding="utf-8").startswith("---\ntitle:")
    assert not list(folder.rglob("__pycache__"))
    again = subprocess.run([*task, str(folder)], capture_output=True, text=True)
    assert again.returncode == 2 and "new folder" in again.stderr


@pytest.fixture
def place():
    """A folder that every user may enter; pytest's own are closed to all but one."""
    folder = Path(tempfile.mkdtemp(prefix="negmerge-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def command(place, text):
    """`negmerge` as the script finds it."""
    file = place / "bin" / "negmerge"
    file.parent.mkdir()
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return {"PATH": f"{file.parent}{os.pathsep}{os.environ['PATH']}"}


def serve(environment, *options, user=()):
    script = [*user, "sh", str(ROOT / "scripts" / "serve.sh"), *options]
    return subprocess.Popen(script, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize(("people", "asked"), [(None, "--public"), ("/run/people list", "--auth /run/people list")])
def test_the_entry_point_is_public_or_guarded_by_a_file(place, people, asked):
    environment = command(place, 'echo "$@" "[$SYSTEM$SPACE_ID]"') | {"SYSTEM": "spaces", "SPACE_ID": "a/b"}
    told, _ = serve(environment | ({"NEGMERGE_AUTH": people} if people else {}), "--device", "cpu").communicate(
        timeout=60
    )
    assert told.strip() == (f"demo --pool /srv/negmerge/pool --host 0.0.0.0 --port 7860 {asked} --device cpu []")


def user_of_the_image():
    return int(said("USER", last_stage())[0])


def unprivileged():
    """The image's user, who may read everything (Python may lie in root's home); whoever is not root stays as he is."""
    if os.geteuid():
        return ()
    user = user_of_the_image()
    rights = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"]
    return ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *rights, "--")


def read_only(source, target):
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [target, *target.rglob("*")]:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) | stat.S_IRGRP | stat.S_IROTH)
    return target


async def end_in_the_middle(app, address):
    """Load the page, and stop the app as services are stopped while it still fills in the curve."""
    async with httpx.AsyncClient(base_url=address, timeout=60) as http:
        await Visitor(http).arrive()
        await asyncio.sleep(0.5)
        app.send_signal(signal.SIGTERM)


@pytest.mark.slow
def test_the_entry_point_serves_as_another_user_is_healthy_and_leaves_nothing(place, tiny_pool):
    package = read_only(ROOT / "negmerge_kit", place / "code" / "negmerge_kit")
    pool = read_only(tiny_pool, place / "pool")
    home, temporary = place / "home", place / "tmp"
    for folder in (home, temporary):
        folder.mkdir()
        if not os.geteuid():
            os.chown(folder, user_of_the_image(), user_of_the_image())
    port = str(free_port())
    environment = command(place, f'exec "{sys.executable}" -m negmerge_kit.cli "$@"') | {
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "PORT": port,
        "NEGMERGE_POOL": str(pool),
        "PYTHONPATH": str(package.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    before = {path: path.stat().st_mtime_ns for path in (*pool.rglob("*"), *package.rglob("*"))}
    (healthy,) = said("HEALTHCHECK", last_stage())
    check = json.loads(healthy.partition("CMD")[2])
    check[0] = sys.executable
    app = serve(environment, "--device", "cpu", user=unprivileged())
    try:
        ill = subprocess.run(check, env=environment, capture_output=True)
        assert ill.returncode != 0  # nothing answers yet, and the check says so
        until = time.monotonic() + WAIT
        while subprocess.run(check, env=environment, capture_output=True).returncode:
            assert app.poll() is None, app.communicate()[0]
            assert time.monotonic() < until, "it never became healthy"
            time.sleep(0.5)
        (private,) = temporary.glob("negmerge-app-*")
        owned = private.stat()
        assert owned.st_uid == (os.geteuid() or user_of_the_image()) and stat.S_IMODE(owned.st_mode) == 0o700
        asyncio.run(end_in_the_middle(app, f"http://127.0.0.1:{port}"))
        told, _ = app.communicate(timeout=60)  # told once, as services are: a second signal cuts the tidy-up short
    finally:
        app.kill()
    assert app.returncode == 128 + signal.SIGTERM and "Traceback" not in told, told
    assert not list(temporary.glob("negmerge-app-*"))
    assert {path: path.stat().st_mtime_ns for path in (*pool.rglob("*"), *package.rglob("*"))} == before
