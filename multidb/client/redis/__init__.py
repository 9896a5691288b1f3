"""redis-py's clients in an app's place: keys (in prefix mode) and channels get the app's prefix, commands that reach
beyond it are refused in words, and connections follow a rotation::

    redis = connect().redis
    redis.set("greeting", "hello")           # in prefix mode this is lernmi:greeting
    redis.publish("news", "...")             # on the channel lernmi:news, in both modes

The walls are the server's, by its ACL. This is what saves each line of an app from knowing them.
"""

from multidb.client.redis.asynchronous import AsyncPlacedRedis
from multidb.client.redis.keys import SharedChannel
from multidb.client.redis.synchronous import PlacedRedis

__all__ = ["AsyncPlacedRedis", "PlacedRedis", "SharedChannel"]
