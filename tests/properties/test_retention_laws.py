"""Which sets stay, whatever sets there are and whatever the policy says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import example, given
from hypothesis import strategies as st

from multidb.backup.retention import Candidate, Trust, kept
from multidb.model.options import Keep

START = datetime(2026, 1, 1, tzinfo=UTC)
POLICIES = st.builds(
    Keep, last=st.integers(1, 4), daily=st.integers(0, 5), weekly=st.integers(0, 3), monthly=st.integers(0, 3)
)
MOMENTS = st.lists(st.integers(0, 24 * 120), unique=True, max_size=40)
TRUSTS = st.sampled_from(list(Trust))


@st.composite
def sets(draw: st.DrawFn) -> list[Candidate]:
    hours = draw(MOMENTS)
    return [Candidate(f"{hour:06}", START + timedelta(hours=hour), draw(TRUSTS)) for hour in hours]


def newest(candidates: list[Candidate], *trusts: Trust) -> list[str]:
    return [each.id for each in sorted(candidates, key=lambda each: each.made, reverse=True) if each.trust in trusts]


def good(candidates: list[Candidate]) -> list[str]:
    """The verified ones; where there is none, those of which all was tried that can be."""
    return newest(candidates, Trust.VERIFIED) or newest(candidates, Trust.TRIED)


@given(sets(), POLICIES)
def test_the_last_good_set_stays_and_without_one_nothing_goes(candidates: list[Candidate], keep: Keep) -> None:
    stay = kept(candidates, keep)
    if found := good(candidates):
        assert found[0] in stay
        assert set(found[: keep.last]) <= set(stay)
    else:
        assert set(stay) == {each.id for each in candidates}


@given(sets(), POLICIES)
def test_the_newest_of_each_slot_stay_counting_verified_sets_alone(candidates: list[Candidate], keep: Keep) -> None:
    stay = kept(candidates, keep)
    assert set(newest(candidates, Trust.VERIFIED)[: keep.last]) <= set(stay)
    days = sorted({each.made.date() for each in candidates if each.trust is Trust.VERIFIED}, reverse=True)
    for day in days[: keep.daily]:
        assert any(each.id in stay for each in candidates if each.made.date() == day and each.trust is Trust.VERIFIED)
    months = sorted({(each.made.year, each.made.month) for each in candidates if each.trust is Trust.VERIFIED})
    for month in months[::-1][: keep.monthly]:
        assert any(
            each.id in stay
            for each in candidates
            if (each.made.year, each.made.month) == month and each.trust is Trust.VERIFIED
        )


@given(sets(), POLICIES)
def test_pruning_twice_removes_nothing_more(candidates: list[Candidate], keep: Keep) -> None:
    stay = kept(candidates, keep)
    left = [each for each in candidates if each.id in stay]
    assert set(kept(left, keep)) == set(stay)


@given(sets(), POLICIES, TRUSTS)
def test_a_new_set_never_costs_a_verified_one_its_place_unless_it_is_verified(
    candidates: list[Candidate], keep: Keep, trust: Trust
) -> None:
    new = Candidate("999999", START + timedelta(days=200), trust)
    before = {each.id for each in candidates if each.trust is Trust.VERIFIED} & set(kept(candidates, keep))
    if trust is not Trust.VERIFIED:
        assert before <= set(kept([*candidates, new], keep))
    assert new.id in kept([*candidates, new], keep)


@given(sets(), POLICIES)
@example([Candidate(str(day), START + timedelta(days=day), Trust.VERIFIED) for day in range(90)], Keep())
def test_no_more_stay_than_there_are_slots(candidates: list[Candidate], keep: Keep) -> None:
    slots = keep.last + keep.daily + keep.weekly + keep.monthly
    stay = kept(candidates, keep)
    if found := good(candidates):
        assert len([name for name in found if name in stay]) <= 2 * slots + 1
        oldest = {each.id for each in candidates if each.trust is Trust.BAD} & set(stay)
        assert all(name > found[0] for name in oldest)


def test_the_default_policy_over_a_quarter() -> None:
    """A verified set a day for 90 days: three newest, a week of days, four weeks."""
    candidates = [Candidate(f"{day:03}", START + timedelta(days=day), Trust.VERIFIED) for day in range(90)]
    stay = sorted(kept(candidates, Keep()))
    assert stay == ["073", "080", "083", "084", "085", "086", "087", "088", "089"]
