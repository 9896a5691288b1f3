"""What an app has on the server: the desired things, the statements that make them, and the sessions that run those."""
