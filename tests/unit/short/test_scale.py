"""How the pool grows and shrinks: by what waits, with hysteresis, never below or above its bounds."""

from __future__ import annotations

import random

from hpcpools.schema import Seconds, Short
from hpcpools.short.scale import PAUSE, Load, Scale

SHORT = Short(workers=2, max_workers=8, grow_after=Seconds(10), grow_backlog=20, shrink_after=Seconds(60))


def test_a_fixed_pool_has_nothing_to_decide() -> None:
    """Without max_workers, or below workers."""
    assert Scale(Short(workers=4)).fixed
    assert Scale(Short(workers=4, max_workers=3)).fixed
    assert not Scale(SHORT).fixed


def test_it_grows_by_age_or_by_length_only_when_all_are_busy() -> None:
    """A backlog behind idle workers is no reason: they take it at once."""
    assert Scale(SHORT).wanted(Load(waiting=1, oldest=9.9, workers=2, busy=2), 0) == 2
    assert Scale(SHORT).wanted(Load(waiting=1, oldest=10.0, workers=2, busy=2), 0) == 3
    assert Scale(SHORT).wanted(Load(waiting=39, oldest=0.1, workers=2, busy=2), 0) == 2
    assert Scale(SHORT).wanted(Load(waiting=40, oldest=0.1, workers=2, busy=2), 0) == 4
    assert Scale(SHORT).wanted(Load(waiting=500, oldest=99, workers=2, busy=1), 0) == 2


def test_it_grows_in_steps_to_the_maximum() -> None:
    """At most the double at a time, a pause between two steps."""
    scale, workers, seen = Scale(SHORT), 2, []
    for second in range(30):
        workers = scale.wanted(Load(waiting=1000, oldest=60, workers=workers, busy=workers), second)
        seen.append(workers)
    assert seen[: int(PAUSE) + 1] == [4] * int(PAUSE) + [8]
    assert set(seen[int(PAUSE) :]) == {8}


def test_it_shrinks_to_what_was_needed_lately() -> None:
    """A lull shorter than shrink_after changes nothing; then the peak of the window counts."""
    scale = Scale(SHORT)
    assert scale.wanted(Load(waiting=1000, oldest=60, workers=4, busy=4), 0) == 8
    for second in range(1, 100):
        busy = 5 if second == 50 else 0
        wanted = scale.wanted(Load(waiting=0, oldest=0, workers=8, busy=busy), second)
        assert wanted == (8 if second < 60 else 5), second
    assert scale.wanted(Load(waiting=0, oldest=0, workers=5, busy=0), 111) == 2


def test_no_load_whatever_breaks_the_bounds() -> None:
    """Random loads: always between the bounds, and never fewer than are busy."""
    dice = random.Random(1)
    scale, workers, now = Scale(SHORT), 2, 0.0
    for _ in range(5000):
        now += dice.random() * 10
        busy = dice.randint(0, workers)
        load = Load(dice.choice((0, 0, 5, 900)), dice.random() * 20, workers, busy)
        workers = scale.wanted(load, now)
        assert max(2, busy) <= workers <= 8
