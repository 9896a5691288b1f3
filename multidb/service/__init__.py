"""`multidb serve`: health, metrics and a page over HTTP. Read only. Needs the packages of ``multidb-cli[serve]``."""
