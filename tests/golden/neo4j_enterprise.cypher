CREATE ROLE `multidb_digi_OWNS_beep_boop` IF NOT EXISTS;  // system
CREATE ROLE `multidb_digi_OWNS_lernmi` IF NOT EXISTS;  // system
REVOKE GRANT LOAD ON ALL DATA FROM `PUBLIC`;  // system
CREATE DATABASE `beep-boop` WAIT 120 SECONDS;  // system
CREATE DATABASE `lernmi` WAIT 120 SECONDS;  // system
CREATE ROLE `beep_boop_ro`;  // system
CREATE ROLE `beep_boop_rw`;  // system
CREATE ROLE `lernmi_ro`;  // system
CREATE ROLE `lernmi_rw`;  // system
GRANT ACCESS ON DATABASE `beep-boop` TO `beep_boop_ro`;  // system
GRANT ACCESS ON DATABASE `beep-boop` TO `beep_boop_rw`;  // system
GRANT CONSTRAINT MANAGEMENT ON DATABASE `beep-boop` TO `beep_boop_rw`;  // system
GRANT INDEX MANAGEMENT ON DATABASE `beep-boop` TO `beep_boop_rw`;  // system
GRANT MATCH {*} ON GRAPH `beep-boop` NODE * TO `beep_boop_ro`;  // system
GRANT MATCH {*} ON GRAPH `beep-boop` NODE * TO `beep_boop_rw`;  // system
GRANT MATCH {*} ON GRAPH `beep-boop` RELATIONSHIP * TO `beep_boop_ro`;  // system
GRANT MATCH {*} ON GRAPH `beep-boop` RELATIONSHIP * TO `beep_boop_rw`;  // system
GRANT NAME MANAGEMENT ON DATABASE `beep-boop` TO `beep_boop_rw`;  // system
GRANT SHOW CONSTRAINT ON DATABASE `beep-boop` TO `beep_boop_ro`;  // system
GRANT SHOW CONSTRAINT ON DATABASE `beep-boop` TO `beep_boop_rw`;  // system
GRANT SHOW INDEX ON DATABASE `beep-boop` TO `beep_boop_ro`;  // system
GRANT SHOW INDEX ON DATABASE `beep-boop` TO `beep_boop_rw`;  // system
GRANT WRITE ON GRAPH `beep-boop` TO `beep_boop_rw`;  // system
GRANT ACCESS ON DATABASE `lernmi` TO `lernmi_ro`;  // system
GRANT ACCESS ON DATABASE `lernmi` TO `lernmi_rw`;  // system
GRANT CONSTRAINT MANAGEMENT ON DATABASE `lernmi` TO `lernmi_rw`;  // system
GRANT INDEX MANAGEMENT ON DATABASE `lernmi` TO `lernmi_rw`;  // system
GRANT MATCH {*} ON GRAPH `lernmi` NODE * TO `lernmi_ro`;  // system
GRANT MATCH {*} ON GRAPH `lernmi` NODE * TO `lernmi_rw`;  // system
GRANT MATCH {*} ON GRAPH `lernmi` RELATIONSHIP * TO `lernmi_ro`;  // system
GRANT MATCH {*} ON GRAPH `lernmi` RELATIONSHIP * TO `lernmi_rw`;  // system
GRANT NAME MANAGEMENT ON DATABASE `lernmi` TO `lernmi_rw`;  // system
GRANT SHOW CONSTRAINT ON DATABASE `lernmi` TO `lernmi_ro`;  // system
GRANT SHOW CONSTRAINT ON DATABASE `lernmi` TO `lernmi_rw`;  // system
GRANT SHOW INDEX ON DATABASE `lernmi` TO `lernmi_ro`;  // system
GRANT SHOW INDEX ON DATABASE `lernmi` TO `lernmi_rw`;  // system
GRANT WRITE ON GRAPH `lernmi` TO `lernmi_rw`;  // system
CREATE USER `beep_boop_user` SET PLAINTEXT PASSWORD $password CHANGE NOT REQUIRED SET STATUS ACTIVE SET HOME DATABASE `beep-boop`;  // system
CREATE USER `lernmi_user` SET PLAINTEXT PASSWORD $password CHANGE NOT REQUIRED SET STATUS ACTIVE SET HOME DATABASE `lernmi`;  // system
GRANT ROLE `beep_boop_rw` TO `beep_boop_user`;  // system
GRANT ROLE `lernmi_rw` TO `lernmi_user`;  // system
