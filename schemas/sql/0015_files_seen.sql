-- Files of which an installation's own events told, by a keyed digest of the provider's id of each. On a bot that several orgs
-- share these are the files that agents may fetch and send.
CREATE TABLE files_seen (
  seq INTEGER PRIMARY KEY,
  installation TEXT NOT NULL,
  file TEXT NOT NULL,
  seen_ms BIGINT NOT NULL,
  UNIQUE (installation, file)
);
CREATE INDEX files_seen_order ON files_seen (installation, seq);
CREATE INDEX files_seen_age ON files_seen (seen_ms);
