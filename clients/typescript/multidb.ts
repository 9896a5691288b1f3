/**
 * An app's place on the servers that multidb gives it: copy this file into the app.
 *
 * It needs the drivers that the app uses, and no other: pg, ioredis, @qdrant/js-client-rest, neo4j-driver. Variables come from the
 * environment, or from the file that MULTIDB_ENV_FILE names, which is read again when it changes: `place.postgres()` and its like
 * give a client with the credentials of now, so ask for it each time rather than keep it.
 */
import { readFileSync, statSync } from "node:fs";

export type Variables = Readonly<Record<string, string>>;
export type Health = { status: string; stores: Record<string, { status: string; message: string; latency_ms: number | null }> };

/** What the client refuses because it would lead past the tenant. */
export class Refused extends Error {}

export class Place {
  private variables: Variables;
  private changed = 0;
  private readonly clients = new Map<string, { client: any; close: () => Promise<unknown> }>();

  constructor(private readonly file: string | undefined, given: Variables) {
    this.variables = given;
    this.refresh();
  }

  /** A variable as it is now; an error where the app has no such store. */
  value(name: string): string {
    const value = this.refresh()[name];
    if (value === undefined) throw new Error(`${name} is not set: multidb env APP shows what an app has`);
    return value;
  }

  /** A pg.Pool. */
  postgres(): Promise<any> {
    return this.kept("DATABASE_URL", async (url) => {
      const { default: pg } = await import("pg");
      const pool = new pg.Pool({ connectionString: url, max: 4 });
      pool.on("error", () => undefined); // an idle session that the server ended: the pool opens another
      return { client: pool, close: () => pool.end() };
    });
  }

  /** An ioredis client, which puts the app's prefix before keys where the app has one. BullMQ takes `REDIS_URL` and BULLMQ_PREFIX. */
  redis(): Promise<any> {
    return this.kept("REDIS_URL", async (url) => {
      const { default: Redis } = await import("ioredis");
      const client = new (Redis as any)(url, { keyPrefix: this.refresh().REDIS_KEY_PREFIX ?? "", maxRetriesPerRequest: 5 });
      client.on("error", () => undefined); // told by the command that fails
      return { client, close: async () => client.disconnect() };
    });
  }

  /** A driver of Neo4j; sessions take `place.value("NEO4J_DATABASE")`. */
  neo4j(): Promise<any> {
    return this.kept("NEO4J_PASSWORD", async (password) => {
      const { default: neo4j } = await import("neo4j-driver");
      const login = neo4j.auth.basic(this.value("NEO4J_USER"), password);
      const driver = neo4j.driver(this.value("NEO4J_URI"), login);
      return { client: driver, close: () => driver.close() };
    });
  }

  /** A collection of the app, by the name behind its prefix, bound to a tenant: the app's own, or another one of the app. */
  async qdrant(collection: string, tenant: string = this.value("APP_TENANT_ID")): Promise<TenantCollection> {
    const client = await this.kept("QDRANT_API_KEY", async (apiKey) => {
      const { QdrantClient } = await import("@qdrant/js-client-rest");
      return { client: new QdrantClient({ url: this.value("QDRANT_URL"), apiKey }), close: async () => undefined };
    });
    return new TenantCollection(client, this.value("QDRANT_COLLECTION_PREFIX") + collection, tenant, this.value("APP_NAME"));
  }

  /** How the app's stores answer, in the form of /health/databases; answer 503 where it is unhealthy, else 200. */
  async health(): Promise<Health> {
    const asked: Record<string, [string, () => Promise<unknown>]> = {
      postgres: ["DATABASE_URL", async () => (await this.postgres()).query("SELECT 1")],
      neo4j: ["NEO4J_URI", async () => (await this.neo4j()).executeQuery("RETURN 1", {}, { database: this.value("NEO4J_DATABASE") })],
      qdrant: ["QDRANT_URL", async () => (await this.qdrant("")).reachable()],
      redis: ["REDIS_URL", async () => (await this.redis()).ping()],
    };
    const stores: Health["stores"] = {};
    const answering = Object.entries(asked).map(async ([store, [variable, ask]]) => {
      if (this.refresh()[variable] === undefined) return;
      const began = performance.now();
      try {
        await within(10_000, ask());
        stores[store] = { status: "healthy", message: "answered", latency_ms: performance.now() - began };
      } catch {
        stores[store] = { status: "unhealthy", message: "does not answer the app", latency_ms: null }; // no address, no secret
      }
    });
    await Promise.all(answering);
    const status = Object.values(stores).some((store) => store.status === "unhealthy") ? "unhealthy" : "healthy";
    return { status, stores };
  }

  async close(): Promise<void> {
    const closing = [...this.clients.values()];
    this.clients.clear();
    await Promise.all(closing.map((one) => one.close()));
  }

  private async kept(variable: string, make: (value: string) => Promise<{ client: any; close: () => Promise<unknown> }>): Promise<any> {
    const key = `${variable}=${this.value(variable)}`;
    const known = this.clients.get(key);
    if (known !== undefined) return known.client;
    const made = await make(this.value(variable));
    const raced = this.clients.get(key);
    if (raced !== undefined) {
      await made.close();
      return raced.client;
    }
    for (const [other, former] of this.clients) {
      if (!other.startsWith(`${variable}=`)) continue;
      this.clients.delete(other);
      setTimeout(() => void former.close(), 10_000).unref(); // what is under way ends by itself
    }
    this.clients.set(key, made);
    return made.client;
  }

  private refresh(): Variables {
    if (this.file === undefined) return this.variables;
    const changed = statSync(this.file).mtimeMs;
    if (changed !== this.changed) {
      this.variables = parsed(readFileSync(this.file, "utf8"));
      this.changed = changed;
    }
    return this.variables;
  }
}

/** An env file as multidb writes it: NAME=value, a value with other than plain characters in single quotes. */
export function parsed(text: string): Variables {
  const found: Record<string, string> = {};
  for (const line of text.split("\n")) {
    const match = /^([A-Za-z_][A-Za-z0-9_]*)=(?:'((?:\\.|[^'\\])*)'|(.*))$/.exec(line);
    if (match !== null) found[match[1]!] = match[2]?.replace(/\\(.)/g, "$1") ?? match[3]!;
  }
  return found;
}

function within<T>(milliseconds: number, work: Promise<T>): Promise<T> {
  const late = new Promise<never>((_, reject) => setTimeout(() => reject(new Error("late")), milliseconds).unref());
  return Promise.race([work, late]);
}

type Filter = Record<string, unknown>;

/** The caller's filter and the tenant's: whatever the caller's says, a point has to be the tenant's as well. */
export function ofTenant(tenant: string, filter?: Filter | null): Filter {
  const own = { key: "tenant_id", match: { value: tenant } };
  return { must: filter === undefined || filter === null ? [own] : [own, filter] };
}

/** A question with the tenant's filter on it and on everything that it fetches before. */
export function question(tenant: string, asked: any): any {
  if (typeof asked?.query === "string" || typeof asked?.query === "number") {
    throw new Refused("a query by a point's id takes the vector of anybody's point: give the vector");
  }
  if (JSON.stringify(asked ?? {}).includes('"lookup_from"')) throw new Refused("lookup_from reads another collection");
  if (/"(recommend|discover|context)"/.test(JSON.stringify(asked?.query ?? null))) {
    throw new Refused("recommend and discover may name points of others by id: give vectors in a query");
  }
  const before = asked?.prefetch === undefined || asked.prefetch === null ? [] : [asked.prefetch].flat();
  const prefetch = before.map((one: any) => question(tenant, one));
  return { ...asked, ...(prefetch.length > 0 ? { prefetch } : {}), filter: ofTenant(tenant, asked?.filter) };
}

/** A collection as one tenant has it: every call carries the tenant. What is not here is not offered. */
export class TenantCollection {
  constructor(
    private readonly client: any,
    readonly name: string,
    readonly tenant: string,
    private readonly app: string,
  ) {}

  query = (asked: any) => this.client.query(this.name, question(this.tenant, asked));
  queryGroups = (asked: any) => this.client.queryGroups(this.name, question(this.tenant, asked));
  queryBatch = (asked: { searches: any[] }) =>
    this.client.queryBatch(this.name, { searches: asked.searches.map((one) => question(this.tenant, one)) });
  scroll = (asked: any = {}) => this.client.scroll(this.name, { ...asked, filter: ofTenant(this.tenant, asked.filter) });
  count = (asked: any = {}) => this.client.count(this.name, { ...asked, filter: ofTenant(this.tenant, asked.filter) });
  facet = (asked: any) => this.client.facet(this.name, { ...asked, filter: ofTenant(this.tenant, asked.filter) });
  retrieve = async (ids: (string | number)[], asked: any = {}) =>
    (await this.scroll({ ...asked, filter: { must: [{ has_id: ids }] }, limit: Math.max(ids.length, 1) })).points;
  /** By ids or by a filter; of the tenant's points alone. */
  delete = (asked: { points?: (string | number)[]; filter?: Filter; wait?: boolean }) => {
    const chosen = asked.points === undefined ? asked.filter : { must: [{ has_id: asked.points }, ...(asked.filter ? [asked.filter] : [])] };
    return this.client.delete(this.name, { wait: asked.wait ?? true, filter: ofTenant(this.tenant, chosen) });
  };
  /** Points of the tenant. Ids are shared in a collection (random UUIDs never meet): another tenant's point is left as it is. */
  upsert = async (points: { id: string | number; vector: unknown; payload?: Record<string, unknown> | null }[], wait = true) => {
    const [major = 0, minor = 0] = (await this.client.versionInfo()).version.split(".").map(Number);
    if (major < 1 || (major === 1 && minor < 16)) throw new Refused("this server would write over others' points: it needs Qdrant 1.16");
    const own = { tenant_id: this.tenant, app_name: this.app };
    const stamped = points.map((point) => ({
      ...point,
      payload: { created_at: new Date().toISOString(), ...point.payload, ...own },
    }));
    return this.client.upsert(this.name, { wait, points: stamped, update_filter: ofTenant(this.tenant) });
  };
  /** Raises where the server does not answer. */
  reachable = () => this.client.versionInfo();
}

/** The app's place. `given`: variables instead of the environment and MULTIDB_ENV_FILE. */
export const connect = (given?: Variables): Place =>
  given === undefined ? new Place(process.env.MULTIDB_ENV_FILE, process.env as Variables) : new Place(undefined, given);
