"""The contract of the official image: NEO4J_AUTH is the first password, NEO4J_a_b__c sets a.b_c, /data holds all, and
EXTENSION_SCRIPT is read by a bash as root before the server starts."""

import hashlib
import os
import secrets
import subprocess
from pathlib import Path

ROUNDS = 1024
HOME = Path("/var/lib/neo4j")
DATA = Path("/data")
HEAP = "server.memory.heap."


def setting(variable: str) -> str:
    return variable.removeprefix("NEO4J_").replace("__", "\0").replace("_", ".").replace("\0", "_")


def credential(user: str, password: str) -> str:
    salt = secrets.token_bytes(32)
    digest = salt + password.encode()
    for _ in range(ROUNDS):
        digest = hashlib.sha256(digest).digest()
    return f"{user}:SHA-256,{digest.hex()},{salt.hex()},{ROUNDS}:\n"


def main() -> None:
    settings = {
        "server.directories.data": str(DATA),
        "server.default_listen_address": "0.0.0.0",
        "server.http.enabled": "false",
        "server.https.enabled": "false",
        "db.tx_log.preallocate": "false",
    }
    settings |= {setting(k): v for k, v in os.environ.items() if k.startswith("NEO4J_") and k != "NEO4J_AUTH"}
    for folder in ("conf", "logs"):
        (HOME / folder).mkdir(parents=True, exist_ok=True)
    lines = [f"{name}={value}\n" for name, value in settings.items() if not name.startswith(HEAP)]
    (HOME / "conf" / "neo4j.conf").write_text("".join(lines))
    first = DATA / "dbms" / "auth.ini"
    if not (DATA / "databases" / "system").exists():
        first.parent.mkdir(parents=True, exist_ok=True)
        user, _, password = os.environ["NEO4J_AUTH"].partition("/")
        first.write_text(credential(user, password))
    if script := os.environ.get("EXTENSION_SCRIPT"):
        subprocess.run(["bash", "-euc", f". {script}"], check=True)
    opens = [f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in ("java.nio", "java.io", "sun.nio.ch")]
    java = "/opt/java/bin/java"
    os.execv(
        java,
        [
            java,
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            f"-Xmx{settings.get(HEAP + 'max_size', '384m')}",
            *opens,
            "--enable-native-access=ALL-UNNAMED",
            "-cp",
            f"{HOME}/lib/*",
            "org.neo4j.server.Neo4jCommunity",
            f"--home-dir={HOME}",
            f"--config-dir={HOME}/conf",
        ],
    )


main()
