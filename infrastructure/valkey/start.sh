#!/bin/sh
# Written by multidb from multidb.yaml; changes made here are lost. Make it again: multidb render. Template: valkey/start.sh.j2
# Starts Valkey or Redis with its users in a file of the data volume, which the server itself writes (ACL SAVE).
# Here only the two lines that keep strangers out are made sure of; every other user stays.
set -eu
umask 077
acl=/data/acl/users.acl
mkdir -p /data/acl
digest=$(printf '%s' "$REDISCLI_AUTH" | sha256sum | cut -d ' ' -f 1)
{
  echo 'user default off sanitize-payload resetchannels -@all'
  echo "user multidb_admin on sanitize-payload #$digest ~* &* +@all"
  if [ -f "$acl" ]; then grep -v -e '^user default ' -e '^user multidb_admin ' "$acl" || true; fi
} >"$acl.new"
mv "$acl.new" "$acl"
exec docker-entrypoint.sh "$@"
