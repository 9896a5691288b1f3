"""An app on its stores: writes and reads with what its env file says; then the same with a stranger's names.

Prints one line for each thing tried: ``postgres own ok``, ``redis other refused``. With OTHER_APP set, it also tries
what belongs to that app, with its own credentials (OTHER_REDIS_DB, OTHER_NEO4J say where that is).
"""

import json
import os
import ssl
import sys
import urllib.request
from urllib.parse import urlsplit

ENV = os.environ
APP = ENV["APP_NAME"]
OTHER = ENV.get("OTHER_APP", "")


def postgres(database=None):
    import psycopg2

    url = ENV["DATABASE_URL"]
    if database:
        url = url[: url.rindex("/") + 1] + database
    with psycopg2.connect(url, connect_timeout=10) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS seen (who text)")
        cursor.execute("INSERT INTO seen VALUES (%s)", (APP,))
        cursor.execute("SELECT count(*) FROM seen WHERE who = %s", (APP,))
        assert cursor.fetchone()[0] >= 1


def redis(number=None):
    import redis as driver

    trust = {"ssl_ca_certs": ENV["REDIS_CA_FILE"]} if "REDIS_CA_FILE" in ENV else {}
    client = driver.Redis.from_url(ENV["REDIS_URL"], socket_timeout=10, **trust)
    if number is not None:
        parts = urlsplit(ENV["REDIS_URL"])
        client = driver.Redis(parts.hostname, parts.port, int(number), username=parts.username, password=parts.password)
    client.set("seen", APP)
    assert client.get("seen").decode() == APP


def _call(method, path, body=None):
    request = urllib.request.Request(
        ENV["QDRANT_URL"].rstrip("/") + path,
        method=method,
        data=json.dumps(body).encode() if body is not None else None,
        headers={"api-key": ENV["QDRANT_API_KEY"], "content-type": "application/json"},
    )
    trust = ssl.create_default_context(cafile=ENV.get("QDRANT_CA_FILE"))
    with urllib.request.urlopen(request, timeout=20, context=trust) as response:
        return json.loads(response.read())


def qdrant(collection=None):
    collection = collection or ENV["QDRANT_COLLECTION_PREFIX"] + "knowledge"
    size = _call("GET", f"/collections/{collection}")["result"]["config"]["params"]["vectors"]["size"]
    point = {"id": 1, "vector": [0.5] * size, "payload": {"tenant_id": ENV["APP_TENANT_ID"]}}
    _call("PUT", f"/collections/{collection}/points?wait=true", {"points": [point]})
    assert _call("GET", f"/collections/{collection}/points/1")["result"]["payload"]["tenant_id"] == ENV["APP_TENANT_ID"]


def neo4j(host=None):
    from neo4j import GraphDatabase, TrustCustomCAs

    uri, trust = ENV["NEO4J_URI"], {}
    if host:
        uri = f"bolt://{host}:7687"
    if "NEO4J_CA_FILE" in ENV:  # this driver takes either +s or an authority of one's own
        uri = uri.replace("bolt+s:", "bolt:")
        trust = {"encrypted": True, "trusted_certificates": TrustCustomCAs(ENV["NEO4J_CA_FILE"])}
    with GraphDatabase.driver(uri, auth=(ENV["NEO4J_USER"], ENV["NEO4J_PASSWORD"]), **trust) as driver:
        database = ENV["NEO4J_DATABASE"]
        driver.execute_query("MERGE (n:Seen {who: $who})", who=APP, database_=database)
        rows = driver.execute_query("MATCH (n:Seen) RETURN n.who AS who", database_=database).records
        assert [row["who"] for row in rows] == [APP]


def attempt(store, whose, work, *arguments):
    try:
        work(*arguments)
    except Exception as error:
        print(store, whose, "refused", type(error).__name__, " ".join(str(error).split())[:200], flush=True)
    else:
        print(store, whose, "ok", flush=True)


own = {"postgres": "DATABASE_URL", "redis": "REDIS_URL", "qdrant": "QDRANT_URL", "neo4j": "NEO4J_URI"}
for store, variable in own.items():
    if variable in ENV:
        attempt(store, "own", globals()[store])
if OTHER:
    others = {
        "postgres": OTHER,
        "redis": ENV.get("OTHER_REDIS_DB"),
        "qdrant": f"{OTHER}_knowledge",
        "neo4j": ENV.get("OTHER_NEO4J"),
    }
    for store, place in others.items():
        if own[store] in ENV and place is not None:
            attempt(store, "other", globals()[store], place)
sys.exit(0)
