// Notes in Postgres, readers counted in Redis, words counted by a worker of BullMQ. Clients are asked for at each request,
// so that a rotation is followed; BullMQ keeps the connection that it has, and takes the new credentials when it is made anew.
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { Queue, Worker } from "bullmq";
import { connect } from "./multidb.js";

const app = connect();
const url = new URL(process.env.REDIS_URL!);
const connection = {
  host: url.hostname,
  port: Number(url.port),
  username: url.username,
  password: decodeURIComponent(url.password),
  db: Number(url.pathname.slice(1)),
  maxRetriesPerRequest: null,
};
const prefix = process.env.BULLMQ_PREFIX!; // redis: {profile: bullmq}
const key = (name: string) => `${process.env.REDIS_KEY_PREFIX ?? ""}${name}`; // with isolation: prefix

const queue = new Queue("words", { connection, prefix });
const worker = new Worker("words", async (job) => {
  const words = (job.data.text as string).split(/\s+/).length;
  await (await app.postgres()).query("UPDATE notes SET words = $1 WHERE id = $2", [words, job.data.id]);
}, { connection, prefix });
worker.on("error", (error) => console.error(error.message));

async function made(text: string): Promise<unknown> {
  const pool = await app.postgres();
  const { id } = (await pool.query("INSERT INTO notes (text) VALUES ($1) RETURNING id", [text])).rows[0];
  await queue.add("count", { id, text });
  return { id };
}

async function read(id: number): Promise<unknown> {
  const { rows } = await (await app.postgres()).query("SELECT text, words FROM notes WHERE id = $1", [id]);
  return rows.length && { ...rows[0], readers: await (await app.redis()).incr(key(`readers:${id}`)) };
}

async function answer(request: IncomingMessage): Promise<[number, unknown]> {
  const { pathname, searchParams } = new URL(request.url!, "http://notes");
  if (pathname === "/health/databases") {
    const health = await app.health();
    return [health.status === "unhealthy" ? 503 : 200, health];
  }
  if (request.method === "POST" && pathname === "/notes") return [201, await made(searchParams.get("text") ?? "")];
  const id = /^\/notes\/(\d{1,9})$/.exec(pathname)?.[1];
  const note = id === undefined ? undefined : await read(Number(id));
  return note ? [200, note] : [404, { error: "no such note" }];
}

await (await app.postgres()).query(
  "CREATE TABLE IF NOT EXISTS notes (id serial PRIMARY KEY, text text NOT NULL, words int)",
);
const server = createServer((request: IncomingMessage, response: ServerResponse) => {
  answer(request)
    .catch((error: Error): [number, unknown] => (console.error(error.message), [500, { error: "see the log" }]))
    .then(([status, body]) => {
      response.writeHead(status, { "content-type": "application/json" });
      response.end(JSON.stringify(body));
    });
}).listen(Number(process.env.PORT ?? 3000), process.env.HOST ?? "127.0.0.1");

process.on("SIGTERM", async () => {
  server.close();
  await worker.close();
  await queue.close();
  await app.close();
  process.exit(0);
});
