"""For apps: clients that are bound to the app's place on its stores. It imports nothing of the command line, and a
driver only when its store is used::

    from multidb.client import connect

    with connect() as app:                       # the app's environment; connect("lernmi") beside the manifest
        app.redis.set("greeting", "hello")
        app.qdrant.query_points("knowledge", query=[...])
        with app.postgres.pool.connection() as connection:
            connection.execute("SELECT 1")
"""

from multidb.client.app import AppPlace, connect
from multidb.client.errors import CallRefused, ClientError, DriverMissing, PointMissing, VariableMissing

__all__ = ["AppPlace", "CallRefused", "ClientError", "DriverMissing", "PointMissing", "VariableMissing", "connect"]
