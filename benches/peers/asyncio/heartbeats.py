"""Watches devices over MQTT, written plainly: one commit for every heartbeat.

A device publishes to devices/<id>/heartbeat. Its row is updated at once; a task
looks once a minute for devices that have been silent too long, marks them
offline and hands them to an alert sink, which here only logs.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiomqtt
from sqlalchemy import event, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

TOPIC = "devices/+/heartbeat"
RECONNECT_SECONDS = 5

log = logging.getLogger("heartbeats")


class Base(DeclarativeBase):
    pass


class Device(Base):
    __tablename__ = "device"

    id: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str]
    last_seen_at: Mapped[datetime]
    uptime_seconds: Mapped[int | None]
    free_memory: Mapped[int | None]


# Updates the device's row, or inserts it if the device is unknown.
_INSERT = insert(Device)
UPSERT = _INSERT.on_conflict_do_update(
    index_elements=[Device.id],
    set_={column.name: column for column in _INSERT.excluded if column.name != "id"},
)


async def open_database(path: Path) -> AsyncEngine:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")

    @event.listens_for(engine.sync_engine, "connect")
    def set_pragmas(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")

    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    return engine


def parse(payload: bytes) -> dict[str, int | None]:
    """The fields that are kept. Raises ValueError if this is not a heartbeat."""
    fields = json.loads(payload)
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    kept = {name: fields.get(name) for name in ("uptime_seconds", "free_memory")}
    if not all(value is None or type(value) is int for value in kept.values()):
        raise ValueError("not a whole number")
    return kept


async def record(engine: AsyncEngine, device_id: str, fields: dict[str, int | None]) -> None:
    row = {"id": device_id, "status": "online", "last_seen_at": datetime.now(UTC), **fields}
    async with engine.begin() as connection:
        await connection.execute(UPSERT, row)


async def receive(engine: AsyncEngine, port: int, qos: int) -> None:
    """Connects, and again whenever the connection is lost."""
    while True:
        try:
            async with aiomqtt.Client("127.0.0.1", port) as client:
                await client.subscribe(TOPIC, qos=qos)
                print("ready", flush=True)
                async for message in client.messages:
                    device_id = message.topic.value.split("/")[1]
                    try:
                        fields = parse(message.payload)
                    except ValueError as error:
                        log.warning("heartbeat of %s ignored: %s", device_id, error)
                        continue
                    await record(engine, device_id, fields)
        except aiomqtt.MqttError as error:
            log.warning("%s; again in %s s", error, RECONNECT_SECONDS)
            await asyncio.sleep(RECONNECT_SECONDS)


async def mark_offline(engine: AsyncEngine, timeout: timedelta) -> Sequence[str]:
    """Marks the devices that are silent, and returns those that were not yet."""
    silent = (
        update(Device)
        .where(Device.status == "online", Device.last_seen_at < datetime.now(UTC) - timeout)
        .values(status="offline")
        .returning(Device.id)
    )
    async with engine.begin() as connection:
        return (await connection.scalars(silent)).all()


def alert(ids: Sequence[str]) -> None:
    log.warning("%d devices offline: %s", len(ids), ", ".join(sorted(ids)[:10]))


async def watch(engine: AsyncEngine, timeout: timedelta, interval: float) -> None:
    while True:
        await asyncio.sleep(interval)
        try:
            if ids := await mark_offline(engine, timeout):
                alert(ids)
        except Exception:
            log.exception("check failed")


async def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--database", type=Path, required=True)
    arguments.add_argument("--port", type=int, default=1883)
    arguments.add_argument("--qos", type=int, choices=(0, 1), default=1)
    arguments.add_argument("--timeout", type=float, default=180, help="seconds")
    arguments.add_argument("--interval", type=float, default=60, help="seconds")
    options = arguments.parse_args()

    engine = await open_database(options.database)
    timeout = timedelta(seconds=options.timeout)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(receive(engine, options.port, options.qos))
            tasks.create_task(watch(engine, timeout, options.interval))
    finally:
        await engine.dispose()


async def until_signal() -> None:
    """Runs main until SIGTERM or SIGINT."""
    work = asyncio.create_task(main())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, work.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await work


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(until_signal())
