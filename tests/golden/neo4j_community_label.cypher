CREATE INDEX `multidb_digi_LABELS_beep_boop` IF NOT EXISTS FOR (n:`multidb_digi_LABELS_beep_boop`) ON (n.multidb);  // neo4j
CREATE INDEX `multidb_digi_LABELS_lernmi` IF NOT EXISTS FOR (n:`multidb_digi_LABELS_lernmi`) ON (n.multidb);  // neo4j
CREATE USER `beep_boop_user` SET PLAINTEXT PASSWORD $password CHANGE NOT REQUIRED;  // system
CREATE USER `lernmi_user` SET PLAINTEXT PASSWORD $password CHANGE NOT REQUIRED;  // system
