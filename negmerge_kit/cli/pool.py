"""`negmerge pool build | show | verify`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from negmerge_kit.cli.options import Parser, add_executor_flags, add_training_flags, print_json
from negmerge_kit.cli.pool_health import EXPLAINED, HEADS, health_cells, print_warnings
from negmerge_kit.cli.sweep import begin_pool, executor_of, fill, print_sweep
from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.types import Json

if TYPE_CHECKING:
    from negmerge_kit.types import Weights


def pool(arguments: list[str]) -> int:
    """Dispatch to `build`, `show` or `verify`."""
    actions = {"build": build, "show": show, "verify": verify}
    if not arguments or arguments[0] not in actions:
        if arguments and arguments[0] in ("-h", "--help"):
            print("usage: negmerge pool build tiny | tiny-classifier [OPTIONS] | show POOL [--json] | verify POOL")
            return 0
        given = f"there is no `negmerge pool {arguments[0]}`: " if arguments else ""
        raise ParameterError(f"{given}say what to do with the pool: build, show or verify.")
    return actions[arguments[0]](arguments[1:])


def build(arguments: list[str]) -> int:
    """Make an embedded scene's pool, or finish one that was begun."""
    parser = Parser("pool build", "Fine-tune an embedded scene's candidates into a pool; goes on where it was stopped.")
    parser.add_argument(
        "scene", metavar="tiny|tiny-classifier", help="the embedded CLIP, or the embedded standard classifier"
    )
    parser.add_argument(
        "--out", type=Path, metavar="POOL", help="folder of the pool (default: the user's cache folder)"
    )
    parser.add_argument("--forget", metavar="FAMILY", help="tiny: the image family to forget (default digits)")
    parser.add_argument("--grid", metavar="GRID", help="named grid of recipes (default: the scene's own)")
    parser.add_argument(
        "--from-scratch", action="store_true", help="pretrain the base instead of taking the shipped weights"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_executor_flags(parser)
    add_training_flags(parser)
    options = parser.parse_args(arguments)
    if options.scene not in (known := ("tiny", "tiny-classifier")):
        raise ParameterError(
            f"'{options.scene}' is no embedded scene: choose {' or '.join(known)}, or fine-tune the "
            "candidates of a scene of your own with `negmerge sweep --scene FILE.toml`."
        )

    from negmerge_kit.cli.progress import ProgressDisplay
    from negmerge_kit.scenes.find import open_scene
    from negmerge_kit.sweeps.pool_setup import pretrained_base
    from negmerge_kit.training.recipe import grid, grid_of

    options.grid = options.grid or options.scene
    # A misspelt value raises here, before anything is made.
    executor, _ = executor_of(options), grid(options.grid, mode="standard")

    def pretrain() -> Weights:
        with ProgressDisplay("pretraining the base") as display:
            return pretrained_base(options.device, on_step=display.follow)

    if options.scene != "tiny" and (options.forget or options.from_scratch):
        raise ParameterError(
            f"{options.scene} has no --forget and is always trained from scratch: leave them out, or "
            "describe a scene of your own for `negmerge sweep --scene FILE.toml`."
        )
    scene = open_scene(f"tiny:{options.forget or 'digits'}" if options.scene == "tiny" else options.scene)
    made = pretrain if options.from_scratch else None
    store, damaged = begin_pool(scene, options.out, options.device, pretrain=made)
    recipes = grid_of(store.scene, options.grid, options.precision)
    return print_sweep(fill("pool build", store, recipes, options, executor, damaged), options, parser)


def show(arguments: list[str]) -> int:
    """Print a pool's scene and its candidates with their own scores."""
    parser = Parser("pool show", "Show a pool's scene and candidates.")
    parser.add_argument("pool", type=Path, metavar="POOL")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)

    from negmerge_kit.analysis.inner_products import health_of, inner_products
    from negmerge_kit.merging.health import suggestion
    from negmerge_kit.pools.pool import open_pool
    from negmerge_kit.training.recipe import recipe_line

    store = open_pool(options.pool)
    try:
        health = health_of(store, inner_products(store))
    except NegmergeError as error:  # the table is worth showing all the same
        print(f"negmerge pool show: the candidates cannot be compared: {error}", file=sys.stderr)
        health = {}
    rows = {id: row.json(id) for id, row in health.items()}
    if options.json:
        print_json(
            {
                "pool": str(store.folder),
                "copies": store.copies,
                "health": list(rows.values()),
                "suggestion": suggestion(list(health.values())),
                "scene": store.scene,
                "candidates": [
                    {
                        "id": item.id,
                        "file": item.file,
                        "sha256": item.sha256,
                        "recipe": item.recipe,
                        "scores": item.scores,
                        "seconds": item.seconds,
                        "losses": item.losses,
                        "rates": item.rates,
                    }
                    for item in store.entries
                ],
            }
        )
        return 0
    scene = store.scene
    name = scene["name"] + ", linear models" * (scene["mode"] == "linear")
    print(f"{store.folder}\nscene {name}: forget {scene['forget']}, retain {', '.join(scene['retain'])}")
    labels = {item.id: recipe_line(item.recipe) for item in store.entries}
    wide = max((34, *(len(label) + 2 for label in labels.values())))
    print(f"\n{'candidate':14}{'recipe':{wide}}{'scale':>6}{'forget':>9}{'kept':>9}{HEADS}{'trained':>10}")
    for item in store.entries:
        columns = _own(item.scores) + health_cells(rows.get(item.id))
        print(f"{item.id:14}{labels[item.id]:{wide}}{columns}{item.seconds:>8.1f} s")
    print("\nforget, kept: the candidate negated alone at its own best scale, on validation, keeping 95 % of the base")
    print(EXPLAINED)
    for repeat in store.repeats:
        print(f"warning: {repeat}")
    print_warnings(list(rows.values()), suggestion(list(health.values())))
    return 0


def verify(arguments: list[str]) -> int:
    """Check every file of a pool against its recorded hash, and whether its candidates are worth merging."""
    parser = Parser("pool verify", "Check a pool's files against their hashes, and how alike its candidates are.")
    parser.add_argument("pool", type=Path, metavar="POOL")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)

    from negmerge_kit.merging import check_pool
    from negmerge_kit.pools.pool import open_pool

    store = open_pool(options.pool)
    problems = store.verify()
    if problems:
        raise NegmergeError("\n".join(problems))
    votes = store.only(store.distinct)
    bases = [store.base_file.sha256, *(store.stranger(entry) or store.base_file.sha256 for entry in votes.entries)]
    check = check_pool(store.base, votes.candidates, names=votes.ids, base_hashes=bases) if votes.ids else None
    if options.json:
        print_json({"pool": str(store.folder), "candidates": store.ids, **(check.as_json() if check else {})})
        return 0
    print(f"{store.folder}: base, heads and {len(store.ids)} candidates are as they were written")
    if check is None:
        return 0
    if pairs := [value for i, row in enumerate(check.cosines) for value in row[:i]]:
        print(f"cosine between candidates: {min(pairs):.2f} to {max(pairs):.2f}")
    print(f"all signs agree on {100 * check.agreement.unanimous_of_moved:.1f} % of the moved elements")
    for warning in (*store.repeats, *check.warnings):
        print(f"warning: {warning}")
    return 0


def _own(scores: Json | None) -> str:
    if not scores or scores["status"] != "ok":
        return f"{'-':>6}{'-':>9}{'-':>9}"
    return f"{scores['scale']:>6.2f}{100 * scores['forget']['value']:>7.1f} %{100 * scores['kept']:>7.1f} %"
