"""Continuous archiving: the log that a server writes, taken away as it comes, and base backups of all of
it; from both, one app as it was at any moment.

A *stream* is the log of a server without a gap, with the base backups that were made meanwhile: the folder
``_continuous/<project>/<server>/<stream>/`` on each target. What lies there becomes a running server, which would do
whatever its files say: so all of it is signed with a key that only the project's secrets have.
"""
