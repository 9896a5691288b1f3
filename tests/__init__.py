"""Tests of multidb."""

import sys

# When jsonschema is imported it asks this library for the format of IRIs, which no schema of ours has: 38 grammars are
# made for it, which takes longer than all else that a test imports.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
