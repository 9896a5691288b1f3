"""What well-known libraries need of their place, by the names under which the manifest asks for it. Pure.

A profile gives commands, channels of the app's own namespace and variables, and never anything that another app has
too: where a library's code has fixed names that all its users share, the manifest's ``channels`` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

__all__ = ["PROFILES", "Profile", "ProfileName", "broadcasts"]


class ProfileName(StrEnum):
    """The libraries, and the programs that are made of one."""

    CELERY = "celery"
    RQ = "rq"
    BULLMQ = "bullmq"
    SIDEKIQ = "sidekiq"
    N8N = "n8n"
    AIRFLOW = "airflow"


@dataclass(frozen=True, slots=True)
class Profile:
    """What one of them needs. Each runs Lua scripts.

    Args:
        works_with_prefix: its keys can all be put under ``<app>:``, so that it works with ``isolation: prefix``.
        broadcasts: it subscribes to Celery's broadcast channels under a prefix of its own.
        variables: names and values, in which ``{app}`` is the app's id; ``{url}``, ``{host}``, ``{port}``, ``{user}``,
            ``{password}`` and ``{number}`` are what it connects with.
    """

    works_with_prefix: bool
    broadcasts: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)


PROFILES: Final[Mapping[ProfileName, Profile]] = {
    ProfileName.CELERY: Profile(True, broadcasts=True, variables={"CELERY_KEY_PREFIX": "{app}:"}),
    ProfileName.RQ: Profile(False),
    ProfileName.BULLMQ: Profile(True, variables={"BULLMQ_PREFIX": "{app}:bull"}),
    ProfileName.SIDEKIQ: Profile(False),
    ProfileName.N8N: Profile(
        True,
        variables={
            "QUEUE_BULL_PREFIX": "{app}:bull",
            "N8N_REDIS_KEY_PREFIX": "{app}:n8n",
            "QUEUE_BULL_REDIS_HOST": "{host}",
            "QUEUE_BULL_REDIS_PORT": "{port}",
            "QUEUE_BULL_REDIS_USERNAME": "{user}",
            "QUEUE_BULL_REDIS_PASSWORD": "{password}",
            "QUEUE_BULL_REDIS_DB": "{number}",
        },
    ),
    ProfileName.AIRFLOW: Profile(False, broadcasts=True, variables={"AIRFLOW__CELERY__BROKER_URL": "{url}"}),
}


def broadcasts(number: int, prefix: str = "") -> set[str]:
    """The channel patterns of Celery's broadcasts, which go to ``<prefix>/<db>.<exchange>``.

    A PSUBSCRIBE needs its very pattern in the rule, hence each beside the one that holds them all.
    """
    return {f"{prefix}/{number}.{name}" for name in ("*", "celery.pidbox", "celeryev/*", "celeryev/worker.*")}
