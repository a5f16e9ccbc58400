-- The session's whole route, and its neighbours in time.
ALTER TABLE sessions ADD COLUMN binding TEXT;
ALTER TABLE sessions ADD COLUMN legacy BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN successor TEXT;
ALTER TABLE sessions ADD COLUMN ended_ms BIGINT;
-- `idle`, `age`, or `operator`.
ALTER TABLE sessions ADD COLUMN ended_by TEXT;
-- The key under which its successor will open, where an operator ended it.
ALTER TABLE sessions ADD COLUMN followed_as TEXT;

-- An imported session has no route: key and installation are empty until an event gives it one.
DROP INDEX sessions_active;
CREATE UNIQUE INDEX sessions_active ON sessions (key) WHERE status = 'active' AND key <> '';
CREATE INDEX sessions_contact ON sessions (org, agent, peer) WHERE status = 'active';
CREATE INDEX sessions_followed ON sessions (followed_as) WHERE followed_as IS NOT NULL AND successor IS NULL;

-- Conversations that an operator handed from one agent to another: the key that the binding leads to, and whose it is now.
CREATE TABLE handed (
  key TEXT PRIMARY KEY, agent TEXT NOT NULL, handed_key TEXT NOT NULL, session TEXT NOT NULL, at_ms BIGINT NOT NULL
) WITHOUT ROWID;

-- How often each legacy binding was used: when the last use is long ago, it can go.
CREATE TABLE legacy_uses (binding TEXT PRIMARY KEY, uses BIGINT NOT NULL, last_ms BIGINT NOT NULL) WITHOUT ROWID;
