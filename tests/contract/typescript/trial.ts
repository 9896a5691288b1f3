// Run by tests/contract/test_typescript_client.py on the servers of a project: says what came of each step as JSON.
import assert from "node:assert/strict";
import { connect, ofTenant, parsed, question, Refused, TenantCollection } from "./multidb.js";

const own = { key: "tenant_id", match: { value: "acme" } };
assert.deepEqual(ofTenant("acme"), { must: [own] });
const wide = { should: [{ key: "tenant_id", match: { value: "other" } }] };
assert.deepEqual(ofTenant("acme", wide), { must: [own, wide] });
const nested = question("acme", { query: { fusion: "rrf" }, prefetch: [{ query: [1], prefetch: { query: [2], filter: wide } }] });
assert.deepEqual(nested.filter, { must: [own] });
assert.deepEqual(nested.prefetch[0].filter, { must: [own] });
assert.deepEqual(nested.prefetch[0].prefetch[0].filter, { must: [own, wide] });
for (const leading of [
  { query: 7 },
  { query: "a-b" },
  { query: { recommend: { positive: [7] } } },
  { query: [1], prefetch: { query: 7 } },
  { query: [1], lookup_from: { collection: "x" } },
]) {
  assert.throws(() => question("acme", leading), Refused);
}
const sent: [string, any][] = [];
const recorded: any = new Proxy({}, {
  get: (_, method: string) => async (name: string, asked: any) => {
    sent.push([method, asked]);
    return method === "versionInfo" ? { version: "1.18.0" } : method === "scroll" ? { points: [] } : {};
  },
});
const collection = new TenantCollection(recorded, "ann_knowledge", "acme", "ann");
await collection.query({ query: [1], filter: wide });
await collection.queryGroups({ query: [1], group_by: "x" });
await collection.queryBatch({ searches: [{ query: [1] }] });
await collection.scroll();
await collection.count();
await collection.facet({ key: "x" });
await collection.retrieve([1, 2]);
await collection.delete({ points: [1] });
await collection.delete({ filter: wide });
await collection.upsert([{ id: 1, vector: [1], payload: { tenant_id: "other", text: "x" } }]);
for (const [method, asked] of sent) {
  if (method === "versionInfo") continue;
  const filters = asked.searches?.map((one: any) => one.filter) ?? [method === "upsert" ? asked.update_filter : asked.filter];
  for (const filter of filters) assert.deepEqual(filter.must[0], own, method);
}
const payload = sent.at(-1)![1].points[0].payload;
assert.deepEqual([payload.tenant_id, payload.app_name, payload.text], ["acme", "ann", "x"]);
assert.deepEqual(parsed("# c\nA=1\nB='it\\'s a \\\\ b#'\nC=\n"), { A: "1", B: "it's a \\ b#", C: "" });

const place = connect();
const pool = await place.postgres();
const first = (await pool.query("SELECT session_user AS name")).rows[0].name;
await (await place.redis()).set("greeting", "hello");
const health = await place.health();
console.log(JSON.stringify({ first, greeting: await (await place.redis()).get("greeting"), health }));
// the test rotates the app's credentials now, and says so by a line
for await (const _ of process.stdin) break;
const second = (await (await place.postgres()).query("SELECT session_user AS name")).rows[0].name;
console.log(JSON.stringify({ second, greeting: await (await place.redis()).get("greeting") }));
await place.close();
process.exit(0);
