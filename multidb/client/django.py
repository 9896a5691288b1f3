"""Django's test runner on an app's test database: ``TEST_RUNNER = "multidb.client.django.TestRunner"``, and
``"TEST": {"NAME": os.environ["POSTGRES_DB"] + "_test"}`` in ``DATABASES``."""

from __future__ import annotations

from typing import Any

from django.test.runner import DiscoverRunner

from multidb.client.testing import empty_test_database

__all__ = ["TestRunner"]


class TestRunner(DiscoverRunner):  # type: ignore[misc]
    """Django's own, with the database emptied where that drops it and makes it again.

    ``--keepdb`` leaves what is in it. ``--parallel`` would need more databases than there are.
    """

    keepdb: bool
    parallel: int

    def setup_databases(self, **kwargs: Any) -> Any:
        """As Django's."""
        if not self.keepdb:
            empty_test_database()
        self.keepdb, self.parallel = True, 1
        return super().setup_databases(**kwargs)
