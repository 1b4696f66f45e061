BEGIN TRANSACTION;
PRAGMA application_id = 1768778852;
PRAGMA user_version = 3;
CREATE TABLE image (
        job INTEGER NOT NULL, n INTEGER NOT NULL, state TEXT NOT NULL, link TEXT, deletehash TEXT,
        attempts INTEGER NOT NULL, reused INTEGER NOT NULL,
        uploading INTEGER NOT NULL, maybe_duplicate INTEGER NOT NULL,
        status_code INTEGER, bytes INTEGER, type TEXT, width INTEGER, height INTEGER,
        sha256 TEXT, converted_from TEXT,
        error_code TEXT, error_message TEXT, error_transient INTEGER, error_status_code INTEGER,
        PRIMARY KEY (job, n)
    ) WITHOUT ROWID;
INSERT INTO "image" VALUES(1,0,'completed','https://i.imgur.com/0000000.png','d3l3t3h4sh',1,0,0,0,200,1234,'image/png',64,32,'0000000000000000000000000000000000000000000000000000000000000000','image/webp',NULL,NULL,NULL,NULL);
INSERT INTO "image" VALUES(1,1,'completed','https://i.imgur.com/0000001.png','d3l3t3h4sh',1,0,0,0,200,1234,'image/png',64,32,'0000000000000000000000000000000000000000000000000000000000000001','image/webp',NULL,NULL,NULL,NULL);
INSERT INTO "image" VALUES(2,0,'failed',NULL,NULL,4,0,0,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'connect_error','Nobody answers.',1,503);
INSERT INTO "image" VALUES(2,1,'downloaded',NULL,NULL,1,0,1,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "image" VALUES(2,2,'completed','https://i.imgur.com/0000002.png',NULL,3,1,0,1,200,1234,'image/png',64,32,'0000000000000000000000000000000000000000000000000000000000000002','image/webp',NULL,NULL,NULL,NULL);
INSERT INTO "image" VALUES(3,0,'failed',NULL,NULL,1,0,0,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'invalid_url','Only http:// and https:// URLs are fetched.',0,NULL);
CREATE TABLE job (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, created INTEGER NOT NULL,
        dedupe INTEGER NOT NULL, started INTEGER NOT NULL, album TEXT,
        retired INTEGER NOT NULL DEFAULT 0, items TEXT NOT NULL
    , purging INTEGER NOT NULL DEFAULT 0, callback TEXT);
INSERT INTO "job" VALUES(1,'4227cacf-2ee1-4b52-b231-110304c4e203',1539463036,0,1,'{"title":"Birds","is_open":false,"id":"abc","link":"https://imgur.com/a/abc","deletehash":"d3l3t3h4sh","failure":null}',0,'["https://a.example/ü.png",["https://a.example/b.png","A bird","It sings."]]',0,NULL);
INSERT INTO "job" VALUES(2,'dd3df729-5a4e-4f1f-9a0c-0b8f0ac4f0c1',1539463037,1,1,NULL,0,'["https://origin.example/0.png","https://origin.example/1.png","https://origin.example/2.png","https://origin.example/3.png"]',0,NULL);
INSERT INTO "job" VALUES(3,'8e03978e-40d5-4f3a-9f2a-3b0d6f1c2e11',1539463058,1,1,NULL,0,'["ftp://a.example/"]',0,'{"url":"https://hook.example/told?k=v","is_told":true,"failure":null}');
CREATE TABLE note (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "note" VALUES('a name','a value');
CREATE TABLE suspect (
        job INTEGER NOT NULL, n INTEGER NOT NULL, deaths INTEGER NOT NULL,
        PRIMARY KEY (job, n)
    ) WITHOUT ROWID;
CREATE INDEX job_kept ON job (number) WHERE NOT retired;
COMMIT;
