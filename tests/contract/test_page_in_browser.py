"""The page in a real browser: wide and narrow, light and dark, with JavaScript and without."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from tests.contract.chromium import Page, browser
from tests.support.serving import served

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served() as url:
        yield f"{url}/"


@pytest.mark.parametrize(("width", "dark"), [*product((1280, 390), (False, True))])
def test_it_fits_is_drawn_and_is_read_out(page: Page, address: str, width: int, dark: bool, tmp_path: Path) -> None:
    page.open(address, width, dark=dark)
    assert page.value("document.documentElement.scrollWidth") <= width, "nothing has to be scrolled sideways"
    ground = page.value("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(16, 21, 28)" if dark else "rgb(246, 247, 249)"), "the style sheet is allowed and used"
    assert page.value("document.querySelectorAll('td:not(.unused)').length") == 7
    hidden = "[...document.querySelectorAll('td:not(.unused), tbody th')].filter(e => !e.offsetHeight).length"
    assert page.value(hidden) == 0
    roles = page.roles()
    assert ("heading", "digi") in roles
    assert [name for role, name in roles if role == "table"] == ["Apps"]
    assert [name for role, name in roles if role == "columnheader"][:2] == ["App", "Postgres"]
    assert len([role for role, _ in roles if role == "row"]) == 3
    assert ("image", "Size from 7.0 MB to 9.0 MB") in roles
    assert ("link", "Reload") in roles
    assert page.said == [], "no error, and nothing that the policy refuses"
    folder = Path(os.environ.get("MULTIDB_PICTURES", tmp_path))
    picture = folder / f"page-{width}-{'dark' if dark else 'light'}.png"
    page.picture(picture)
    assert picture.stat().st_size > 20_000


def test_the_keyboard_reaches_everything_in_order(page: Page, address: str) -> None:
    page.open(address, 1280, dark=False)
    reached = []
    for _ in range(5):
        for kind in ("keyDown", "keyUp"):
            page.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        reached.append(page.value("document.activeElement.textContent"))
        assert page.value("getComputedStyle(document.activeElement).outlineStyle") == "solid", "and one sees where"
    assert reached == ["Skip to the apps", "Reload", "health as JSON", "metrics", "OpenAPI"]


def test_without_javascript_it_is_the_same_page(page: Page, address: str) -> None:
    page.open(address, 1280, dark=False)
    whole = page.value("document.body.innerText")
    page.open(f"{address}?again", 1280, dark=False, script=False)
    assert page.value("document.body.innerText") == whole
    assert "unhealthy" in whole


def test_it_comes_up_to_date_by_itself(page: Page, address: str) -> None:
    page.open(address, 1280, dark=False)
    page.value("document.querySelector('main').dataset.old = 'yes'")
    page.call("Emulation.setVirtualTimePolicy", policy="advance", budget=31_000)
    until = time.monotonic() + 30  # the timer is early; the answer comes when it comes
    while page.value("document.querySelector('main').dataset.old") is not None and time.monotonic() < until:
        time.sleep(0.05)
    assert page.value("document.querySelector('main').dataset.old") is None
    assert page.value("document.querySelectorAll('main').length") == 1
