"""Graphs as people make them, by a seed: values of every type, names of any characters, every index of Community."""

from __future__ import annotations

from random import Random

from multidb.provisioners.neo4j.provision.cypher import quoted

_NAMES = (
    *("Plain", "plain", "with space", "tick`s", "``", "\\u0060", "\\", "'quoted'", '"', "{}", "$p", "//", "/*", "NULL"),
    *("Größe", "日本語", "🙂", "line\nbreak", "\u2028", "\u202e", "a.b", "1", "x" * 200, "n:m", ")", "RETURN", "\t"),
)
_SCALARS = (
    *("true", "false", "0", "-1", "9223372036854775807", "-9223372036854775808", "''", "'a'", "'Größe \\n \\u0000 🙂'"),
    *("0.0", "-0.0", "1e308", "5e-324", "0.1+0.2", "0.0/0.0", "1/0.0", "-1/0.0"),
    *("date('0001-01-01')", "date('9999-12-31')", "date('-0001-01-01') + duration({years: 2})"),
    *("localtime('00:00:00.000000001')", "time('12:00+14:00')", "time('23:59:59.999999999-18:00')"),
    *("localdatetime('1582-10-04T00:00')", "datetime('2026-03-29T03:30:00.000000001[Europe/Berlin]')"),
    *("datetime('2024-11-03T01:30:00-05:00[America/New_York]')", "datetime('1900-01-01T00:00:00+05:30')"),
    *(
        "datetime('2026-01-01T00:00[UTC]')",
        "datetime('2026-01-01T00:00Z')",
        "datetime('1850-06-01T12:00[Europe/Berlin]')",
    ),
    *("date('-0044-03-15')", "datetime('1850-06-01T12:00:00.5-00:53:28')"),
    *("duration('P0D')", "duration({months: -14, days: 3, seconds: -1, nanoseconds: 999999999})"),
    *("point({x: 0.0, y: -0.0})", "point({x: 1e300, y: 2, z: 3})", "point({longitude: -180, latitude: 90})"),
    *("point({longitude: 12.5, latitude: 41.9, height: 8848.86})",),
)
_LISTS = (
    *("[]", "['', 'ü']", "[1, -2]", "[0.5, -0.0]", "[true, false]", "[date('2026-01-01')]", "[time('12:00Z')]"),
    "[datetime('2026-01-01T00:00[UTC]'), datetime('2026-01-01T00:00Z'), datetime('2026-01-01T00:00[Asia/Tokyo]')]",
    "[date('-0044-03-15'), date('2026-01-01')]",
    *("[datetime('2026-01-01T00:00+01:00')]", "[duration('P1M')]", "[point({x: 1, y: 2}), point({x: 3, y: 4})]"),
)


def graph(random: Random, nodes: int = 60) -> list[list[str]]:
    """The statements that make one, by transactions: part of the schema, the data, the rest of the schema."""
    labels, types, keys = (random.sample(_NAMES, 5) for _ in range(3))
    schema = _schema(random, labels, types, keys)
    first = [text for text in schema if "CONSTRAINT" not in text and random.random() < 0.6]
    made = []
    for number in range(nodes):
        chosen = "".join(f":{quoted(label)}" for label in random.sample(labels, random.randint(0, 3)))
        made.append(f"CREATE (n{chosen}) SET n = {{{_properties(random, keys, number)}}}")
    for number in range(nodes):
        start, end = random.randrange(nodes), random.randrange(nodes)
        end = start if random.random() < 0.1 else end
        kind, properties = quoted(random.choice(types)), _properties(random, keys, number)
        match = f"MATCH (a {{_n: {start}}}), (b {{_n: {end}}})"
        made.append(f"{match} CREATE (a)-[r:{kind}]->(b) SET r = {{{properties}}}")
        if random.random() < 0.2:  # one more that is just like it
            made.append(f"{match} CREATE (a)-[r:{kind}]->(b) SET r = {{{properties}}}")
    late = [text for text in schema if text not in first and random.random() < 0.8]
    return [first, [*made, "MATCH (n {_n: 7}) DETACH DELETE n"], late]


def _properties(random: Random, keys: list[str], number: int) -> str:
    values = [random.choice(_LISTS if random.random() < 0.3 else _SCALARS) for _ in keys]
    pairs = [f"{quoted(key)}: {value}" for key, value in zip(keys, values, strict=True) if random.random() < 0.6]
    return ", ".join([f"_n: {number}", *pairs])


def _schema(random: Random, labels: list[str], types: list[str], keys: list[str]) -> list[str]:
    """Constraints and indexes of every kind, whose names are as hostile as those of what they are for."""
    node, other = quoted(labels[0]), quoted(labels[1])
    kind, key, second = quoted(types[0]), quoted(keys[0]), quoted(keys[1])
    names = [quoted(f"{name} {number}") for number, name in enumerate(random.sample(_NAMES, 11))]
    return [
        f"CREATE CONSTRAINT {names[0]} FOR (n:{node}) REQUIRE n._n IS UNIQUE",
        f"CREATE CONSTRAINT {names[1]} FOR (n:{other}) REQUIRE (n._n, n.{key}) IS UNIQUE",
        f"CREATE INDEX {names[2]} FOR (n:{node}) ON (n.{key}, n.{second})",
        f"CREATE INDEX {names[3]} FOR ()-[r:{kind}]-() ON (r.{key})",
        f"CREATE TEXT INDEX {names[4]} FOR (n:{node}) ON (n.{key})",
        f"CREATE TEXT INDEX {names[5]} FOR ()-[r:{kind}]-() ON (r.{key})",
        f"CREATE POINT INDEX {names[6]} FOR (n:{other}) ON (n.{key})"
        " OPTIONS {indexConfig: {`spatial.wgs-84.min`: [-100.0, -80.0], `spatial.cartesian.max`: [1e9, 9.5]}}",
        f"CREATE FULLTEXT INDEX {names[7]} FOR (n:{node}|{other}) ON EACH [n.{key}, n.{second}] OPTIONS {{indexConfig:"
        " {`fulltext.analyzer`: 'german', `fulltext.eventually_consistent`: true}}",
        f"CREATE FULLTEXT INDEX {names[8]} FOR ()-[r:{kind}]-() ON EACH [r.{key}]",
        f"CREATE VECTOR INDEX {names[9]} FOR (n:{node}) ON (n.embedding) OPTIONS {{indexConfig: {{`vector.dimensions`:"
        " 3, `vector.similarity_function`: 'euclidean', `vector.hnsw.m`: 8, `vector.quantization.enabled`: false}}",
        f"CREATE VECTOR INDEX {names[10]} FOR ()-[r:{kind}]-() ON (r.embedding)"
        " OPTIONS {indexConfig: {`vector.dimensions`: 4096}}",
    ]
