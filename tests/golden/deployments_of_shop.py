"""The deployments whose files are kept here."""

from __future__ import annotations

from pathlib import Path

from multidb.deployment import Deployment, containers
from multidb.project import load_deployment
from multidb.provisioners import provisioner
from multidb.provisioners.qdrant.provision.resources import token_ref
from multidb.secrets import Secret, SecretRef

APPS = """
apps:
  digi_core:
    tenant_id: digi-core
    redis: {db: 1}
    deploy: {image: "registry.example.com/digi-core:1.4", ports: [8000, "9000:80"], command: [serve, --name, "a $b"]}
  beep_boop: {stores: [postgres, redis]}
"""


DIGEST = "0123456789abcdef" * 4


CASES = {
    "hybrid": "",
    "single": "deploy: {strategy: single}",
    "separate": "deploy: {strategy: separate}",
    "hybrid_pgbouncer": "deploy: {profiles: [pgbouncer]}\ndefaults: {postgres: {roles: split}}",
    "single_pgbouncer_backup": "deploy: {strategy: single, profiles: [pgbouncer, backup]}",
    "hybrid_monitoring": "deploy: {profiles: [monitoring]}",
    "single_monitoring_unexposed": "deploy: {strategy: single, expose: none, profiles: [backup, monitoring]}",
    "hybrid_backup": "deploy: {profiles: [backup]}\nbackup: {every: 6h, to: [backups/, /mnt/nas/digi]}\n"
    "notify: {webhooks: [{url: {env: CHAT_HOOK}}], heartbeat: {file: heartbeat.url}}",
    "hybrid_serve_proxy": "deploy: {profiles: [serve, proxy], proxy: {name: multidb.example.com}}",
    "single_proxy_unexposed": "deploy: {strategy: single, expose: none, profiles: [proxy, monitoring]}",
    "separate_proxy": "deploy: {strategy: separate, profiles: [proxy]}",
    "expose_none": "deploy: {expose: none}",
    "servers": "servers:\n"
    f'  postgres: {{image: "postgres@sha256:{DIGEST}", port: 15432, memory: 4g, cpus: 1.5, max_connections: 400}}\n'
    '  neo4j: {image: "neo4j:2026.08.1-enterprise", heap: 1g}\n'
    "  redis: {image: redis:8, databases: 32, maxmemory: 1gb, memory: 2g}\n"
    "  qdrant: {port: 16333, grpc_port: 16334}",
    "hybrid_tls_pgbouncer": "deploy: {tls: own, profiles: [pgbouncer]}",
    "separate_tls": "deploy: {strategy: separate, tls: own, profiles: [backup]}",
    "neo4j_label": "servers: {neo4j: {isolation: label}}",
}


def deployment(folder: Path, more: str) -> Deployment:
    """A deployment whose secrets are known words."""
    (folder / "multidb.yaml").write_text(f"version: 1\nproject: digi\nruntime: compose\n{more}\n{APPS}")
    made = load_deployment(folder / "multidb.yaml")
    refs = [server.admin_ref for server in containers(made.project)] + [SecretRef("@pgbouncer", "postgres", "admin")]
    refs += [SecretRef("@multidb", "monitoring", "token"), SecretRef("@grafana", "monitoring", "admin")]
    for app in made.project.apps.values():
        refs += [spec.ref for store in app.stores for spec in provisioner(store).secrets(app)] + [token_ref(app.id)]
    made.state.secrets.put({ref: Secret(f"secret.{ref.owner.strip('@')}.{ref.store}.{ref.name}") for ref in refs})
    return made
