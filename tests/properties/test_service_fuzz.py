"""Requests that nobody would think of: the service answers as its OpenAPI description says."""

from __future__ import annotations

import schemathesis
from hypothesis import given, settings
from schemathesis import Case
from schemathesis.specs.openapi import checks

from tests.support.examples import some_of
from tests.support.serving import served

DESCRIBED = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


def test_every_answer_is_as_described() -> None:
    asked: dict[str, set[int]] = {}
    with served() as url:
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        for found in schema.get_all_operations():
            operation = found.ok()

            @settings(max_examples=some_of(40), database=None)
            @given(case=operation.as_strategy())  # every text may be an app's name: nothing can be asked wrongly
            def ask(case: Case) -> None:
                response = case.call_and_validate(checks=DESCRIBED)
                assert response.status_code != 500
                asked.setdefault(case.path, set()).add(response.status_code)

            ask()
    pages = {"/", "/apps/{app}", "/audit", "/history"}
    assert set(asked) == {*pages, "/metrics", "/health/live", "/health/databases", "/health/databases/{app}"}
    assert 404 in asked["/apps/{app}"]
    assert asked["/health/databases"] == {503}
    assert 404 in asked["/health/databases/{app}"]
