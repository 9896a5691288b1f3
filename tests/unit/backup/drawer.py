"""The cabinet under another name."""

from tests.unit.backup.cabinet import provisioner_of

PROVISIONER = provisioner_of("drawer")
