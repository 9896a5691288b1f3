// An app with Prisma's client: the address as it is in the app's variables, given to its adapter for node-postgres.
import { PrismaPg } from "@prisma/adapter-pg";
import { PrismaClient } from "./generated/client.ts";

const adapter = new PrismaPg({ connectionString: process.env.DATABASE_URL });
const prisma = new PrismaClient({ adapter });
const made = await prisma.$transaction((of) => of.note.create({ data: { text: "hello" } }));
const found = await prisma.note.findMany({ where: { id: made.id } });
const [{ login }] = await prisma.$queryRaw<{ login: string }[]>`SELECT session_user::text AS login`;
const [{ owner }] = await prisma.$queryRaw<{ owner: string }[]>`SELECT tableowner::text AS owner FROM pg_tables WHERE tablename = 'notes'`;
console.log(JSON.stringify({ found: found.map((note) => note.text), login, owner }));
await prisma.$disconnect();
