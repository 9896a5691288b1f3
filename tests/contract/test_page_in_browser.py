"""The pages in a real browser: wide and narrow, light and dark, with JavaScript and without."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest

from multidb.audit import Audit, Tried
from multidb.model import Health, Outcome, Probe, Status
from multidb.service.overview import Records
from tests.contract.chromium import Page, browser
from tests.support import reports
from tests.support.serving import served

pytestmark = pytest.mark.server

PAGES = ("", "apps/lernmi", "audit", "history", "apps/nobody")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def records() -> list[Records]:
    """One: what the service is told when it asks."""
    return [reports.records()]


def long_answers() -> Audit:
    """An audit in which a server has said more than there is room for."""
    audited = reports.audited()
    probe = Probe("lernmi", "beep_boop", "write tables as readonly", Outcome.REFUSED, Outcome.REFUSED, "x" * 150)
    return replace(audited, tried=(*audited.tried, Tried("postgres", "postgres", probe)))


@pytest.fixture(scope="module")
def address(records: list[Records]) -> Iterator[str]:
    late = {"lernmi": Health(Status.DEGRADED, "newest backup is 3 d old, and the last run " + "failed " * 9)}
    project = reports.project()
    labelled = {**project.apps, "lernmi": replace(project.apps["lernmi"], labels={"team": "learning"})}
    looks = {
        "project": replace(project, apps=labelled),
        "records": lambda: records[0],
        "audit": long_answers,
        "freshness": lambda: late,
    }
    with served(**looks) as url:
        until = time.monotonic() + 30
        while httpx.get(f"{url}/metrics").text.count("multidb_collector_success{") < 7:
            assert time.monotonic() < until, "not everything was looked at"
            time.sleep(0.05)
        yield f"{url}/"


@pytest.fixture(scope="module")
def axe() -> str:
    """The script that finds what keeps people from reading a page."""
    spec = find_spec("axe_core_python")
    if spec is None or spec.origin is None:
        pytest.skip("no axe-core here (pip install axe-core-python)")
    return Path(spec.origin).with_name("axe.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize(("width", "dark"), [*product((1280, 390), (False, True))])
def test_it_fits_is_drawn_and_is_read_out(page: Page, address: str, width: int, dark: bool, tmp_path: Path) -> None:
    page.open(address, width, dark=dark)
    assert page.value("document.documentElement.scrollWidth") <= width, "nothing has to be scrolled sideways"
    ground = page.value("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(16, 21, 28)" if dark else "rgb(246, 247, 249)"), "the style sheet is allowed and used"
    assert page.value("document.querySelector('#app-lernmi').offsetHeight") < 40, "a name stays in one line"
    assert page.value("document.querySelectorAll('td:not(.unused)').length") == 7
    assert page.value("!!document.querySelector('td.unused').offsetHeight") is (width > 960)
    hidden = "[...document.querySelectorAll('td:not(.unused), tbody th')].filter(e => !e.offsetHeight).length"
    assert page.value(hidden) == 0
    roles = page.roles()
    assert ("heading", "digi") in roles
    assert [name for role, name in roles if role == "table"] == ["Apps 2"]
    assert [name for role, name in roles if role == "columnheader"][:2] == ["App", "Postgres"]
    assert len([role for role, _ in roles if role == "row"]) == 3
    assert ("image", "Size from 7.0 MB to 9.0 MB") in roles
    assert ("link", "Reload") in roles
    assert page.said == [], "no error, and nothing that the policy refuses"
    folder = Path(os.environ.get("MULTIDB_PICTURES", tmp_path))
    picture = folder / f"page-{width}-{'dark' if dark else 'light'}.png"
    page.picture(picture)
    assert picture.stat().st_size > 20_000


@pytest.mark.parametrize(("path", "width", "dark"), [*product(PAGES, (1280, 390), (False, True))])
def test_nothing_keeps_anybody_from_reading_it(
    page: Page, address: str, axe: str, path: str, width: int, dark: bool
) -> None:
    page.open(f"{address}{path}", width, dark=dark)
    page.value("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.value("document.documentElement.scrollWidth") <= width, "nothing has to be scrolled sideways"
    assert _violations(page, axe) == []


def test_axe_finds_what_is_wrong(page: Page, address: str, axe: str) -> None:
    page.open(address, 1280, dark=False)
    page.value("document.querySelector('#q').parentElement.querySelector('label').remove()")
    page.value("document.querySelector('.tile dt').style.setProperty('color', '#ccc')")
    assert {"label", "color-contrast"} <= {found[0] for found in _violations(page, axe)}


def _violations(page: Page, axe: str) -> list[Any]:
    page.value(axe)
    told = "found.violations.map(each => [each.id, each.nodes.map(node => node.html.slice(0, 200))])"
    found: list[Any] = json.loads(page.promised(f"axe.run().then(found => JSON.stringify({told}))"))
    return found


def test_the_keyboard_reaches_everything_in_order(page: Page, address: str) -> None:
    page.open(address, 1280, dark=False)
    reached = []
    for _ in range(200):
        _press(page, "Tab")
        if page.value("document.activeElement === document.body"):
            break
        reached.append(page.value("document.activeElement.id || document.activeElement.textContent"))
        assert page.value("getComputedStyle(document.activeElement).outlineStyle") == "solid", "and one sees where"
    assert reached[:5] == ["Skip to the content", "reload", "nav-apps", "nav-audit", "nav-history"]
    chosen = ["q", "trouble", "sort", "select"]
    assert [name for name in reached if name in chosen] == chosen
    assert reached[-5:] == ["app-lernmi", "app-beep_boop", "to-health", "to-metrics", "to-openapi"]


def _press(page: Page, key: str) -> None:
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=9)


@pytest.mark.parametrize("path", PAGES)
def test_without_javascript_it_is_the_same_page(page: Page, address: str, path: str) -> None:
    page.call("Emulation.setTimezoneOverride", timezoneId="UTC")
    page.open(f"{address}{path}", 1280, dark=False)
    page.value("document.querySelectorAll('.command button').forEach(each => each.remove())")
    whole = page.value("document.body.innerText")
    page.open(f"{address}{path}?again", 1280, dark=False, script=False)
    assert page.value("document.querySelectorAll('.command button').length") == 0
    looked = r"\d\d:\d\d:\d\d UTC|took [\d.]+ s"  # the server looks again each minute, whenever that is over
    assert re.sub(looked, "", page.value("document.body.innerText")) == re.sub(looked, "", whole)
    assert "unhealthy" in whole


def test_without_javascript_the_apps_are_searched_all_the_same(page: Page, address: str) -> None:
    page.open(address, 1280, dark=False, script=False)
    page.value("document.querySelector('#q').value = 'beep'")
    page.value("document.querySelector('#select').click()")
    until = time.monotonic() + 20
    while "q=beep" not in page.value("location.search + document.readyState"):
        assert time.monotonic() < until, "the policy refuses it"
        time.sleep(0.05)
    _until(page, "document.querySelectorAll('a.app').length === 1")
    assert page.value("document.querySelector('#q').value") == "beep"


def test_times_are_those_of_who_reads_them(page: Page, address: str) -> None:
    page.call("Emulation.setTimezoneOverride", timezoneId="Asia/Kathmandu")
    try:
        page.open(f"{address}apps/lernmi", 1280, dark=False)
        local = page.value("[...document.querySelectorAll('main time')].map(each => [each.textContent, each.title])")
        assert ["2026-11-21 14:45 GMT+5:45", "2026-11-21 09:00 UTC"] in local
        assert page.value("/^..:..:.. GMT/.test(document.querySelector('header time').textContent)")
    finally:
        page.call("Emulation.setTimezoneOverride", timezoneId="UTC")


def test_a_command_is_copied_with_a_click(page: Page, address: str) -> None:
    page.open(f"{address}apps/lernmi", 1280, dark=False)
    origin = address.rstrip("/")
    page.call("Browser.grantPermissions", origin=origin, permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    page.call("Page.bringToFront")
    last = "[...document.querySelectorAll('.command button')].at(-1)"
    page.promised(f"{last}.click()")
    _until(page, f"{last}.textContent === 'Copied'")
    assert page.promised("navigator.clipboard.readText()") == "multidb history lernmi --limit 1000"
    page.value("navigator.clipboard.writeText = async () => { throw new Error('not here') }")
    first = "document.querySelector('.command button')"
    page.value(f"{first}.click()")
    _until(page, f"{first}.textContent === 'Ctrl+C copies it'")
    assert page.value("getSelection().toString()") == page.value("document.querySelector('.command pre').innerText")


def test_it_comes_up_to_date_by_itself(page: Page, address: str, records: list[Records]) -> None:
    """What is open stays open, the focus stays, what is being chosen is left alone, and no check is begun."""
    page.open(f"{address}apps/lernmi", 1280, dark=False)
    page.value("for (let id = setTimeout(() => 0); id > 0; id--) clearInterval(id)")  # no question but those below
    page.value("document.querySelector('main').dataset.old = 'yes'")
    page.value("document.querySelector('#use-postgres').open = true")
    page.value("document.querySelector('#nav-audit').focus()")
    checked = page.value("document.querySelector('header time').dateTime")
    records[0] = replace(records[0], jobs=())
    page.promised("refresh()")
    assert page.value("document.querySelector('main').dataset.old") is None
    assert page.value("document.querySelectorAll('main').length") == 1
    assert page.value("document.querySelector('progress')") is None
    assert page.value("document.querySelector('#use-postgres').open") is True
    assert page.value("document.activeElement.id") == "nav-audit"
    assert page.value(
        "document.querySelectorAll('.command').length === document.querySelectorAll('.command button').length"
    )
    assert page.value("document.querySelector('header time').dateTime") == checked
    page.value("document.querySelector('main').dataset.old = 'yes'")
    page.promised("refresh()")
    assert page.value("document.querySelector('main').dataset.old") == "yes", "it is as it was"
    page.open(address, 1280, dark=False)
    page.value("document.querySelector('main').dataset.old = 'yes'")
    page.value("document.querySelector('#q').focus()")
    page.promised("refresh()")
    assert page.value("document.querySelector('main').dataset.old") == "yes", "somebody writes there"


def test_it_asks_again_by_itself(page: Page, address: str) -> None:
    page.open(address, 1280, dark=False)
    page.value("document.querySelector('main').dataset.old = 'yes'")
    page.call("Emulation.setVirtualTimePolicy", policy="advance", budget=16_000)
    _until(page, "document.querySelector('main').dataset.old === undefined")


def _until(page: Page, condition: str) -> None:
    until = time.monotonic() + 30
    while not page.value(condition):
        assert time.monotonic() < until, condition
        time.sleep(0.05)
