"""LoRA configurations: the scale of B·A, and the settings under which B·A is no delta of the base."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from negmerge_kit.errors import CheckpointError
from negmerge_kit.merging.lora import low_rank_scale
from negmerge_kit.safe_json import read_json

CONFIG = "adapter_config.json"
DIFFUSERS_KEY = "lora_adapter_metadata"
"""Where diffusers keeps the configuration inside the weights, each entry under its component's name."""
HARMLESS_STARTS = ("gaussian", "eva", "orthogonal", "mica")
"""Initialisations of PEFT 0.21, next to True and False, that leave the base as it is."""
CONVERTIBLE = ("pissa", "corda", "olora", "lora_ga")
"""Those that change the base and that PEFT turns back when it saves."""
VARIANTS = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "kasa_config": "KaSA",
    "arrow_config": "Arrow",
    "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "layer replication",
    "target_parameters": "LoRA on parameters that belong to no layer",
    "trainable_token_indices": "trained tokens",
}
"""Entries of a PEFT configuration that, where they are set, make the change something else than scale · B A."""
LONGEST = 1000
"""Characters of a pattern."""
LARGEST = 10**9
T = TypeVar("T")


@dataclass(frozen=True)
class Scaling:
    """How strongly an adapter's factors act, module by module; the rank is that of the factors themselves.

    `alpha` None is diffusers' rule for files without an alpha: the scale is 1.

    >>> Scaling(alpha=8, alphas={"blocks.0.q": 64}).scale("model.blocks.0.q", 4), Scaling(alpha=8).scale("q", 4)
    (16.0, 2.0)
    """

    alpha: float | None = None
    rank: int | None = None
    alphas: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)
    rank_stabilised: bool = False
    transposed: bool = False

    def scale(self, module: str, rank: int) -> float:
        """The number that multiplies B A of this module."""
        alpha = matching(self.alphas, module, self.alpha)
        return 1.0 if alpha is None else low_rank_scale(alpha, rank, rank_stabilised=self.rank_stabilised)

    def rank_of(self, module: str) -> int | None:
        """The rank that the configuration gives this module; None where it gives none."""
        return matching(self.ranks, module, self.rank)


def matching(patterns: Mapping[str, T], module: str, otherwise: T) -> T:
    """The value of the first pattern that fits a module's name, as PEFT's `get_pattern_key` has it.

    A pattern is a regular expression for the end of the name, from a dot or from the beginning.

    >>> matching({r".*resblocks\\.0\\..*c_fc": 64}, "visual.resblocks.0.mlp.c_fc", 8)
    64
    >>> matching({"q": 64}, "attn.q", 8), matching({"q": 64}, "attn.iq", 8)
    (64, 8)
    """
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), otherwise)


def read_scaling(folder: Path) -> Scaling:
    """Read the scaling from `adapter_config.json` in a folder.

    Raises:
        CheckpointError: if it cannot be read, is of another method than LoRA, or describes what is no delta.
    """
    file = folder / CONFIG
    try:
        config = read_json(file, dict)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}): save the adapter again.") from error
    return scaling_of(config, file)


def scaling_of(config: Any, where: Path) -> Scaling:
    """The scaling of a PEFT configuration; raises as `read_scaling` does, with `where` in the message.

    >>> scaling_of({"peft_type": "LORA", "lora_alpha": 16, "r": 8}, Path("adapter_config.json")).scale("q", 8)
    2.0
    """
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise CheckpointError(
            f"{where} is of an adapter of type {kind!r}: only LORA adapters have a delta to merge; "
            "merge others into their base and give the whole checkpoint."
        )
    _check_variant(config, where)
    _check_start(config.get("init_lora_weights", True), where)
    alphas, ranks = config.get("alpha_pattern") or {}, config.get("rank_pattern") or {}
    for name, table in (("alpha_pattern", alphas), ("rank_pattern", ranks)):
        if not isinstance(table, dict):
            raise _wrong(where, name, table, "a table of patterns")
        for pattern, value in table.items():
            _check_pattern(pattern, where, name)
            _check_number(value, where, name, whole=name == "rank_pattern")
    _check_number(config.get("lora_alpha"), where, "lora_alpha")
    if config.get("r") is not None:
        _check_number(config["r"], where, "r", whole=True)
    return Scaling(
        alpha=config["lora_alpha"],
        rank=config.get("r"),
        alphas=alphas,
        ranks=ranks,
        rank_stabilised=bool(config.get("use_rslora")),
        transposed=bool(config.get("fan_in_fan_out")),
    )


def _check_variant(config: Mapping[str, Any], where: Path) -> None:
    for entry, name in VARIANTS.items():
        if config.get(entry):
            raise CheckpointError(
                f"{where} is of a {name} adapter ({entry}), whose change is not scale · B A of one weight: "
                "merge it into its base with PEFT's merge_and_unload, where PEFT can, and give the whole checkpoint."
            )


def _check_start(start: Any, where: Path) -> None:
    """Refuse an initialisation that took B A out of the base: B A is then no task vector of that base."""
    if start is None or isinstance(start, bool) or (isinstance(start, str) and start.lower() in HARMLESS_STARTS):
        return
    cure = "merge it into the base that it was trained on and give the whole checkpoint"
    if isinstance(start, str) and start.lower().startswith(CONVERTIBLE):
        cure = (
            "save it with PEFT's save_pretrained(..., path_initial_model_for_weight_conversion=INITIAL_ADAPTER), "
            f"which turns it into a plain LoRA adapter, or {cure}"
        )
    raise CheckpointError(
        f"{where} has init_lora_weights {start!r:.60}, which is not known to leave the base alone, so that B A is no "
        f"delta from it: {cure}."
    )


def _check_pattern(pattern: str, where: Path, name: str) -> None:
    # A repeated group may take for ever to fail on a name; PEFT's own examples have none.
    if len(pattern) > LONGEST or re.search(r"\)\s*[*+{]", pattern):
        raise CheckpointError(
            f"{where} has a pattern in {name} that is too long or repeats a group: {pattern!r:.60}. "
            "Write the modules' names instead."
        )
    try:
        re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, RecursionError, OverflowError) as error:
        raise CheckpointError(
            f"{where} has a pattern in {name} that is no regular expression ({error}): {pattern!r:.60}. Correct it."
        ) from error


def _check_number(value: Any, where: Path, name: str, *, whole: bool = False) -> None:
    number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not number or not (1 if whole else -LARGEST) <= value <= LARGEST:
        raise _wrong(where, name, value, "a whole number from 1" if whole else "a finite number")


def _wrong(where: Path, name: str, value: Any, kind: str) -> CheckpointError:
    return CheckpointError(f"{where} has {name} {value!r:.60}, where {kind} belongs: save the adapter again.")
