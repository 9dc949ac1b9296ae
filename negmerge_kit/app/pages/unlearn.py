"""What the main page answers: plain functions from the controls' values to its pieces of HTML."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from negmerge_kit.analysis.inner_products import health_of, inner_products, known_products
from negmerge_kit.app.pages import unlearn_pieces
from negmerge_kit.app.pages.rule_dials import buffers_of, params_of
from negmerge_kit.app.requests import RequestTracker
from negmerge_kit.app.score_cache import Scored
from negmerge_kit.app.templates import notice, progress, render
from negmerge_kit.data.embedded import FAMILIES
from negmerge_kit.errors import NegmergeError, ParameterError, PoolError, check_scale
from negmerge_kit.merging.rules import RULES
from negmerge_kit.merging.signs import chance, votes_needed
from negmerge_kit.plots import scale_curve, svg
from negmerge_kit.plots.before_after import named_right
from negmerge_kit.scenes.classifier_scene import ClassifierScene
from negmerge_kit.scoring.scale_search import DEFAULT_SCALES, KEEP, Point
from negmerge_kit.training.recipe import recipe_line
from negmerge_kit.unlearning.delta_cache import Choice

MOST_CANDIDATES = 10_000
COMPARED_AT_ONCE = 1 << 28
"""Bytes of candidates that are compared while a visitor waits: 120 MB took 1.2 s on two cores under a load of ten. More
are compared by `pool show` and by the Agreement page, which keep it.
"""
SEARCHES_AT_ONCE = len(DEFAULT_SCALES)
WAITING = "Candidates are being fine-tuned. Until the first one is done you see the base model."
EMPTY = "this pool has no finished candidate: fine-tune some with `negmerge pool build`, then reload the page."
TABLE = "`negmerge compare POOL --baselines all` holds every rule against a model that was trained without them."
AIM = (
    "A model that never saw the images to forget gets about as many of them right as of unseen ones: that level, not "
    f"chance, is what to aim at. {TABLE}"
)
AIM_OF_CLASS = f"A model that never saw this class gets hardly any of its images right. {TABLE}"
ALIKE = (
    "The images to forget and the remaining ones are training images, the same in both rows; only the unseen images of "
    "retain are others."
)
FIRST = "Press “Find the best scale” to start, or move the scale slider."


class Moved(NamedTuple):
    """What a slider move changes."""

    notice: str
    cards: str
    marker: str
    gallery: str


class Chosen(NamedTuple):
    """What another choice of candidates or rule changes."""

    notice: str
    cards: str
    marker: str
    gallery: str
    line: str
    curve: str
    agreement: str
    result: str


class Unlearn:
    """The main page over one workbench; visitors share what has been measured, never their choices."""

    def __init__(self, scored: Scored, *, growing: bool = False, visitors: RequestTracker | None = None) -> None:
        self.scored, self.bench, self.growing = scored, scored.bench, growing
        live = self.bench.images("live")
        right = named_right(self.bench.look(None, 0.0)[1], live)
        self.gallery = unlearn_pieces.Gallery(live, right)
        scored.watch(self.gallery.places, right)
        self._base, self._said, self._none_lost = scored.look(None, 0.0)
        self._classes = len(live.forget.classes)
        self.forget_title = _title(live.forget.name)
        several = len(live.retain) > 1
        self.retain_title = f"everything else ({len(live.retain)} families)" if several else _title(live.retain[0].name)
        self._of: tuple[str, str] | None = None
        self._aim = self._alike = ""
        if isinstance(scene := self.bench.scene, ClassifierScene):
            forgetting = scene.forgetting
            self.forget_title, self.retain_title = forgetting.label, "remaining and unseen images"
            self._of = "training images", "remaining training and unseen validation images"
            self._aim = AIM_OF_CLASS if forgetting.of_class is not None else AIM
            self._alike = ALIKE
        self._bars = unlearn_pieces.AgreementBars(self.bench)
        self._visitors = visitors or RequestTracker()

    @property
    def classifier(self) -> bool:
        """Whether the pool's model is a standard classifier, whose forget set is part of what it was trained on."""
        return self._of is not None

    # --- reading the controls -----------------------------------------------------------------

    def choice(self, ids: Sequence[str], rule: str, dials: Sequence[Any]) -> Choice:
        """The choice that the controls describe.

        Raises:
            ParameterError, PoolError: with a sentence for the page.
        """
        if not self.bench.pool.ids:
            raise PoolError(WAITING if self.growing else EMPTY)
        if not ids:
            raise ParameterError("no candidate is selected: tick at least one in step 1.")
        if not isinstance(ids, list) or len(ids) > MOST_CANDIDATES or not all(isinstance(id, str) for id in ids):
            raise ParameterError("candidates must be a list of candidate ids: reload the page.")
        if not isinstance(rule, str) or rule not in RULES:
            raise ParameterError(f"there is no rule '{rule}': choose among {', '.join(RULES)}.")
        return self.bench.choose(list(ids), rule, params_of(rule, dials), buffers=buffers_of(dials[-1]))

    def scale(self, value: object) -> float:
        """The scale that the slider sent.

        Raises:
            ParameterError: if it is not a finite number from 0 to the slider's end.
        """
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ParameterError(f"scale is {value!r}: give a number.")
        if value > scale_curve.MOST_SCALE:  # before anything makes a float of it: an integer may be too long for one
            raise ParameterError(f"scale is {value!r}: this page goes up to {scale_curve.MOST_SCALE:g}.")
        return check_scale(value)

    def keep(self, value: object) -> float:
        """The share of retention to keep that the slider sent.

        Raises:
            ParameterError: if it is not a number above 0 and at most 1.
        """
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise ParameterError(f"keep at least is {value!r}: give a share above 0 and at most 1, such as 0.95.")
        return float(value)

    # --- answers ------------------------------------------------------------------------------

    def moved(self, ids: Sequence[str], rule: str, keep: float, scale: float, *dials: Any) -> Moved:
        """The numbers, marker and pictures at this scale: one update of the weights and one pass over the images."""
        try:
            choice, keep = self.choice(ids, rule, dials), self.keep(keep)
            now, said, lost = self.scored.look(choice, self.scale(scale))
        except NegmergeError as error:
            return self._base_only(error, keep)
        shown, base = self._best_known(choice, now)
        first = FIRST if not scale and not self.scored.known(choice).searches else ""
        given_up = self.bench.given_up and f"For want of memory: {self.bench.given_up}."
        hint = " ".join(part for part in (first, given_up, self._aim) if part)
        return Moved(
            notice(hint, "hint"),
            self._cards(base, shown, keep),
            unlearn_pieces.marker(shown, self.scored.known(choice).end),
            self.gallery.html(self._said, said, lost, self.scored.known(choice).said),
        )

    def chosen(
        self, session: str, ids: Sequence[str], rule: str, keep: float, scale: float, *dials: Any, number: object = 0
    ) -> Chosen:
        """Everything on the right for another choice; the curve shows what is known and is filled in by `fill`.

        `number` is the page's own of this request: an older choice than the visitor's latest does not replace it.
        """
        try:
            choice, keep = self.choice(ids, rule, dials), self.keep(keep)
            self._now(session, (choice, keep), number)
            known = self.scored.known(choice)
            known.end = max(known.end, scale_curve.reach(self.scale(scale)))
            line, bars = self.kept_line(choice), self._bars.html(choice)
        except NegmergeError as error:
            self._now(session, None, number)
            return Chosen(
                *self._base_only(error, keep), "", self.curve(None, _shown_keep(keep)), render("unlearn.no_bars"), ""
            )
        moved = self.moved(ids, rule, keep, scale, *dials)
        return Chosen(*moved, line, self.curve(choice, keep), bars, self.result(choice, keep))

    def fill(self, session: str, ids: Sequence[str], rule: str, keep: float, *dials: Any) -> Iterator[str]:
        """The curve when 1, 2, 4, … more scales have been scored, and all: drawing takes as long as scoring one.

        It ends when the visitor chooses something else.
        """
        try:
            choice, keep = self.choice(ids, rule, dials), self.keep(keep)
            known = self.scored.known(choice)
            # After a search the whole validation split is what the curve shows.
            steps = self.scored.fill_whole(choice, keep) if keep in known.searches else self.scored.fill_live(choice)
            count = 0
            for count, _ in enumerate(steps, 1):
                if not self._is_at(session, choice, keep):
                    return
                if _power_of_two(count):
                    yield self.curve(choice, keep)
            if count and not _power_of_two(count):
                yield self.curve(choice, keep)
        except NegmergeError:
            return  # `chosen` has said it already

    def find(
        self, session: str, ids: Sequence[str], rule: str, keep: float, *dials: Any, number: object = 0
    ) -> Iterator[tuple[str, float | None]]:
        """(result so far, scale once it is found) of the search over the whole validation split.

        It ends without a scale once the visitor has chosen something else, another floor too.

        Raises:
            ParameterError, PoolError: with a sentence for the page.
        """
        choice, keep = self.choice(ids, rule, dials), self.keep(keep)
        self._now(session, (choice, keep), number)
        if not self._is_at(session, choice, keep):
            return  # it waited in line while another choice arrived
        if self.scored.jobs.busy and keep not in self.scored.known(choice).searches:
            waiting = progress("Waiting for another job to end", 0.0, "One heavy job runs at a time.")
            yield render("unlearn.card", waiting), None
        began, count = None, 0
        for point in self.scored.search(choice, keep):
            if not self._is_at(session, choice, keep):
                return
            if point is None:
                continue
            began, count = began or time.monotonic(), count + 1
            doing = f"Scoring scale {point.scale:g} on the whole validation split"
            most = max(SEARCHES_AT_ONCE, count + 1)  # a search that goes on beyond the grid looks at more
            left = _left(time.monotonic() - began, count - 1, most - count) if count < SEARCHES_AT_ONCE else ""
            yield render("unlearn.card", progress(doing, count / most, left)), None
        best = self.scored.known(choice).searches[keep].best
        if self._is_at(session, choice, keep):  # scoring it on test took its time, too
            yield self.result(choice, keep), best.scale if best else None

    # --- pieces -------------------------------------------------------------------------------

    def kept_line(self, choice: Choice) -> str:
        """How much of what moved the rule keeps, held against chance where the rule votes."""
        counts, n = self.bench.merged(choice, exact=False).counts, len(choice.candidates)
        agreement = dict(choice.params).get("agreement")
        votes = None if agreement is None or n == 1 else (chance(n, agreement), votes_needed(n, agreement), n)
        return render("unlearn.kept_line", counts, votes) + self._odd(choice)

    def _odd(self, choice: Choice) -> str:
        """Chosen candidates that do not belong with the others; of a large pool only once they have been compared."""
        pool = self.bench.pool
        small = sum((pool.folder / entry.file).stat().st_size for entry in pool.entries) <= COMPARED_AT_ONCE
        products = inner_products(pool) if small else known_products(pool)
        if products is None:
            return ""
        labels = dict(zip(pool.ids, (recipe_line(entry.recipe) for entry in pool.entries), strict=True))
        return "".join(
            notice(row.sentence(labels[id]), "hint") for id, row in health_of(pool, products, choice.candidates).items()
        )

    def curve(self, choice: Choice | None, keep: float) -> str:
        """The curve as far as it is known: whole-validation points over the live ones once there is a search."""
        known = self.scored.known(choice) if choice else None
        found = known.searches.get(keep) if known else None
        live = self.scored.live(choice) if choice else {}
        if choice and known and found:
            base, behind = self.scored.base("val"), [self._base, *live.values()]
            given_up = {p.scale: p for p in found.curve if p.scale and not p.retain}
            whole = self.scored.whole(choice)
            points = list((given_up | whole).values())
            wanted = [p.scale for p in found.curve if p.scale <= known.end]
            there: set[float] = {0.0, *whole}
        else:
            base, points, behind = self._base, list(live.values()), []
            wanted = [0.0, *(known.live_scales() if known else ())]
            there = {0.0, *live}
        best, end = (found.best if found else None), known.end if known else scale_curve.LARGEST_SCALE
        limit = self.bench.largest_scale(choice) if choice else 0.0
        wanted = [scale for scale in wanted if scale < limit]
        measured = sum(scale in there for scale in wanted)
        note = f"filling in {measured} of {len(wanted)} scales" if measured < len(wanted) else ""
        figure = scale_curve.scale_curve(
            points, base=base, keep=keep, best=best, behind=behind, titled=False, end=end, note=note
        )
        finding = scale_curve.curve_finding(points, base=base, keep=keep, best=best)
        return svg.inline(figure, f"{finding}; {note}" if note else finding, name="curve")

    def result(self, choice: Choice, keep: float) -> str:
        """What the search for this choice and floor found, or nothing before it."""
        known = self.scored.known(choice)
        if keep not in known.searches:
            return ""
        test = self.scored.test(choice, keep)
        return unlearn_pieces.result(known.searches[keep], test, 1 / self._classes, self._alike)

    def _best_known(self, choice: Choice, now: Point) -> tuple[Point, Point]:
        """(point, base) on the whole validation split where that has been scored, else live."""
        whole = self.bench.scorer.found(choice, now.scale)
        return (whole, self.scored.base("val")) if whole else (now, self._base)

    def _cards(self, base: Point, now: Point, keep: float) -> str:
        titles = {"forget": self.forget_title, "retain": self.retain_title}
        return unlearn_pieces.cards(titles, self._classes, base, now, _shown_keep(keep), of=self._of)

    def _base_only(self, error: NegmergeError, keep: float) -> Moved:
        kind = "hint" if str(error) == WAITING else "alert"
        pictures = self.gallery.html(self._said, self._said, self._none_lost, {})
        return Moved(notice(str(error), kind), self._cards(self._base, self._base, keep), "", pictures)

    def _now(self, session: str, what: tuple[Choice, float] | None, number: object = 0) -> None:
        self._visitors.chose(session, what and (self.bench.pool.folder, *what), number)

    def _is_at(self, session: str, choice: Choice, keep: float) -> bool:
        return self._visitors.is_at(session, (self.bench.pool.folder, choice, keep))


def _power_of_two(count: int) -> bool:
    return count & (count - 1) == 0


def _left(gone: float, done: int, left: int) -> str:
    """Time left from what the steps so far have taken; at most, because a search may end early."""
    return f"at most about {gone / done * left:.0f} s left" if done and gone > 1 else ""


def _shown_keep(value: object) -> float:
    """A floor to draw although the slider sent none that can be used; the notice says what is wrong with it."""
    return float(value) if isinstance(value, (int, float)) and 0 < value <= 1 else KEEP


def _title(family: str) -> str:
    return FAMILIES[family].title.lower() if family in FAMILIES else family
