-- An app whose tables are to come back alone: loaded by test_postgres_archive.py.
CREATE TABLE customers ("the "" id" int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, upper text
                        GENERATED ALWAYS AS (upper(name)) STORED, boss int REFERENCES customers);
CREATE INDEX "by name" ON customers (name);
COMMENT ON COLUMN customers.name IS 'who';
CREATE TABLE orders (id serial PRIMARY KEY, customer int NOT NULL CONSTRAINT "who; ordered" REFERENCES customers);
COMMENT ON CONSTRAINT "who; ordered" ON orders IS 'kept';
CREATE TABLE "Log ""x""" (at date, what text DEFAULT 'y', PRIMARY KEY (at)) PARTITION BY RANGE (at);
CREATE TABLE log_old PARTITION OF "Log ""x""" FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE watched (of date REFERENCES "Log ""x""");
CREATE TABLE audited (what text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO public.audited VALUES (TG_OP) /* ; */; RETURN NEW; END $$;
CREATE TRIGGER watch AFTER INSERT ON customers FOR EACH ROW EXECUTE FUNCTION note();
ALTER TABLE customers ENABLE ROW LEVEL SECURITY;
ALTER TABLE customers FORCE ROW LEVEL SECURITY;
CREATE POLICY shown ON customers USING (name <> 'hidden') WITH CHECK (true);
INSERT INTO customers (name, boss) VALUES ('ann', NULL), ('bob', 1), ('hidden', 1);
INSERT INTO orders (customer) VALUES (1), (2);
INSERT INTO "Log ""x""" VALUES ('2025-05-05');
INSERT INTO watched VALUES ('2025-05-05');
