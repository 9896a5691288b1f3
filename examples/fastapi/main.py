"""Notes with full-text search in Postgres, and a count of readers in Redis: an app on its place of multidb's.

Where the variables are in the environment:  uvicorn main:application
Beside the manifest, as its app "notes":     MULTIDB_ENV_FILE=../../apps/notes/.env uvicorn main:application
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException

from multidb.client import connect
from multidb.client.routes import starlette_route

app = connect()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    table = "CREATE TABLE IF NOT EXISTS notes (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text)"
    await app.postgres.run_async(lambda db: db.execute(table))
    yield
    await app.aclose()


application = FastAPI(lifespan=lifespan)
application.add_route("/health/databases", starlette_route(app))


@application.post("/notes")
async def write(text: str) -> dict[str, int]:
    async def add(db):
        return await (await db.execute("INSERT INTO notes (text) VALUES (%s) RETURNING id", (text,))).fetchone()

    (number,) = await app.postgres.run_async(add)
    return {"id": number}


@application.get("/notes/{number}")
async def read(number: int) -> dict[str, str | int]:
    async def find(db):
        return await (await db.execute("SELECT text FROM notes WHERE id = %s", (number,))).fetchone()

    row = await app.postgres.run_async(find)
    if row is None:
        raise HTTPException(404, "there is no such note")
    return {"text": row[0], "readers": await app.redis_async.incr(f"readers:{number}")}


@application.get("/search")
async def search(words: str) -> list[int]:
    async def find(db):
        matches = "SELECT id FROM notes WHERE to_tsvector('simple', text) @@ plainto_tsquery('simple', %s) ORDER BY id"
        return [number for (number,) in await (await db.execute(matches, (words,))).fetchall()]

    return await app.postgres.run_async(find)
