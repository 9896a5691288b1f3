"""What an app is told when its client cannot, or will not, do what it was asked. No message holds a secret."""

from __future__ import annotations

__all__ = ["CallRefused", "ClientError", "DriverMissing", "PointMissing", "VariableMissing"]


class ClientError(Exception):
    """Base of all errors of `multidb.client`; those of the drivers come as they are."""


class VariableMissing(ClientError):
    """A variable, or the file or manifest that it should come from, is not there or cannot be read."""


class DriverMissing(ClientError):
    """The package that talks to this store is not installed."""


class CallRefused(ClientError):
    """The call could reach beyond the app's or the tenant's place, or writes through a client that only reads. Nothing
    was sent."""


class PointMissing(ClientError, LookupError):
    """The tenant has no point with one of the ids that a query starts from."""
