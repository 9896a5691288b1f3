CREATE INDEX `multidb_digi_OWNS_lernmi` IF NOT EXISTS FOR (n:`multidb_digi_OWNS_lernmi`) ON (n.multidb);  // neo4j
CREATE USER `lernmi_user` SET PLAINTEXT PASSWORD $password CHANGE NOT REQUIRED;  // system
