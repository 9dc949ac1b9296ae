"""The unlearning card as a page: Markdown that the Hub takes as a model card, with the whole record inside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from negmerge_kit.audits.probe import ARROWS, verdict_words
from negmerge_kit.models.model_spec import base_on_hub, licence_of_base
from negmerge_kit.types import Json

FENCE = "```json\n"
"""What the record inside the Markdown begins with."""


def card_markdown(record: Json, *, licence: str | None = None) -> str:
    """The card as Markdown with the YAML front matter of a Hub model card, and the record itself at its end."""
    scene, params = record["scene"], record["params"]
    dials = ", ".join(f"{name} {value}" for name, value in params.items()) or "no dials"
    probes = record.get("probes")
    seeds = {"rule": params.get("seed"), "recipes": [c["recipe"].get("seed") for c in record["candidates"]]}
    parts = [
        f"---\n{front_matter(record, licence=licence)}\n---",
        f"# {_title(record)}",
        f"> {record['limits']}",
        "## What was done",
        f"Unlearned weights = base − {record['scale']:g} × merged delta, of {len(record['candidates'])} candidates by "
        f"the rule **{record['rule']}** ({dials}; buffers {record['buffers']}). The delta is not zero on "
        f"{record['kept']:,} of {record['moved']:,} moved elements, of {record['elements']:,} in all.",
        *["The model is linear: the tangent of the network at its base."] * (scene.get("mode") == "linear"),
        f"The scale was chosen {_how(record)}.",
        *_forced(record),
        "## Results",
        "Accuracy with Wilson's 95 % interval.",
        _table(["split", "set", "base", "unlearned", "n"], _results(record)),
        "## Probes of forgetting",
        *([record["finding"]] if record.get("finding") else []),
        _table(
            ["probe, good direction", "asks", "base", "unlearned", "retrained", "shuffled", "chance", "verdict"],
            map(_probe, probes),
        )
        if probes
        else "No audit was run. `negmerge audit` asks whether the knowledge can still be read out or relearned.",
        "## Made from",
        _table(["file", "SHA-256", "recipe"], _files(record)),
        "## Data",
        _table(
            ["set", "split", "n", "seed", "fingerprint (SHA-256)"],
            ([s["name"], s["split"], s["n"], s.get("seed"), f"`{s['fingerprint']}`"] for s in scene.get("sets", ())),
        ),
        "## Costs",
        _table(["what", "value"], [[name.replace("_", " "), _cost(name, v)] for name, v in record["costs"].items()]),
        "## Made with",
        _table(["package", "version"], record["versions"].items()),
        f"Device {record.get('device')}. Made {record['made']}. Seeds: {json.dumps(seeds)}.",
        "## Use it",
        _usage(record),
        "## Check it",
        "`negmerge verify CARD --pool POOL` hashes the files, merges again and compares every bit, and scores again.",
        f"<details><summary>The record of this card</summary>\n\n{FENCE}{dumped(record)}\n```\n\n</details>\n",
    ]
    return "\n\n".join(parts)


def front_matter(record: Json, *, licence: str | None = None) -> str:
    """The YAML that the Hub reads: what the model is, its licence, and its accuracy on test, by set."""
    from huggingface_hub import EvalResult, ModelCardData

    scene, test = record["scene"], record["scores"].get("test") or {}
    model, base = _model(scene), base_on_hub(scene.get("model"))
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type="/".join(names)[:100],
            dataset_name=f"{side}: {', '.join(names)}",
            dataset_split="test",
            metric_type="accuracy",
            metric_value=round(test[side]["value"], 6),
        )
        for side, names in (("forget", [scene.get("forget", "")]), ("retain", list(scene.get("retain", ()))))
        if test.get(side)
    ]
    data = ModelCardData(
        model_name=_title(record),
        tags=["merge", "machine-unlearning", "negmerge", record["rule"]],
        library_name="timm" if model.startswith("timm:") else "open_clip",
        pipeline_tag="image-classification" if model.startswith("timm:") else "zero-shot-image-classification",
        base_model=base,
        base_model_relation="merge" if base else None,
        license=licence or licence_of_base(scene.get("model")),
        eval_results=results or None,
    )
    return data.to_yaml().strip()


def dumped(record: Json) -> str:
    """The record as the JSON that both files hold."""
    return json.dumps(record, indent=1, allow_nan=False)


def _title(record: Json) -> str:
    scene = record["scene"]
    return f"{_model(scene)} without {scene.get('forget', 'its forget set')}"


def _model(scene: Json) -> str:
    model = scene.get("model", "model")
    if not isinstance(model, dict):
        return str(model)
    return f"{model.get('arch')} at {model['size']} pixels" if "size" in model else str(model.get("arch"))


def _how(record: Json) -> str:
    return f"by {record['chosen']}" if record.get("search") else str(record["chosen"])


def _usage(record: Json) -> str:
    model, file = record["scene"].get("model"), (record.get("file") or {}).get("name", "FILE")
    linear = record["scene"].get("mode") == "linear"  # such weights mean nothing to a network that is not its tangent
    lines = [
        "from negmerge_kit import load_model, open_checkpoint",
        *["from negmerge_kit.models.linearized import linearize"] * linear,
        f"model = linearize(load_model({model!r}))" if linear else f"model = load_model({model!r})",
        f"model.load(open_checkpoint({file!r}).items())",
    ]
    return "\n".join(["```python", *lines, "```"])


def _forced(record: Json) -> list[str]:
    named = record.get("forced") or []
    return [f"**Forced:** {', '.join(named)} were made from another base, and merged with `--force`."] if named else []


def _results(record: Json) -> Iterator[list[Any]]:
    scene = record["scene"]
    names = {"forget": scene.get("forget", ""), "retain": ", ".join(scene.get("retain", ()))}
    for split, scores in record["scores"].items():
        for side in ("forget", "retain") if scores else ():
            base, now = (scores["base"] or {}).get(side), scores.get(side)
            yield [split, f"{side}: {names[side]}", _score(base), _score(now), now["n"] if now else ""]


def _files(record: Json) -> Iterator[list[Any]]:
    file = record.get("file")
    if file:
        for name, digest in (file.get("shards") or {file["name"]: file.get("sha256")}).items():
            yield [f"unlearned: {name}", f"`{digest}`", ""]
    yield ["base", f"`{record['base']['sha256']}`", ""]
    yield ["heads", f"`{record['heads']['sha256']}`", ""]
    for candidate in record["candidates"]:
        recipe = ", ".join(f"{name} {value}" for name, value in candidate["recipe"].items())
        yield [f"candidate {candidate['id']}", f"`{candidate['sha256']}`", recipe]


def _probe(probe: Json) -> list[Any]:
    answers = [_score(probe.get(key)) for key in ("base", "unlearned", "retrained", "shuffled")]
    chance = "–" if probe.get("chance") is None else f"{100 * probe['chance']:.1f} %"
    verdict = f"not defined: {probe['undefined']}" if probe.get("undefined") else verdict_words(probe) or "–"
    return [f"{probe['name']}{ARROWS.get(probe.get('good'), '')}", probe.get("asks", ""), *answers, chance, verdict]


def _score(score: Any) -> str:
    if score is None:
        return "–"
    return f"{100 * score['value']:.1f} % ({100 * score['low']:.1f}–{100 * score['high']:.1f})"


def _cost(name: str, value: Any) -> str:
    if value is None:
        return "not known"
    if name == "peak_memory":
        return f"{value / 1e6:.0f} MB"
    return f"{value:.2f} s" if name.endswith("seconds") else str(value)


def _table(head: list[str], rows: Iterable[Iterable[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
