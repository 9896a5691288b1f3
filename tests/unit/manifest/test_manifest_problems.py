"""What a wrong manifest is told: every mistake at once, where it is, and what would be right."""

from dataclasses import replace
from pathlib import Path

import pytest

from multidb.errors import ManifestError
from multidb.manifest import load
from tests.support.toy_stores import STORES

HEAD = "version: 1\nproject: digi\n"


def told(folder: Path, text: str | bytes, overlay: str | None = None) -> list[str]:
    path = folder / "multidb.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ManifestError) as caught:
        load(path, STORES, overlay=overlay)
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


CASES = {
    # the file
    "": '1:1: the manifest is empty. Begin with "version: 1".',
    "# nothing\n": '1:1: the manifest is empty. Begin with "version: 1".',
    "- a\n": '1:1: the manifest is a list. Begin with "version: 1".',
    "text\n": '1:1: the manifest is one value. Begin with "version: 1".',
    "version: 1\nproject: [\n": "3:1: not valid YAML: a value is missing, or a bracket is not closed",
    "version: 1\nproject: digi\nservers:\n\ttables: {}\n": "4:1: not valid YAML: a tab cannot indent. Use spaces",
    "version: 1\n---\nversion: 1\n": (
        "2:1: not valid YAML: there must be one YAML document in a file. Remove the second ---."
    ),
    "version: 1\nproject: *digi\n": "2:10: not valid YAML: the alias has no anchor before it",
    HEAD + "apps: !ruby/object {}\n": "3:7: the tag !ruby/object is not supported. Write the value without it.",
    HEAD + "? [a]\n: b\n": "3:3: a key must be a word, not a list or a mapping",
    HEAD + "apps: {aa: {<<: 3}}\n": "3:17: << must name a mapping, or a list of mappings",
    HEAD + "apps: {aa: {}}\napps: {bb: {}}\n": '4:1: "apps" stands here for the second time; first at multidb.yaml:3:1',
    HEAD + "apps: {a\u200ba: {}}\n": None,
    HEAD + "# \ufeff\n": "3:3: the invisible character U+FEFF has no place here",
    # the head
    "project: digi\n": '1:1: version is missing. Add "version: 1".',
    "version: 2\nproject: 3\nnew: x\n": ("1:10: version 2 is newer than what this multidb reads (1). Upgrade multidb."),
    "version: '1'\nproject: digi\n": "1:10: version must be the number 1",
    "version: true\nproject: digi\n": "1:10: version must be the number 1",
    "version: 1\nproject: Digi\n": (
        "2:10: project must be 2 to 40 characters a-z, 0-9, _ or -, beginning with a letter, not Digi"
    ),
    HEAD + "runtime: embeded\n": (
        "3:10: runtime must be 'embedded', 'compose' or 'external', not embeded. Did you mean \"embedded\"?"
    ),
    HEAD + "aps: {}\n": '3:1: unknown key "aps". Did you mean "apps"?',
    HEAD + "servers: {table: {}}\n": '3:11: unknown key "table" in servers. Did you mean "tables"?',
    HEAD + "servers: {mysql: {}}\n": '3:11: unknown key "mysql" in servers. Known here: cache, tables, vectors.',
    HEAD + "servers: {tables: {port: high}}\n": "3:26: port must be a whole number, not high",
    HEAD + "servers: {tables: {port: 70000}}\n": "3:26: port must be at most 65535, not 70000",
    HEAD + "servers: []\n": "3:1: servers must be a mapping",
    HEAD + "include: apps/*.yaml\n": "3:10: include must be a list, not apps/*.yaml",
    HEAD + "deploy: {strategy: singel}\n": (
        "3:20: strategy must be 'single', 'separate' or 'hybrid', not singel. Did you mean \"single\"?"
    ),
    HEAD + "deploy: {profiles: [monitor]}\n": (
        "3:21: an entry of profiles must be 'backup', 'funnel', 'monitoring', 'proxy' or 'serve', not monitor."
        ' Did you mean "monitoring"?'
    ),
    HEAD + "deploy: {tls: yes}\n": ("3:15: tls must be none, own, or {cert: FILE, key: FILE, ca: FILE}, not yes"),
    HEAD + "deploy: {tls: {cert: a, key: b, ca: c, crl: d}}\n": (
        '3:40: unknown key "crl" in tls. Known here: ca, cert, key.'
    ),
    HEAD + "backup: {keep: {last: 0}}\n": "3:23: last must be at least 1, not 0",
    HEAD + "backup: {every: often}\n": ("3:17: every must be a duration such as 30s, 2min, 24h or 7d, not often"),
    # external: what may be a secret in the wrong place is not repeated
    HEAD + "external: {tables: {url: x, password: hunter2}}\n": "3:39: password must be a mapping",
    HEAD + "external: {tables: {password: {env: A}}}\n": "3:12: url is missing from tables",
    HEAD + "external: {tables: {url: x, password: {environment: A, env: B}}}\n": (
        '3:40: unknown key "environment" in password. Known here: env, file.'
    ),
    # known
    HEAD + "known: {table: [monitor]}\n": '3:9: unknown key "table" in known. Did you mean "tables"?',
    HEAD + "known: [monitor]\n": "3:1: known must be a mapping",
    HEAD + "known: {tables: monitor}\n": "3:17: tables must be a list, not monitor",
    HEAD
    + "known: {tables: [{monitor: yes}]}\n": "3:18: an entry of tables must be the name of an account, as its server"
    " has it",
    HEAD + "known: {tables: ['']}\n": "3:18: an entry of tables must be the name of an account, as its server has it",
    HEAD + "known: {tables: [a, b, a]}\n": "3:24: a is listed twice",
    HEAD + "known: {tables: [sys_one]}\n": (
        "3:18: known.tables: sys_one is multidb's own, or the server's. Leave it out."
    ),
    HEAD + "known: {tables: [lernmi_rw]}\napps: {lernmi: {stores: [tables]}}\n": (
        "3:18: known.tables: lernmi_rw is the writer of lernmi, and an app's own is never let off. Leave it out."
    ),
    # defaults
    HEAD + "defaults: {tables: {connection_limt: 3}}\n": (
        '3:21: unknown key "connection_limt" in tables. Did you mean "connection_limit"?'
    ),
    HEAD + "defaults: {tables: {connection_limt: 3}}\napps: {aa: {}, bb: {}}\n": (
        '3:21: unknown key "connection_limt" in tables. Did you mean "connection_limit"?'
    ),
    HEAD + "defaults: {tables: 3}\n": "3:20: tables must be a mapping, not 3",
    # apps
    HEAD + "apps: [lernmi]\n": "3:7: apps must be a mapping. For example: apps: {lernmi: {}}.",
    HEAD + "apps: {lernmi: tables}\n": "3:16: the entry of app lernmi must be a mapping. For example lernmi: {}.",
    HEAD + "apps: {lernmi: {tabels: {}}}\n": '3:17: unknown key "tabels" in lernmi. Did you mean "tables"?',
    HEAD + "apps: {lernmi: {stores: [tabels]}}\n": (
        "3:26: an entry of stores must be 'tables', 'vectors' or 'cache', not tabels. Did you mean \"tables\"?"
    ),
    HEAD + "apps: {lernmi: {stores: []}}\n": "3:17: stores must have 1 or more entries",
    HEAD + "apps: {lernmi: {stores: [cache, cache]}}\n": "3:33: cache is listed twice",
    HEAD + "apps: {lernmi: {stores: [cache], tables: {}}}\n": (
        '3:34: app lernmi has options for tables, which is not one of its "stores".'
        " Add tables to stores, or remove the options."
    ),
    HEAD + "apps: {lernmi: {tables: {statement_timeout: 30}}}\n": (
        '3:45: statement_timeout must be text, not 30. Put it in quotes: "30".'
    ),
    HEAD + "apps: {lernmi: {tables: {statement_timeout: soon}}}\n": (
        "3:45: statement_timeout must be a duration such as 30s or 2min, not soon"
    ),
    HEAD + "apps: {lernmi: {tables: {split: maybe}}}\n": "3:33: split must be true or false, not maybe",
    HEAD + "apps: {lernmi: {tables: {extensions: vector}}}\n": "3:38: extensions must be a list, not vector",
    HEAD + "apps: {lernmi: {vectors: {collections: {docs: {size: 3, distance: cosin}}}}}\n": (
        "3:67: distance must be 'cosine', 'dot' or 'euclid', not cosin. Did you mean \"cosine\"?"
    ),
    HEAD + "apps: {lernmi: {vectors: {collections: {docs: {distance: dot}}}}}\n": (
        "3:41: size is missing from docs. (Numbers in a vector)"
    ),
    HEAD + "apps: {lernmi: {tenant_id: 12}}\n": (
        "3:28: tenant_id must be 1 to 63 letters, digits, '.', '_' or '-', such as digi-core, not 12."
        ' Put it in quotes: "12".'
    ),
    HEAD + "apps: {lernmi: {quota: {tables: " + "9" * 400 + "GB}}}\n": "3:33: tables must be a size below 9 million TB",
    HEAD + "apps: {lernmi: {quota: {tables: 5}}}\n": "3:33: tables must be a size such as 500MB or 5GB, not 5",
    HEAD + "apps: {lernmi: {quota: {tables: {size: 5GB, enforce: readonly}}}}\n": (
        "3:54: enforce must be 'warn' or 'read-only', not readonly. Did you mean \"read-only\"?"
    ),
    HEAD + "apps: {lernmi: {quota: {tables: {sise: 5GB, size: 5GB}}}}\n": (
        '3:34: unknown key "sise" in tables. Did you mean "size"?'
    ),
    HEAD + "apps: {lernmi: {quota: {tables: {enforce: warn}}}}\n": (
        "3:25: size is missing from tables. (The bytes that its data may take: 500MB, 5GiB)"
    ),
    HEAD + "apps: {lernmi: {deploy: {ports: [http]}}}\n": (
        "3:34: an entry of ports must be a port such as 8000, or 8080:80, not http"
    ),
    # ids
    HEAD + "apps: {beep-boop: {}}\n": (
        '3:8: "beep-boop" is not an app id: an app id is 2 to 31 characters a-z, 0-9 and _,'
        ' begins with a letter and does not end in _. Did you mean "beep_boop"?'
    ),
    HEAD + "apps: {no: {}}\n": '3:8: no is a number or a truth value to YAML, not a name. Quote it: "no".',
    HEAD + "apps: {123: {}}\n": (
        '3:8: "123" is a number or a truth value to YAML, and an app id is 2 to 31 characters a-z, 0-9 and _,'
        ' begins with a letter and does not end in _. Did you mean "app_123"?'
    ),
    HEAD + "apps: {public: {}}\n": (
        '3:8: public is a name that tables keeps for itself. Choose another id, for example "app_public",'
        " or leave tables out of its stores."
    ),
    HEAD + "apps: {a_name_of_21_bytes_xx: {}}\n": (
        "3:8: app a_name_of_21_bytes_xx: the database of a_name_of_21_bytes_xx would be named a_name_of_21_bytes_xx,"
        " which is 21 bytes; tables takes 20. Choose a shorter name."
    ),
}


@pytest.mark.parametrize(("text", "expected"), [(text, said) for text, said in CASES.items() if said])
def test_one_mistake(tmp_path: Path, text: str, expected: str) -> None:
    assert told(tmp_path, text) == [f"multidb.yaml:{expected}"]


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    text = "version: 1\nprojet: digi\nruntime: x\nservers: {tables: {port: a}}\ndefaults: {cache: {dbs: 1}}\n"
    text += "apps:\n  A: {}\n  bb: {cache: {db: x}}\n  cc: {cache: {db: 1}}\n  dd: {cache: {db: 1}}\n"
    assert [problem.split(": ")[0] for problem in told(tmp_path, text)] == [
        "multidb.yaml:1:1", "multidb.yaml:2:1", "multidb.yaml:3:10", "multidb.yaml:4:26", "multidb.yaml:5:20",
        "multidb.yaml:7:3", "multidb.yaml:8:20",
    ]  # fmt: skip


def test_apps_that_would_share_a_name_are_told_at_both_places(tmp_path: Path) -> None:
    first, second = told(tmp_path, HEAD + "apps:\n  aa: {}\n  aa_rw: {}\n")
    assert first == (
        "multidb.yaml:4:3: app aa: the writer of aa would be named aa_rw, as would one of aa_rw (multidb.yaml:5:3)."
        " Rename one of the apps."
    ).replace("multidb.yaml:5:3)", f"{tmp_path}/multidb.yaml:5:3)").replace(f"{tmp_path}/", "")
    assert second.startswith("multidb.yaml:5:3: app aa_rw: a table role of aa_rw would be named aa_rw")


def test_names_of_one_kind_collide_and_others_do_not(tmp_path: Path) -> None:
    text = HEAD + "apps:\n  aa: {stores: [vectors], vectors: {collections: {bb_cc: {size: 1}}}}\n"
    text += "  aa_bb: {stores: [vectors], vectors: {collections: {cc: {size: 1}}}}\n  aa_bb_cc: {stores: [tables]}\n"
    assert [problem.split(": ")[0] for problem in told(tmp_path, text)] == ["multidb.yaml:4:3", "multidb.yaml:5:3"]


def test_a_shared_tenant_id_is_told_at_both_places(tmp_path: Path) -> None:
    found = told(tmp_path, HEAD + "apps:\n  aa: {tenant_id: bb}\n  bb: {}\n")
    assert found == [
        "multidb.yaml:4:3: app aa has the tenant_id bb, and so has bb (multidb.yaml:5:3)",
        "multidb.yaml:5:3: app bb has the tenant_id bb, and so has aa (multidb.yaml:4:3)",
    ]


def test_a_stores_own_check_points_at_the_options(tmp_path: Path) -> None:
    found = told(tmp_path, HEAD + "apps:\n  aa: {cache: {db: 1}}\n  bb: {cache: {db: 1}}\n")
    assert found == ["multidb.yaml:5:8: db 1 is also that of app aa"]


@pytest.mark.parametrize(
    ("runtimes", "ways"),
    [({"compose", "embedded"}, ", or choose runtime: embedded or runtime: compose."), (set(), ".")],
)
def test_a_store_that_the_runtime_cannot_serve_is_refused(tmp_path: Path, runtimes: set[str], ways: str) -> None:
    (tmp_path / "multidb.yaml").write_text(HEAD + "runtime: external\napps: {aa: {stores: [cache]}}\n")
    stores = {**STORES, "cache": replace(STORES["cache"], runtimes=frozenset(runtimes), address=None)}
    with pytest.raises(ManifestError) as caught:
        load(tmp_path / "multidb.yaml", stores)
    (problem,) = caught.value.problems
    assert str(problem).replace(f"{tmp_path}/", "") == (
        "multidb.yaml:4:8: app aa uses cache, and runtime external has no servers of it. "
        f"Leave cache out of the app's stores{ways}"
    )


def test_an_external_runtime_needs_addresses_of_what_is_used(tmp_path: Path) -> None:
    text = HEAD + "runtime: external\nexternal: {cache: {url: x}}\napps: {aa: {stores: [cache, tables]}}\n"
    (found,) = told(tmp_path, text)
    assert found.startswith("multidb.yaml:3:10: runtime is external, and external does not say where tables is")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (
            b"version: 1\nproject: \xff\n",
            "multidb.yaml:2:10: is not UTF-8 text. Save the file with the encoding UTF-8.",
        ),
        ("version: 1".encode("utf-16"), "multidb.yaml:1:1: is not UTF-8 text"),
        (b"version: 1\n\x00", "multidb.yaml:2:1: the invisible character U+0000"),
        (b"---", "multidb.yaml:1:4: the manifest is one value"),
        (b"x" * (9 * 1024 * 1024), "multidb.yaml:1:1: is larger than 8 MB"),
        (b"[" * 100_000, "multidb.yaml:1:"),
        (b"- " * 100_000, "multidb.yaml:1:"),
        (b"{a: " * 100_000, "multidb.yaml:1:"),
    ],
    ids=["latin", "utf-16", "nul", "empty", "large", "brackets", "dashes", "braces"],
)
def test_bytes_that_are_no_manifest(tmp_path: Path, raw: bytes, said: str) -> None:
    (found,) = told(tmp_path, raw)
    assert found.startswith(said)


def test_a_bomb_of_aliases_does_not_go_off(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    (found,) = told(tmp_path, "\n".join(lines))
    assert "holds more than 200,000 values" in found


def test_an_alias_that_holds_itself_ends(tmp_path: Path) -> None:
    (found,) = told(tmp_path, "version: 1\nproject: digi\napps: &a {aa: *a}\n")
    assert "nests more than 50 levels deep" in found


def test_mistakes_of_included_files_are_told_where_they_are(tmp_path: Path) -> None:
    for name, text in {
        "aa": "aa: {tables: {connection_limit: 0}}\n",
        "bb": "bb: [\n",
        "cc": "version: 1\napps: {cc: {}}\n",
        "dd": "- dd\n",
        "ee": "lernmi: {}\n",
    }.items():
        (tmp_path / f"{name}.yml").write_text(text)
    found = told(tmp_path, HEAD + "include: ['*.yml', missing.yaml, /etc/*, ../*, '']\napps: {lernmi: {}}\n")
    assert found == [
        "aa.yml:1:33: connection_limit must be at least 1, not 0",
        "bb.yml:2:1: not valid YAML: a value is missing, or a bracket is not closed",
        'cc.yml:1:1: "version" has no place in an included file. Write the app\'s id at the top: lernmi: {}.',
        "dd.yml:1:1: an included file maps app ids to their entries: lernmi: {}",
        "ee.yml:1:1: app lernmi stands in two files; the other is multidb.yaml:4:8",
        'multidb.yaml:3:20: there is no file "missing.yaml"',
        'multidb.yaml:3:34: "/etc/*" leaves the folder of the manifest. Name files inside it: apps/*/app.yaml.',
        'multidb.yaml:3:42: "../*" leaves the folder of the manifest. Name files inside it: apps/*/app.yaml.',
        'multidb.yaml:3:48: "" leaves the folder of the manifest. Name files inside it: apps/*/app.yaml.',
        "multidb.yaml:4:8: app lernmi stands in two files; the other is ee.yml:1:1",
    ]


def test_an_included_link_does_not_lead_out(tmp_path: Path) -> None:
    inside = tmp_path / "project"
    inside.mkdir()
    (tmp_path / "secret.yaml").write_text("lernmi: {}\n")
    (inside / "app.yaml").symlink_to(tmp_path / "secret.yaml")
    (found,) = told(inside, HEAD + "include: [app.yaml]\n")
    assert found.endswith("is a link that leaves the folder of the manifest")
