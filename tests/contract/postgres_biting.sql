-- What a dump can lose: loaded by test_postgres_archive.py as one app; {app} is its id.
CREATE TYPE mood AS ENUM ('fine', 'it''s "odd"');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN small AS int CHECK (VALUE < 1000);
CREATE TABLE "quoted ""names""; -- 🐘" (
  "id ""x"" " int GENERATED ALWAYS AS IDENTITY (START 7 INCREMENT 3) PRIMARY KEY, t text, "Select" text DEFAULT 'x''y');
INSERT INTO "quoted ""names""; -- 🐘" (t) VALUES ('a'), (E'tab\t\\N\n'), (NULL), ('');
COMMENT ON TABLE "quoted ""names""; -- 🐘" IS 'a comment';
CREATE TABLE every_type (
  i2 int2, i4 int4, i8 int8, n numeric, f4 float4, f8 float8, m money, b bool, c char(5), v varchar(9), t text, by bytea,
  d date, ti time, tz timetz, ts timestamp, tsz timestamptz, iv interval, u uuid, j json, jb jsonb, x xml, bi bit(5),
  vb varbit, ip inet, ci cidr, ma macaddr, p point, l line, ls lseg, bo box, pa path, po polygon, ce circle, tv tsvector,
  tq tsquery, ir int4range, tr tstzrange, arr int[][], ta text[], e mood, co pair, dom small, o oid, rc regclass,
  jp jsonpath, pl pg_lsn, h hstore, lt ltree);
INSERT INTO every_type (f4, f8, n, d, ts, tsz, iv) VALUES
  ('NaN', 'Infinity', 'NaN', 'infinity', '-infinity', 'infinity', '-1 year 3 days -04:05:06.7'),
  ('-Infinity', 1e-300, '-123456789012345678901234567890.000001', '4713-01-01 BC', '294276-12-31', now(), '0');
INSERT INTO every_type VALUES (-32768, 1, 9223372036854775807, 0.1, 0.1, 0.1, 12.34, true, 'ab', 'cd', E'é\u2028', '\x00ff',
  '2026-01-01', '24:00', '12:00+05:30', now(), now(), '1 mon', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a": 1, "a": 2}',
  '{"b": [null, 1.50]}', NULL, B'10101', B'1', '::1/64', '10.0.0.0/8', '08:00:2b:01:02:03', '(1,2)', '{1,2,3}',
  '[(0,0),(1,1)]', '((0,0),(1,1))', '[(0,0),(1,1)]', '((0,0),(1,1),(1,0))', '<(0,0),1>', 'a fat cat', 'fat & cat',
  '[1,5)', '[2026-01-01,)', '{{1,2},{3,4}}', ARRAY[NULL, 'NULL', ''], 'it''s "odd"', '(1,"x,y")', 999, 1, 'every_type',
  '$.a[*]', '16/B374D848', 'a=>1', 'top.sub');
CREATE TABLE parted (k int, at date, v text, PRIMARY KEY (k, at)) PARTITION BY RANGE (at);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE parted_2 PARTITION OF parted DEFAULT;
INSERT INTO parted SELECT g, '2025-06-01'::date + g, 'row ' || g FROM generate_series(1, 500) g;
CREATE TABLE generated (a int, b int GENERATED ALWAYS AS (a * 2) STORED, s serial);
INSERT INTO generated (a) SELECT generate_series(1, 100);
SELECT setval('generated_s_seq', 4711);
CREATE TABLE husband (id int PRIMARY KEY, wife int);
CREATE TABLE wife (id int PRIMARY KEY, husband int REFERENCES husband DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE husband ADD FOREIGN KEY (wife) REFERENCES wife DEFERRABLE INITIALLY DEFERRED;
BEGIN; INSERT INTO husband VALUES (1, 2); INSERT INTO wife VALUES (2, 1); COMMIT;
CREATE MATERIALIZED VIEW summed AS SELECT count(*) AS n, sum(a) AS s FROM generated;
CREATE UNIQUE INDEX ON summed (n);
CREATE VIEW seen WITH (security_barrier) AS SELECT * FROM parted WHERE k < 5;
CREATE FUNCTION twice(int, text DEFAULT 'x') RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * $1';
CREATE TABLE checked (a int CHECK (public.twice(a) < 100));
CREATE INDEX ON checked (public.twice(a));
INSERT INTO checked VALUES (49);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO public.audited VALUES (TG_OP); RETURN NEW; END $$;
CREATE TABLE audited (what text);
CREATE TRIGGER watch AFTER INSERT ON checked FOR EACH ROW EXECUTE FUNCTION audit();
CREATE TABLE secretive (who text DEFAULT current_user, what text);
INSERT INTO secretive (what) VALUES ('mine'), ('yours');
ALTER TABLE secretive ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody ON secretive FOR INSERT WITH CHECK (true);
CREATE POLICY "named; one" ON secretive AS RESTRICTIVE FOR SELECT TO {app}_ro, {app}_rw USING (what <> 'mine');
CREATE TABLE hidden (id int PRIMARY KEY, next int REFERENCES hidden, "x EXTENSION - y" text);
INSERT INTO hidden VALUES (1, NULL), (2, 1), (3, 2);
ALTER TABLE hidden ENABLE ROW LEVEL SECURITY; ALTER TABLE hidden FORCE ROW LEVEL SECURITY;
CREATE POLICY few ON hidden USING (id > 1);
CREATE MATERIALIZED VIEW visible AS SELECT count(*) AS n FROM hidden;
CREATE TABLE "a EXTENSION - b" (a int);
INSERT INTO "a EXTENSION - b" VALUES (1);
CREATE TABLE empty (a int);
CREATE TABLE no_columns ();
INSERT INTO no_columns DEFAULT VALUES;
CREATE TABLE t (t text, ctid_like int);
INSERT INTO t VALUES ('t', 1);
CREATE UNLOGGED TABLE unlogged (a int);
INSERT INTO unlogged VALUES (1);
CREATE TABLE parent (a int); CREATE TABLE child (b int) INHERITS (parent);
INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2, 3);
CREATE TABLE big (id int, body text);
INSERT INTO big SELECT g, repeat(md5(g::text), 40000) FROM generate_series(1, 3) g;
SELECT lo_from_bytea(4242, decode(repeat('ab00', 5000), 'hex'));
SELECT lo_from_bytea(4243, '');
CREATE SCHEMA "Other schema"; CREATE TABLE "Other schema".x (a int); INSERT INTO "Other schema".x VALUES (5);
