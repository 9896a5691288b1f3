#!/bin/sh
# The contract of the official image: options or a configuration file mean redis-server; as root, what is in the working
# directory is given to the server's own user, who then runs it.
set -e
if [ "${1#-}" != "$1" ] || [ "${1%.conf}" != "$1" ]; then
    set -- redis-server "$@"
fi
if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
    find . \! -user redis -exec chown redis:redis '{}' +
    exec setpriv --reuid=redis --regid=redis --init-groups -- "$0" "$@"
fi
umask 0077
exec "$@"
