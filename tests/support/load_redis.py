"""Apps on Valkey and Redis that go on while their credentials are rotated: commands, messages, blocking pops."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import Any

import redis
import redis.asyncio

from tests.support.case import Tenant
from tests.support.load import PAUSE, Exchanged, Load, repeat_awaiting

_WAIT = 0.2  # seconds that a pop blocks


def _opened(tenant: Tenant) -> redis.Redis:
    return redis.Redis.from_url(tenant.env["REDIS_URL"], decode_responses=True)


def _opened_async(tenant: Tenant) -> Any:
    return redis.asyncio.Redis.from_url(tenant.env["REDIS_URL"], decode_responses=True)


def commands(load: Load) -> None:
    tenant = load.variables()
    clients, key = Exchanged(_opened(tenant), redis.Redis.close), f"{tenant.app}:load"

    def request() -> None:
        with clients.use() as client, client.pipeline() as pipeline:
            pipeline.set(key, "kept").get(key)
            assert pipeline.execute() == [True, "kept"]

    load.repeat(request, 4, lambda tenant: clients.exchange(_opened(tenant)))


def commands_async(load: Load) -> None:
    asyncio.run(_commands_async(load))


async def _commands_async(load: Load) -> None:
    key = f"{load.variables().app}:load_async"

    async def request(client: Any) -> None:
        async with client.pipeline() as pipeline:
            assert await pipeline.set(key, "kept").get(key).execute() == [True, "kept"]

    await repeat_awaiting(load, _opened_async, request, redis.asyncio.Redis.aclose)


def messages(load: Load) -> None:
    """Who listens does so with the new credential before it leaves off with the former one, so that none is missed."""
    tenant = load.variables()
    channel, heard = f"{tenant.app}:load", set[int]()
    publisher, listener = _opened(tenant), _listening(tenant, channel)
    number = 0
    while not load.over:
        if (other := load.other_variables()) is not None:
            following = _listening(other, channel)
            heard |= _heard(listener)
            listener.close()
            publisher.close()
            listener, publisher = following, _opened(other)
        number += 1
        assert publisher.publish(channel, str(number)) >= 1, f"nobody hears message {number}"
        while number not in heard:
            new = _heard(listener, timeout=10)
            assert new, f"message {number} is lost"
            heard |= new
        load.answered()
        time.sleep(PAUSE)
    assert heard == set(range(1, number + 1))


def _listening(tenant: Tenant, channel: str) -> Any:
    listener = _opened(tenant).pubsub()
    listener.subscribe(channel)
    said = listener.get_message(timeout=10)
    assert said is not None
    assert said["type"] == "subscribe"
    return listener


def _heard(listener: Any, timeout: float = 0) -> set[int]:
    """What has come; waits for the first one."""
    numbers = set()
    while (message := listener.get_message(timeout=0 if numbers else timeout)) is not None:
        numbers.add(int(message["data"]))
    return numbers


def messages_async(load: Load) -> None:
    asyncio.run(_messages_async(load))


async def _messages_async(load: Load) -> None:
    tenant = load.variables()
    channel, number = f"{tenant.app}:load_async", 0
    publisher = _opened_async(tenant)
    listener = publisher.pubsub()
    await listener.subscribe(channel)
    assert (await listener.get_message(timeout=10))["type"] == "subscribe"
    while not load.over:
        if (other := load.other_variables()) is not None:
            following = _opened_async(other)
            listening = following.pubsub()
            await listening.subscribe(channel)
            assert (await listening.get_message(timeout=10))["type"] == "subscribe"
            await listener.aclose()
            await publisher.aclose()
            publisher, listener = following, listening
        number += 1
        assert await publisher.publish(channel, str(number)) == 1, f"nobody hears message {number}"
        message = await listener.get_message(timeout=10)
        assert message is not None, f"message {number} is lost"
        assert message["data"] == str(number)
        load.answered()
        await asyncio.sleep(PAUSE)
    await listener.aclose()
    await publisher.aclose()


def blocking_pops(load: Load) -> None:
    """Who waits for work lets go of a connection between two waits, so that nothing is taken and then lost."""
    tenant = load.variables()
    queue, taken = f"{tenant.app}:queue", list[int]()
    producer, consumer = Exchanged(_opened(tenant), redis.Redis.close), _opened(tenant)
    stopped = threading.Event()

    def produce(load: Load) -> None:
        number = 0
        while not load.over:
            number += 1
            with producer.use() as client:
                client.rpush(queue, str(number))
            stopped.wait(0.03)

    thread = threading.Thread(target=load.run, args=(produce,))
    thread.start()
    try:
        while not load.over:
            if (other := load.other_variables()) is not None:
                producer.exchange(_opened(other))
                consumer.close()
                consumer = _opened(other)
            item = consumer.blpop([queue], timeout=_WAIT)
            if item is not None:
                taken.append(int(item[1]))
                assert taken[-1] == len(taken), f"item {len(taken)} is lost"
                load.answered()
    finally:
        load.end()
        stopped.set()
        thread.join()
        with suppress(redis.RedisError):
            consumer.delete(queue)


def blocking_pops_async(load: Load) -> None:
    asyncio.run(_blocking_pops_async(load))


async def _blocking_pops_async(load: Load) -> None:
    tenant = load.variables()
    queue, taken, number = f"{tenant.app}:queue_async", 0, 0
    client = _opened_async(tenant)
    while not load.over:
        if (other := load.other_variables()) is not None:
            await client.aclose()
            client = _opened_async(other)
        waiting = asyncio.create_task(client.blpop([queue], timeout=10))
        await asyncio.sleep(0.01)
        number += 1
        await client.rpush(queue, str(number))
        item = await waiting
        assert item is not None, f"item {number} is lost"
        taken += 1
        assert item[1] == str(taken)
        load.answered()
        await asyncio.sleep(PAUSE)
    await client.aclose()


CLIENTS = {
    "commands": commands,
    "commands, asyncio": commands_async,
    "messages": messages,
    "messages, asyncio": messages_async,
    "blocking pops": blocking_pops,
    "blocking pops, asyncio": blocking_pops_async,
}
