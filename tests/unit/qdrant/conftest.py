"""What several tests of Qdrant use."""

from tests.unit.qdrant.rotated_apps import world  # noqa: F401
