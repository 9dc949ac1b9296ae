r"""One candidate on several GPUs: torchrun starts a process for each, and the state file brings the result home.

`finetune_together` does it from a program. By hand, on one machine or, with torchrun's rendezvous options, on many that
share the pool's folder:

    torchrun --nproc-per-node 4 -m negmerge_kit.lab.training.distributed \
        '{"pool": "POOL", "recipe": {…}, "state": "FILE"}'

Afterwards `finetune(..., resume=FILE)` finds every step done and only loads the weights.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import negmerge_kit
from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.lab.training.execution import Execution
from negmerge_kit.lab.training.finetuning import Step, finetune
from negmerge_kit.lab.training.recipe import Recipe
from negmerge_kit.types import Json
from negmerge_kit.vision.clip import Classifier
from negmerge_kit.vision.images import ImageSet


def finetune_together(
    model: Classifier,
    images: ImageSet,
    recipe: Recipe,
    *,
    pool: Path,
    resume: Path,
    execution: Execution | None = None,
    may_mirror: bool = False,
) -> Iterator[Step]:
    """As `finetune`, by `execution.processes` processes of torchrun on this machine, one GPU each (or gloo on the CPU).

    The processes open `pool` for themselves; `model` ends with the weights that they trained. Loss and weights are
    those of one process but for the order of float32 sums. Killed, the run goes on from `resume` with any number of
    processes.

    Raises:
        ParameterError, CheckpointError: as `finetune`; and if there are too few GPUs.
    """
    execution = execution or Execution()
    if execution.processes > 1:
        yield from _by_torchrun(model, recipe, pool, resume, execution, may_mirror)
    # What torchrun's processes did is in the state: the model only takes it over.
    for step in finetune(model, images, recipe, resume=resume, execution=execution, may_mirror=may_mirror):
        if execution.processes == 1:
            yield step


def _by_torchrun(
    model: Classifier, recipe: Recipe, pool: Path, resume: Path, execution: Execution, may_mirror: bool
) -> Iterator[Step]:
    """Every step of a run that torchrun's processes do."""
    _check(model, execution, recipe)
    job = {"pool": str(pool), "recipe": recipe.json(), "state": str(resume), "device": model.device.type,
           "execution": asdict(execution), "may_mirror": may_mirror}
    root = str(Path(negmerge_kit.__file__).parents[1])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
               str(execution.processes), "-m", "negmerge_kit.lab.training.distributed", json.dumps(job)]
    with tempfile.TemporaryFile("w+") as complaints, subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=complaints, text=True, env={**os.environ, "PYTHONPATH": paths}
    ) as crew:
        assert crew.stdout is not None
        try:
            for line in crew.stdout:
                told: Json = json.loads(line) if line.startswith("{") else {}
                if "error" in told:
                    raise ParameterError(told["error"])
                if "index" in told:
                    yield Step(**told)
            if crew.wait():
                complaints.seek(0)
                raise RuntimeError(f"torchrun ended with code {crew.returncode}:\n{complaints.read()[-4000:]}")
        finally:
            crew.terminate()


def train_part(job: Json) -> Iterator[Step]:
    """What each of torchrun's processes does: open the pool, take its device, train its parts."""
    import torch
    import torch.distributed as dist

    from negmerge_kit.checkpoints.pool import open_pool
    from negmerge_kit.lab.workbench import Workbench

    cuda = job.get("device", "cuda" if torch.cuda.is_available() else "cpu") == "cuda"
    local = int(os.environ["LOCAL_RANK"])
    if cuda:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        bench = Workbench(open_pool(job["pool"]), device=f"cuda:{local}" if cuda else "cpu")
        yield from finetune(
            bench.fresh_model(),
            bench.scene.images("train").forget,
            Recipe.from_json(job["recipe"]),
            resume=Path(job["state"]),
            execution=Execution(**job.get("execution", {})),
            may_mirror=job.get("may_mirror", False),
        )
    finally:
        dist.destroy_process_group()


def main() -> int:
    """Run this process's part; the first process tells each step, or what went wrong, as a line of JSON."""
    first = os.environ.get("RANK") == "0"

    def tell(line: Json) -> None:
        if first:
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()

    try:
        for step in train_part(json.loads(sys.argv[1])):
            tell(asdict(step))
    except NegmergeError as error:
        tell({"error": str(error)})
        return 2
    return 0


def _check(model: Classifier, execution: Execution, recipe: Recipe) -> None:
    """Refuse before anything is started."""
    import torch

    execution.check(model, recipe, execution.processes)
    if model.device.type == "cuda" and execution.processes > torch.cuda.device_count():
        raise ParameterError(f"processes = {execution.processes}, but there are {torch.cuda.device_count()} GPUs: one "
                             "each.")
    if model.device.type == "mps":
        raise ParameterError("several processes cannot share one Apple GPU: use one.")


if __name__ == "__main__":
    sys.exit(main())
