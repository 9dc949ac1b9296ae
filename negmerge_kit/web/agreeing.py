"""What the Agreement page answers: where the candidates' signs agree, on how many weights, and what that comes from."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

from torch import Tensor

from negmerge_kit.errors import ParameterError
from negmerge_kit.lab.delta_cache import Choice
from negmerge_kit.lab.likeness import inner_products, outliers_of
from negmerge_kit.lab.step_along import step_along
from negmerge_kit.lab.training.recipe import recipe_line
from negmerge_kit.lab.why_signs import Why, why_signs
from negmerge_kit.lab.workbench import Workbench
from negmerge_kit.merging.agreement import LayerAgreement, total
from negmerge_kit.merging.signs import chance, votes_needed
from negmerge_kit.progress import Progress, ProgressFn, no_progress
from negmerge_kit.types import Weights
from negmerge_kit.views import svg
from negmerge_kit.views.blocks import agreement_map, map_finding
from negmerge_kit.views.plots import agreement_finding, agreement_shares
from negmerge_kit.views.style import percent
from negmerge_kit.views.votes import consensus_by_count, vote_finding, vote_histogram
from negmerge_kit.views.why import why_figure, why_finding
from negmerge_kit.vision.layers import block_and_kind, layer_of, reading_order
from negmerge_kit.web.jobs import Done, Job, JobProgress, Jobs

WHOLE = "the whole model"
REMEMBERED = 32


class Seen(NamedTuple):
    """The page's pieces for one choice."""

    finding: str
    layers: list[str]
    histogram: str
    map: str
    table: str


class Agreeing:
    """Agreement of chosen candidates on one workbench, each choice counted once."""

    def __init__(self, bench: Workbench, jobs: Jobs) -> None:
        self.bench, self.jobs, self._counting = bench, jobs, Jobs()
        self._layers: OrderedDict[object, list[LayerAgreement]] = OrderedDict()
        self._whys: OrderedDict[object, Why] = OrderedDict()
        self._turn = threading.Lock()

    def count(self, visitor: str, choice: Choice) -> Iterator[JobProgress | Done]:
        """How far counting the votes is, beside heavy jobs; nothing where they are counted.

        Raises:
            NegmergeError: with a sentence for the page.
        """
        with self._turn:
            known = choice.voters in self._layers
        if not known:
            key = ("count", choice.voters)
            yield from self._counting.follow(visitor, key, lambda job: self.layers(choice, report=job.report))

    def leave(self, visitor: str) -> None:
        """This visitor waits for no count any more."""
        self._counting.cancel(visitor)

    def layers(self, choice: Choice, *, report: ProgressFn = no_progress) -> list[LayerAgreement]:
        """The votes by tensor, in the order of the network."""
        with self._turn:
            if choice.voters in self._layers:
                return self._layers[choice.voters]
        by_name = {layer.name: layer for layer in self.bench.agreement(choice.candidates, report=report)}
        report(Progress("Comparing the candidates of this pool", 1.0))
        inner_products(self.bench.pool)  # kept in its folder, for this page and for Unlearn
        found = [by_name[name] for name in reading_order(by_name)]
        with self._turn:
            self._layers[choice.voters] = found
            if len(self._layers) > REMEMBERED:
                self._layers.popitem(last=False)
        return found

    def see(self, choice: Choice, of: str = WHOLE) -> Seen:
        """Histogram, map and table of a choice.

        Raises:
            NegmergeError: with a sentence for the page.
        """
        layers, (votes, line) = self.layers(choice), _threshold(choice)
        finding = agreement_finding(layers, votes=votes, chance=line)
        map_ = agreement_map(layers, votes=votes, chance=line)
        heat = (
            '<div class="nm-scroll" tabindex="0" role="region" aria-label="by block and kind"><div class="nm-paper">'
            f"{svg.inline(map_, map_finding(agreement_shares(layers, votes), line), name='map')}</div></div>"
        )
        names = [WHOLE, *dict.fromkeys(layer_of(layer.name) for layer in layers if layer.moved)]
        return Seen(finding, names, self.histogram(choice, of if of in names else WHOLE), heat, _tree(layers))

    def odd(self, choice: Choice) -> list[str]:
        """A sentence for each chosen candidate that does not belong with the others."""
        pool = self.bench.pool
        found = outliers_of(pool, inner_products(pool), choice.candidates)
        return [odd.sentence(recipe_line(pool.entry(id).recipe)) for id, odd in found]

    def histogram(self, choice: Choice, of: object) -> str:
        """The votes of the whole model or of one layer, against chance.

        Raises:
            ParameterError: for a layer that is not there.
        """
        layers, (votes, _) = self.layers(choice), _threshold(choice)
        chosen = layers if of == WHOLE else [layer for layer in layers if layer_of(layer.name) == of]
        if not chosen or not isinstance(of, str):
            raise ParameterError("there is no such layer in this model: choose one of the list.")
        added = total(chosen)
        return svg.inline(
            vote_histogram(added, votes=votes, of=of), vote_finding(added, votes=votes, of=of), name="votes"
        )

    def explained(self, choice: Choice) -> str:
        """The figures of `explain` if they are there; nothing before."""
        with self._turn:
            why = self._whys.get(choice.voters)
        return _explained(why) if why else ""

    def explain(self, visitor: str, choice: Choice) -> Iterator[JobProgress | Done]:
        """Steps along consensus and conflict, zeros as candidates join, and what the cosines predict.

        Raises:
            NegmergeError: with a sentence for the page.
        """
        if html := self.explained(choice):
            yield Done(html)
            return
        key = ("explain", self.bench.pool.folder, choice.voters)
        for news in self.jobs.follow(visitor, key, lambda job: self._explain(job, choice)):
            if isinstance(news, Done):
                with self._turn:
                    self._whys[choice.voters] = news.result
                    if len(self._whys) > REMEMBERED:
                        self._whys.popitem(last=False)
                news = Done(_explained(news.result))
            yield news

    def _explain(self, job: Job, choice: Choice) -> Why:
        pool = self.bench.pool

        def on_step(at: Progress) -> None:
            job.tell(f"Steps along consensus, conflict and controls: {at.step} of {at.total}", 0.5 * at.step / at.total)

        steps = step_along(self.bench, choice.candidates, on_step=on_step)
        job.tell("Signs along random orders and halves of the candidates", 0.5)
        entries = [pool.entry(id) for id in choice.candidates]
        tuned = [pool.checked(entry) for entry in entries]
        return why_signs(
            _Stoppable(pool.checked(pool.base_file), job),
            tuned,
            names=choice.candidates,
            recipes=[entry.recipe for entry in entries],
            directions=steps,
        )


class _Stoppable(Mapping[str, Tensor]):
    """The base's weights, which end the job where the next tensor is read."""

    def __init__(self, weights: Weights, job: Job) -> None:
        self._weights, self._job = weights, job

    def __getitem__(self, name: str) -> Tensor:
        self._job.tell()
        return self._weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def _threshold(choice: Choice) -> tuple[int, float]:
    """Votes that the choice's rule asks for, all of them where it asks for none, and what chance gives."""
    n, share = len(choice.candidates), float(dict(choice.params).get("agreement", 1.0))
    return votes_needed(n, share), chance(n, share)


def _explained(why: Why) -> str:
    zeros = svg.inline(consensus_by_count(why.zero_ratio), why.finding, name="zeros")
    whole = svg.inline(why_figure(why), why_finding(why), name="why")
    return (
        f'<div class="nm-stack"><p class="nm-fine">{escape(why.finding)}</p>'
        f'<div class="nm-paper nm-slim">{zeros}</div>'
        '<div class="nm-scroll" tabindex="0" role="region" aria-label="figure">'
        f'<div class="nm-paper nm-broad">{whole}</div></div></div>'
    )


def _tree(layers: Sequence[LayerAgreement]) -> str:
    """Blocks that open to their tensors, each with what moved and the shares on which all signs agree."""
    groups: dict[str, list[LayerAgreement]] = {}
    for layer in layers:
        block, _ = block_and_kind(layer.name)
        text = "text " if layer_of(layer.name).startswith("text ") else ""
        groups.setdefault(f"{text}block {block}" if block else f"{text}outside the blocks", []).append(layer)
    return "".join(_branch(name, group) for name, group in groups.items())


def _branch(name: str, group: Sequence[LayerAgreement]) -> str:
    added = total(group)
    rows = "".join(
        f'<tr><th scope="row"><code>{escape(layer.name)}</code><td>{layer.elements:,}<td>{layer.moved:,}'
        f"<td>{percent(layer.unanimous_of_moved)}<td>{percent(layer.unanimous_fraction)}</tr>"
        for layer in group
    )
    return (
        f"<details><summary><b>{escape(name)}</b> {len(group)} tensors, {added.moved:,} moved, all signs agree on "
        f"<b>{percent(added.unanimous_of_moved)}</b></summary>"
        f'<div class="nm-scroll" tabindex="0" role="region" aria-label="tensors of {escape(name, quote=True)}">'
        '<table class="nm-table"><thead><tr><th scope=col>tensor'
        "<th scope=col>elements<th scope=col>moved<th scope=col>all agree, of moved<th scope=col>of all</tr></thead>"
        f"<tbody>{rows}</tbody></table></div></details>"
    )
