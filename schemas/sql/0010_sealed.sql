-- Content is sealed: what people said and wrote, and who they are. Each table keeps it in `content`, under the key of the row's
-- org; columns that rows are looked up by hold keyed digests. Rows that an earlier build wrote in clear are kept as `plain_*`
-- until the gateway, which has the keys, has sealed them.

ALTER TABLE events RENAME TO plain_events;
DROP INDEX events_id;
-- `content` is NULL where the body was removed.
CREATE TABLE events (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL, received_ms BIGINT NOT NULL, org TEXT NOT NULL, installation TEXT NOT NULL,
  agent TEXT NOT NULL, session TEXT NOT NULL, kind TEXT NOT NULL, decision_first BIGINT NOT NULL, decision_count BIGINT NOT NULL,
  meta_json TEXT NOT NULL, content BLOB
);
CREATE UNIQUE INDEX events_id ON events (id);

ALTER TABLE sessions RENAME TO plain_sessions;
DROP INDEX sessions_active;
DROP INDEX sessions_conversation;
DROP INDEX sessions_contact;
DROP INDEX sessions_followed;
-- `key`, `conversation`, `thread`, `peer` and `followed_as` are digests; empty where there is no text.
CREATE TABLE sessions (
  id TEXT PRIMARY KEY, key TEXT NOT NULL, org TEXT NOT NULL, provider TEXT NOT NULL, installation TEXT NOT NULL, agent TEXT NOT NULL,
  conversation TEXT NOT NULL, thread TEXT, peer TEXT, status TEXT NOT NULL, created_ms BIGINT NOT NULL, last_ms BIGINT NOT NULL,
  predecessor TEXT, binding TEXT, legacy BIGINT NOT NULL DEFAULT 0, successor TEXT, ended_ms BIGINT, ended_by TEXT, followed_as TEXT,
  content BLOB NOT NULL
);
CREATE UNIQUE INDEX sessions_active ON sessions (key) WHERE status = 'active' AND key <> '';
CREATE INDEX sessions_conversation ON sessions (conversation, installation, agent) WHERE status = 'active';
CREATE INDEX sessions_contact ON sessions (org, agent, peer) WHERE status = 'active';
CREATE INDEX sessions_followed ON sessions (followed_as) WHERE followed_as IS NOT NULL AND successor IS NULL;

-- A question is sealed with its facts, under the key of the org that it is about.
ALTER TABLE verdicts RENAME TO plain_verdicts;
CREATE TABLE verdicts (
  seq INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, org TEXT, action TEXT NOT NULL, principal TEXT NOT NULL, resource TEXT NOT NULL,
  allowed BIGINT NOT NULL, code TEXT, policies_json TEXT NOT NULL, version TEXT NOT NULL, content BLOB
);

ALTER TABLE refusals RENAME TO plain_refusals;
CREATE TABLE refusals (
  seq INTEGER PRIMARY KEY, at_ms BIGINT NOT NULL, provider TEXT NOT NULL, profile TEXT NOT NULL, installation TEXT, org TEXT,
  code TEXT NOT NULL, verdict BIGINT, digest TEXT NOT NULL, request TEXT NOT NULL, content BLOB
);

ALTER TABLE sends RENAME TO plain_sends;
DROP INDEX sends_id;
DROP INDEX sends_key;
CREATE TABLE sends (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL, agent TEXT NOT NULL, key TEXT NOT NULL, digest TEXT NOT NULL, state TEXT NOT NULL,
  status BIGINT, org TEXT, installation TEXT, session TEXT, credential TEXT, owner TEXT, fallback BIGINT NOT NULL, code TEXT,
  decision_first BIGINT, decision_count BIGINT, created_ms BIGINT NOT NULL, finished_ms BIGINT, content BLOB
);
CREATE UNIQUE INDEX sends_id ON sends (id);
CREATE UNIQUE INDEX sends_key ON sends (agent, key);

ALTER TABLE places RENAME TO plain_places;
CREATE TABLE places (
  installation TEXT NOT NULL, conversation TEXT NOT NULL, state TEXT NOT NULL, at_ms BIGINT NOT NULL, content BLOB NOT NULL,
  PRIMARY KEY (installation, conversation)
) WITHOUT ROWID;

ALTER TABLE handed RENAME TO plain_handed;
CREATE TABLE handed (
  key TEXT PRIMARY KEY, org TEXT NOT NULL, agent TEXT NOT NULL, handed_key TEXT NOT NULL, session TEXT NOT NULL, at_ms BIGINT NOT NULL,
  content BLOB NOT NULL
) WITHOUT ROWID;
