"""The laws of `diff`: what holds for any desired and any live resources."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from multidb.model import Action, Change, Owner, Resource
from multidb.plan import diff

OURS = "digi"
APPS = ("aa", "bb", "cc")


@dataclass(frozen=True, kw_only=True)
class Box(Resource):
    """Carries a mark; its size can change, its shape cannot."""

    kind = "box"
    rank = 1
    marked = True
    immutable = frozenset({"shape"})

    size: int = 1
    shape: str = "round"
    noticed: int = dataclasses.field(default=0, compare=False)


@dataclass(frozen=True, kw_only=True)
class Lid(Resource):
    """Unmarked, and made before the box."""

    kind = "lid"
    rank = 0
    size: int = 1


@dataclass(frozen=True, kw_only=True)
class Link(Resource):
    """A grant: one too many is taken away."""

    kind = "link"
    rank = 2
    edge = True


names = st.sampled_from(["n1", "n2", "n3", "n4"])
apps = st.sampled_from(APPS)


def boxes(owners: st.SearchStrategy[Owner | None] | None) -> st.SearchStrategy[Box]:
    made = st.builds(
        Box,
        name=names,
        app=apps,
        size=st.integers(1, 2),
        shape=st.sampled_from(["round", "flat"]),
        noticed=st.integers(0, 3),
    )
    if owners is None:
        return made.map(lambda box: dataclasses.replace(box, owner=Owner(OURS, box.app or "")))
    return st.builds(lambda box, owner: dataclasses.replace(box, owner=owner), made, owners)


def resources(owners: st.SearchStrategy[Owner | None] | None = None) -> st.SearchStrategy[list[Resource]]:
    """Resources with different keys; a name always belongs to the same app, as derived names do."""
    one = st.one_of(
        boxes(owners),
        st.builds(Lid, name=names, app=apps, size=st.integers(1, 2)),
        st.builds(Link, name=names, app=apps),
    )
    return st.lists(one, max_size=9, unique_by=lambda resource: resource.key).map(
        lambda found: [dataclasses.replace(each, app=APPS[int(each.name[1]) % 3]) for each in found]
    ).map(lambda found: [marked(each) if owners is None else each for each in found])  # fmt: skip


def marked(resource: Resource) -> Resource:
    return dataclasses.replace(resource, owner=Owner(OURS, resource.app or "")) if resource.marked else resource


desired = resources()
live = resources(st.one_of(st.none(), st.builds(Owner, st.just(OURS), apps), st.builds(Owner, st.just("other"), apps)))


def applied(changes: Iterable[Change], there: Iterable[Resource]) -> dict[tuple[str, str], Resource]:
    """What a server holds after the changes were made on it: what an update does not name stays as it was."""
    held = {resource.key: resource for resource in there}
    for change in changes:
        if change.action is Action.DELETE:
            del held[change.resource.key]
        elif change.action is Action.CREATE:
            assert change.resource.key not in held
            held[change.resource.key] = change.resource
        elif change.action is Action.UPDATE:
            old = held[change.resource.key]
            assert all(getattr(old, field.field) == field.old for field in change.fields)
            held[old.key] = dataclasses.replace(old, **{field.field: field.new for field in change.fields})
    return held


@given(desired)
def test_what_is_as_wanted_needs_no_change(resources: list[Resource]) -> None:
    assert diff(resources, resources) == ()
    noticed = [dataclasses.replace(each, noticed=9) if isinstance(each, Box) else each for each in resources]
    assert diff(resources, noticed) == ()


@given(desired, live)
def test_applying_gives_what_is_wanted_and_leaves_what_is_not_ours(want: list[Resource], there: list[Resource]) -> None:
    changes = diff(want, there)
    refused = {change.resource.app for change in changes if change.action is Action.CONFLICT}
    after = applied(changes, there)
    for resource in want:
        if resource.app not in refused:
            assert after[resource.key].compared() == resource.compared()
    wanted = {resource.key for resource in want}
    for resource in there:
        if resource.key not in wanted and not resource.edge:
            assert after[resource.key] is resource


@given(desired, live)
def test_after_applying_only_conflicts_are_left(want: list[Resource], there: list[Resource]) -> None:
    changes = diff(want, there)
    again = diff(want, applied(changes, there).values())
    assert again == tuple(change for change in changes if change.action is Action.CONFLICT)


@given(desired, live, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(want: list[Resource], there: list[Resource], random: object) -> None:
    expected = diff(want, there)
    want, there = list(want), list(there)
    random.shuffle(want)  # type: ignore[attr-defined]
    random.shuffle(there)  # type: ignore[attr-defined]
    assert diff(want, there) == expected
    assert diff(iter(want), iter(there)) == expected


@given(desired, live)
def test_nothing_but_surplus_edges_is_deleted(want: list[Resource], there: list[Resource]) -> None:
    changes = diff(want, there)
    refused = {change.resource.app for change in changes if change.action is Action.CONFLICT}
    deleted = {change.resource.key for change in changes if change.action is Action.DELETE}
    wanted = {resource.key for resource in want}
    assert deleted == {each.key for each in there if each.edge and each.key not in wanted and each.app not in refused}


@given(desired, live)
def test_what_is_not_ours_is_never_changed(want: list[Resource], there: list[Resource]) -> None:
    for change in diff(want, there):
        if change.action is Action.UPDATE and change.resource.marked:
            assert change.live is not None
            assert change.live.owner == change.resource.owner


@given(desired, live)
def test_an_app_with_a_conflict_gets_its_conflicts_and_nothing_else(
    want: list[Resource], there: list[Resource]
) -> None:
    by_app: dict[str | None, set[Action]] = {}
    for change in diff(want, there):
        by_app.setdefault(change.resource.app, set()).add(change.action)
        assert bool(change.reason) == (change.action is Action.CONFLICT)
    assert all(actions == {Action.CONFLICT} for actions in by_app.values() if Action.CONFLICT in actions)


@given(desired, live)
def test_adopting_takes_what_has_no_mark_and_nothing_that_has_another(
    want: list[Resource], there: list[Resource]
) -> None:
    for change in diff(want, there, adopt=frozenset(APPS)):
        if change.action is Action.CONFLICT:
            assert change.live is not None
            foreign = change.live.owner is not None and change.live.owner != change.resource.owner
            assert foreign or {field.field for field in change.fields} <= Box.immutable
        elif change.action is Action.UPDATE and change.live is not None and change.live.owner is None:
            assert not change.resource.marked or change.changed("owner")


@given(desired, live)
def test_adopting_one_app_changes_nothing_for_the_others(want: list[Resource], there: list[Resource]) -> None:
    def others(changes: Iterable[Change]) -> list[Change]:
        return [change for change in changes if change.resource.app != "aa"]

    assert others(diff(want, there, adopt=frozenset({"aa"}))) == others(diff(want, there))


@given(desired, live)
def test_changes_come_in_the_order_of_rank_with_holes_closed_first(want: list[Resource], there: list[Resource]) -> None:
    order = [(change.resource.rank, change.action is not Action.DELETE) for change in diff(want, there)]
    assert order == sorted(order)
