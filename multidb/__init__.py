"""multidb: one manifest, many apps, each with its own isolated place on shared database servers."""

__version__ = "0.1.0"

DISTRIBUTION = "multidb-cli"
"""What pip calls it; ``multidb`` on the package index is another project's."""
