"""What one product wrote, and which other may read it."""

import pytest

from multidb.runtime.product import fits


@pytest.mark.parametrize(
    ("before", "now", "one_major", "reads"),
    [
        ("Valkey 9.1.2", "Valkey 9.1.2", False, True),
        ("Valkey 9.1.2", "Valkey 9.1.1", False, True),  # fixes write as the version that they mend
        ("Valkey 9.1.2", "Valkey 9.0.4", False, False),
        ("Valkey 9.1.2", "Valkey 10.0.0", False, True),
        ("Valkey 9.1.2", "Redis 7.0.15", False, False),
        ("Redis 7.0.15", "Valkey 9.1.2", False, False),
        ("Qdrant 1.18.3", "Qdrant 1.9.0", False, False),
        ("Neo4j 2026.08.1", "Neo4j 2025.11.2", False, False),
        ("PostgreSQL 18", "PostgreSQL 18.6", True, True),
        ("PostgreSQL 18.6", "PostgreSQL 18.4", True, True),
        ("PostgreSQL 17", "PostgreSQL 18.6", True, False),
        ("PostgreSQL 18", "PostgreSQL 17.9", True, False),
    ],
)
def test_which_product_reads_what_another_wrote(before: str, now: str, one_major: bool, reads: bool) -> None:
    assert fits(before, now, one_major=one_major) is reads
