"""The timers beside the backup sidecar and the unit of `multidb serve`, tried on those who will read them: Kubernetes'
schemas, systemd, cron."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.golden.deployments_of_shop import CASES, deployment


@pytest.fixture(scope="module")
def timers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    made = deployment(tmp_path_factory.mktemp("timers"), CASES["hybrid_backup"])
    files = made.files(new_secrets=True)
    return {Path(path).name: file.text for path, file in files.items() if path.startswith("infrastructure/backup/")}


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_kubernetes_takes_the_cron_jobs(timers: dict[str, str], version: str) -> None:
    jobs = list(yaml.safe_load_all(timers["cronjob.yaml"]))
    assert [job["metadata"]["name"] for job in jobs] == ["digi-backup", "digi-expire"]
    for job in jobs:
        kubernetes_validate.validate(job, version, strict=True)
        job["spec"]["jobTemplate"]["spec"]["backofLimit"] = 0  # the control: strict means that no key is unknown
        with pytest.raises(kubernetes_validate.ValidationError, match="backofLimit"):
            kubernetes_validate.validate(job, version, strict=True)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze (Debian: package systemd)")
def test_systemd_takes_the_units(timers: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    made = deployment(tmp_path / "project", "deploy: {profiles: [serve]}").files(new_secrets=True)
    texts = {name: text for name, text in timers.items() if name.endswith((".service", ".timer"))}
    texts["multidb-serve.service"] = made["infrastructure/serve/multidb-serve.service"].text
    units = [tmp_path / name for name in texts]
    assert len(units) == 3

    def verified(**changed: str) -> str:
        for unit in units:
            text = texts[unit.name].replace("/usr/local/bin/multidb", "/bin/true")  # it is looked for
            for old, new in changed.items():
                text = text.replace(old, new)
            unit.write_text(text)
        command = ["systemd-analyze", "verify", *map(str, units)]
        said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stderr
        return "".join(line for line in said.splitlines() if str(tmp_path) in line)

    assert verified() == ""
    assert "OnCalender" in verified(OnCalendar="OnCalender")  # the control
    assert "NoNewPrivilege'" in verified(NoNewPrivileges="NoNewPrivilege")


def test_cron_takes_the_lines(timers: dict[str, str]) -> None:
    """Five fields of a time, then a command without cron's own line end, an unescaped ``%``."""
    field = r"(?:\*(?:/\d+)?|\d+(?:-\d+)?(?:,\d+)*)"
    lines = [line for line in timers["crontab"].splitlines() if not line.startswith("#")]
    commands = []
    for line in lines:
        found = re.fullmatch(rf"{field}(?: {field}){{4}} ([^%]+)", line)
        assert found, line
        commands.append(found[1].partition(" && ")[2])
    assert commands == ["multidb backup --due --notify", "multidb expire"]


def test_what_is_archived_is_looked_for_every_minute(tmp_path: Path) -> None:
    case = CASES["hybrid_backup"].replace("backup: {", "backup: {postgres: {continuous: true}, ")
    assert case != CASES["hybrid_backup"]
    files = deployment(tmp_path, case).files(new_secrets=True)
    texts = {Path(path).name: file.text for path, file in files.items() if path.startswith("infrastructure/backup/")}
    assert "\n* * * * * cd " in texts["crontab"]
    assert "OnCalendar=*:0/1\n" in texts["multidb-backup.timer"]
    assert next(yaml.safe_load_all(texts["cronjob.yaml"]))["spec"]["schedule"] == "* * * * *"
