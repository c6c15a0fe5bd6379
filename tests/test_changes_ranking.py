"""What changed: which part of a system probably began an incident."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.changes.ranking import Ranked, rank
from orchestration.changes.series import Kind, Point, Table, direction_of, kind_of
from tests.changed_system import BEGIN, STEP, Series, System

DAY = 86_400
PAST, NOW = BEGIN, BEGIN + 200 * STEP


def steady(
    value: float, count: int = 100, *, noise: float = 0.02, begin: float = PAST, step: float = STEP
) -> list[Point]:
    """Values around one, with the same noise each time."""
    chance = random.Random(7)
    return [(begin + step * number, value * chance.gauss(1, noise)) for number in range(count)]


def now(*values: float, begin: float = NOW, step: float = STEP) -> list[Point]:
    return [(begin + step * number, value) for number, value in enumerate(values)]


def order(
    normal: Table, during: Table, *calls: tuple[str, str], target: str = "web", metric: str = "latency"
) -> list[str]:
    return [one.entity for one in rank(normal, during, (target, metric), calls or None)]


def found(ranked: list[Ranked], entity: str) -> Ranked:
    return next(one for one in ranked if one.entity == entity)


def test_in_made_up_systems_the_faulty_part_is_mostly_first() -> None:
    places: list[int] = []
    for seed in range(40):
        system = System(seed)
        normal = system.series(PAST, 150)
        faulty = f"p{system.chance.randrange(1, system.parts)}"
        during = system.series(NOW, 10, system.fault(faulty, 0.5, 10, range(4, 8)))
        ranked = rank(normal, during, ("p0", "latency.mean"), system.calls)
        places.append([one.entity for one in ranked].index(faulty))
    assert sum(place == 0 for place in places) >= 36
    assert sum(place < 3 for place in places) == 40


@pytest.mark.parametrize("harm", ["shifted", "gaps", "nan", "unordered"])
def test_worse_data_change_little(harm: str) -> None:
    places: list[int] = []
    for seed in range(15):
        system = System(seed)
        normal = system.series(PAST, 150)
        faulty = f"p{system.chance.randrange(1, system.parts)}"
        during = system.series(NOW, 10, system.fault(faulty, 0.5, 10, range(4, 8)))
        target = ("p0", "latency.mean")
        harmed = {name: points if name == target else worse(points, harm, seed) for name, points in during.items()}
        ranked = rank(
            {name: worse(points, harm, seed) for name, points in normal.items()}, harmed, target, system.calls
        )
        places.append([one.entity for one in ranked].index(faulty))
    assert sum(place == 0 for place in places) >= 12
    assert sum(place < 3 for place in places) >= 14


def worse(points: list[Point], harm: str, seed: int) -> list[Point]:
    chance = random.Random(f"{seed} {points[0]}")
    if harm == "shifted":
        shift = chance.uniform(-25, 25)
        return [(moment + shift, value) for moment, value in points]
    if harm == "gaps":
        return [point for point in points if chance.random() > 0.2]
    if harm == "nan":
        return [(moment, value if chance.random() > 0.2 else math.nan) for moment, value in points]
    return chance.sample(points, len(points))


def test_a_caller_is_explained_by_its_callee_and_says_so() -> None:
    normal = {("web", "latency"): steady(0.1), ("db", "latency"): steady(0.02), ("mail", "latency"): steady(0.05)}
    during = {
        ("web", "latency"): now(0.1, 0.4, 0.4),
        ("db", "latency"): now(0.02, 0.32, 0.32),
        ("mail", "latency"): now(0.05, 0.05, 0.05),
    }
    ranked = rank(normal, during, ("web", "latency"), [("web", "db"), ("web", "mail")])
    assert [one.entity for one in ranked] == ["db", "web", "mail"]
    first, web, mail = ranked
    assert first.why.startswith("latency is 0.32, normally 0.019")
    assert "it explains 9" in first.why
    assert "leaves" in web.why
    assert mail.why == "nothing of it is outside of its normal range"
    (change,) = first.changes
    assert (change.entity, change.metric, change.now) == ("db", "latency", 0.32)
    assert change.since is not None
    assert change.since.timestamp() == NOW + STEP


def test_a_callee_that_is_well_leaves_the_blame_to_its_caller() -> None:
    normal = {("web", "latency"): steady(0.1), ("app", "latency"): steady(0.05), ("db", "latency"): steady(0.02)}
    during = {
        ("web", "latency"): now(0.1, 0.4, 0.4),
        ("app", "latency"): now(0.05, 0.35, 0.35),
        ("db", "latency"): now(0.02, 0.02, 0.02),
    }
    assert order(normal, during, ("web", "app"), ("app", "db"))[0] == "app"


def test_what_was_strange_before_the_trouble_has_not_caused_it() -> None:
    normal = {("web", "latency"): steady(0.1), ("batch", "latency"): steady(1.0), ("db", "latency"): steady(0.02)}
    during = {
        ("web", "latency"): now(0.1, 0.1, 0.4, 0.4),
        ("batch", "latency"): now(9.0, 9.0, 9.0, 9.0),
        ("db", "latency"): now(0.02, 0.02, 0.1, 0.1),
    }
    ranked = rank(normal, during, ("web", "latency"))
    assert found(ranked, "db").score > found(ranked, "batch").score == 0


def test_a_cause_that_jumps_is_found_while_the_alerts_own_series_only_rises() -> None:
    normal = {("web", "latency"): steady(0.1), ("db", "latency"): steady(0.02), ("mail", "latency"): steady(0.02)}
    during = {
        ("web", "latency"): now(0.1, 0.1, *(0.1 + 0.03 * number for number in range(1, 11))),
        ("db", "latency"): now(0.02, 0.02, *[0.32] * 10),
        ("mail", "latency"): now(0.02, 0.02, 0.02, 0.02, 0.02, 0.02, *[0.04] * 6),
    }
    from_the_begin_on = {name: points[2:] for name, points in during.items()}
    for seen in (during, from_the_begin_on):
        assert order(normal, seen, ("web", "db"), ("web", "mail"))[0] == "db"
        assert order(normal, seen)[0] == "db"


def test_a_cause_that_shows_one_step_earlier_is_found() -> None:
    normal = {("web", "latency"): steady(0.1), ("db", "latency"): steady(0.02), ("mail", "latency"): steady(0.02)}
    during = {
        ("web", "latency"): now(0.1, 0.1, 0.4, 0.1),
        ("db", "latency"): now(0.02, 0.32, 0.02, 0.02),
        ("mail", "latency"): now(0.02, 0.02, 0.03, 0.02),
    }
    assert order(normal, during, ("web", "db"), ("web", "mail"))[0] == "db"


def test_an_incident_that_is_trouble_from_end_to_end_is_compared_with_the_past_alone() -> None:
    normal = {("web", "latency"): steady(0.1), ("db", "latency"): steady(0.02)}
    during = {("web", "latency"): now(0.4, 0.41, 0.4), ("db", "latency"): now(0.3, 0.31, 0.3)}
    assert order(normal, during, ("web", "db")) == ["db", "web"]


def test_a_constant_series_deviates_as_soon_as_it_moves_by_a_hundredth() -> None:
    normal = {("web", "up"): [(moment, 100.0) for moment, _ in steady(1)], ("db", "up"): steady(100, noise=0)}
    during = {("web", "up"): now(100, 95, 95), ("db", "up"): now(100, 99.99, 99.99)}
    web, db = (found(rank(normal, during, ("web", "up")), name) for name in ("web", "db"))
    assert web.score > 2
    assert db.score < 0.1


def test_a_series_that_was_always_zero_is_far_off_when_it_is_not() -> None:
    normal = {("web", "errors"): steady(0), ("db", "errors"): steady(0)}
    during = {("web", "errors"): now(0, 41, 41), ("db", "errors"): now(0, 0, 0)}
    web = found(rank(normal, during, ("web", "errors")), "web")
    assert web.why.startswith("errors is 41, normally 0 to 0")
    assert web.score == pytest.approx(math.log2(11), abs=0.01)


def test_a_counter_is_judged_by_its_growth_and_its_resets_are_no_news() -> None:
    calm = [(PAST + STEP * number, float((number % 60) * 100)) for number in range(180)]
    normal = {("web", "latency"): steady(0.1), ("app", "errors_total"): calm, ("db", "errors_total"): calm}
    during = {
        ("web", "latency"): now(0.1, 0.1, 0.4, 0.4),
        ("app", "errors_total"): now(5900, 0, 100, 200),
        ("db", "errors_total"): now(500, 600, 5700, 10800),
    }
    ranked = rank(normal, during, ("web", "latency"))
    assert found(ranked, "app").score == 0
    assert found(ranked, "db").score > 1
    assert found(ranked, "db").changes[0].now == pytest.approx(85)


def test_what_is_usual_at_this_time_of_day_is_no_change() -> None:
    def load(moment: float) -> float:
        return 100 + 90 * math.sin(2 * math.pi * moment / DAY)

    chance = random.Random(3)
    past = [(PAST + 600 * n, load(PAST + 600 * n) * chance.gauss(1, 0.02)) for n in range(144 * 4)]
    noon = next(moment for moment, _ in past if load(moment) > 189) + 5 * DAY
    night = next(moment for moment, _ in past if load(moment) < 11) + 5 * DAY
    high = [(moment, 189.0) for moment in (noon, noon + 60, noon + 120)]
    strange = [(moment, 189.0) for moment in (night, night + 60, night + 120)]
    usual = rank({("web", "cpu"): past}, {("web", "cpu"): high}, ("web", "cpu"))
    unusual = rank({("web", "cpu"): past}, {("web", "cpu"): strange}, ("web", "cpu"))
    assert usual[0].score < 1 < unusual[0].score


def test_series_without_a_past_and_series_that_are_gone() -> None:
    normal = {("web", "latency"): steady(0.1), ("old", "latency"): steady(0.1), ("few", "latency"): steady(0.1, 2)}
    during = {
        ("web", "latency"): now(0.1, 0.4),
        ("new", "latency"): now(0.2, 0.2),
        ("few", "latency"): now(0.2, 0.2),
        ("healthy", "availability"): now(100, 100),
    }
    ranked = rank(normal, during, ("web", "latency"), [("web", "new"), ("web", "old"), ("old", "web")])
    assert {one.entity for one in ranked} == {"web", "new", "few", "healthy", "old"}
    assert "has no past to compare" in found(ranked, "new").why
    assert found(ranked, "new").changes == []
    assert found(ranked, "old").why == "none of its series has a value"
    assert found(ranked, "healthy").score == 0


def test_traffic_is_explained_by_callers() -> None:
    normal = {(name, "requests"): steady(100) for name in ("shop", "web", "db")}
    during = {(name, "requests"): now(100, 400, 400) for name in ("shop", "web", "db")}
    ranked = order(normal, during, ("shop", "web"), ("web", "db"), target="web", metric="requests")
    assert ranked.index("shop") < ranked.index("db")


def varied(low: float, high: float) -> list[Point]:
    """A past that is spread evenly between two values, out of order."""
    return [(moment, low + (high - low) * (number * 37 % 100) / 100) for number, (moment, _) in enumerate(steady(1))]


@pytest.mark.parametrize("metric", ["requests", "cpu", "orders"])
def test_a_fall_in_use_counts_although_no_value_is_below_0(metric: str) -> None:
    normal = {("web", "latency"): steady(0.1), ("lb", metric): varied(50, 150), ("db", metric): varied(50, 150)}
    during = {
        ("web", "latency"): now(0.1, 0.1, 0.4, 0.4),
        ("lb", metric): now(100, 100, 0, 0),
        ("db", metric): now(100, 100, 58, 61),
    }
    ranked = rank(normal, during, ("web", "latency"))
    (change,) = found(ranked, "lb").changes
    assert (change.now, change.low > 50, change.score > 2) == (0, True, True)
    assert found(ranked, "db").changes == []


def test_a_series_that_ends_falls_to_0_and_one_that_comes_and_goes_does_not() -> None:
    normal = {
        ("web", "latency"): steady(0.1),
        ("lb", "requests"): steady(100),
        ("gone", "requests"): steady(100, begin=NOW - 100 * STEP),
        ("long_gone", "requests"): steady(100),
        ("job", "requests"): steady(100),
        ("late", "requests"): steady(100),
    }
    during = {
        ("web", "latency"): now(0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.4, 0.4, 0.4),
        ("lb", "requests"): now(100, 99, 100, 101, 100, 100),
        ("job", "requests"): [point for n, point in enumerate(now(*[100] * 9)) if n in (0, 1, 4, 5)],
        ("late", "requests"): now(*[100] * 8),
    }
    ranked = rank(normal, during, ("web", "latency"))
    assert {one.entity for one in ranked if one.changes} == {"web", "lb"}
    assert found(ranked, "lb").changes[0].now == 0
    during = {name: points[6:] if name[0] == "web" else points for name, points in during.items()}
    normal = {**normal, ("gone", "requests"): steady(100, begin=NOW - 94 * STEP)}
    gone = found(rank(normal, during, ("web", "latency")), "gone")
    assert gone.why.startswith("requests is 0, normally 9")


def test_a_quiet_hour_of_few_requests_is_no_fall() -> None:
    chance = random.Random(5)

    def few(begin: float, count: int, mean: float) -> list[Point]:
        """Requests as they come by chance."""
        return [
            (begin + STEP * n, float(sum(chance.random() < mean / 1000 for _ in range(1000)))) for n in range(count)
        ]

    names = [(f"p{number}", "requests") for number in range(20)]
    normal = {("web", "latency"): steady(0.1), **{name: few(PAST, 150, 4 + n) for n, name in enumerate(names)}}
    during = {("web", "latency"): now(0.1, 0.1, 0.4, 0.4), **{name: few(NOW, 4, 3 + n) for n, name in enumerate(names)}}
    ranked = rank(normal, during, ("web", "latency"))
    assert max(change.score for one in ranked if one.entity != "web" for change in one.changes or ()) < 1.5


def test_a_circle_of_calls_ends() -> None:
    normal = {(name, "latency"): steady(0.1) for name in ("web", "a", "b")}
    during = {(name, "latency"): now(0.1, 0.5, 0.5) for name in ("web", "a", "b")}
    calls = [("web", "a"), ("a", "b"), ("b", "a"), ("a", "a")]
    ranked = rank(normal, during, ("web", "latency"), calls)
    assert {ranked[0].entity, ranked[1].entity} == {"a", "b"}


def test_a_target_without_any_value_is_refused() -> None:
    with pytest.raises(ValueError, match="web has no value of latency"):
        rank({}, {("web", "latency"): now(math.nan)}, ("web", "latency"))


@pytest.mark.parametrize(
    ("metric", "kind"),
    [
        ("latency.Average", Kind.LATENCY),
        ("http_request_duration_seconds", Kind.LATENCY),
        ("http_requests_total", Kind.TRAFFIC),
        ("requests.Sum", Kind.TRAFFIC),
        ("http_5xx", Kind.FAILURES),
        ("RequestErrors", Kind.FAILURES),
        ("availability.Average", Kind.SUCCESS),
        ("up", Kind.SUCCESS),
        ("node_memory_used_bytes", Kind.TRAFFIC),
        ("cpuUtilization", Kind.USE),
        ("temperature", Kind.OTHER),
        ("", Kind.OTHER),
    ],
)
def test_kinds_of_metrics(metric: str, kind: Kind) -> None:
    assert kind_of(metric) is kind
    assert direction_of(kind) in (-1, 0, 1)


VALUES = st.one_of(st.floats(), st.integers(-3, 3).map(float), st.just(1e308), st.just(5e-324))
POINTS = st.lists(st.tuples(st.integers(0, 300).map(lambda n: PAST + 60.0 * n), VALUES), max_size=40)
NAMES = st.tuples(st.sampled_from("abc"), st.sampled_from(["latency", "errors", "up", "requests", "x_total"]))
TABLES = st.dictionaries(NAMES, POINTS, max_size=8)


@settings(max_examples=150, deadline=None)
@given(TABLES, TABLES, st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abcd")), max_size=8) | st.none())
def test_any_series_give_finite_scores_in_order(
    normal: Series, during: Series, calls: list[tuple[str, str]] | None
) -> None:
    during["a", "latency"] = [*during.get(("a", "latency"), []), (PAST + 60.0, 1.0)]
    ranked = rank(normal, during, ("a", "latency"), calls)
    scores = [one.score for one in ranked]
    assert all(math.isfinite(score) for score in scores)
    assert scores == sorted(scores, reverse=True)
    assert ranked == rank(dict(reversed(normal.items())), dict(reversed(during.items())), ("a", "latency"), calls)
