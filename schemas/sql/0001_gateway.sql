-- Columns are TEXT ids, BIGINT milliseconds, BLOB bytes: what every database the store may speak has.

-- What operators declare: orgs, profiles, installations, agents, bindings. One JSON body a row.
CREATE TABLE resources (
  kind TEXT NOT NULL, id TEXT NOT NULL, org TEXT, body TEXT NOT NULL, created_ms BIGINT NOT NULL, updated_ms BIGINT NOT NULL,
  PRIMARY KEY (kind, id)
) WITHOUT ROWID;

-- Sealed values. `slot` tells the current one from the previous one.
CREATE TABLE secrets (
  kind TEXT NOT NULL, owner TEXT NOT NULL, field TEXT NOT NULL, slot TEXT NOT NULL, id TEXT NOT NULL, sealed BLOB NOT NULL,
  fingerprint TEXT NOT NULL, set_ms BIGINT NOT NULL, until_ms BIGINT,
  PRIMARY KEY (kind, owner, field, slot)
) WITHOUT ROWID;

-- Webhook addresses, removed ones too: those answer 410 for ever.
CREATE TABLE ingress_ids (ingress_id TEXT PRIMARY KEY, profile TEXT NOT NULL, removed_ms BIGINT) WITHOUT ROWID;

-- An external account has one owner overall and one installation per profile. Held here, not in code.
CREATE TABLE owners (account TEXT PRIMARY KEY, owner TEXT NOT NULL, UNIQUE (account, owner)) WITHOUT ROWID;
CREATE TABLE claims (
  account TEXT NOT NULL, profile TEXT NOT NULL, installation TEXT NOT NULL, owner TEXT NOT NULL,
  PRIMARY KEY (account, profile), FOREIGN KEY (account, owner) REFERENCES owners (account, owner)
) WITHOUT ROWID;
CREATE INDEX claims_installation ON claims (installation);

-- Rollout flags; the row `global` is the switch over all.
CREATE TABLE flags (
  name TEXT PRIMARY KEY, enabled BIGINT NOT NULL, stage TEXT NOT NULL, canary TEXT NOT NULL, reason TEXT, changed_by TEXT NOT NULL,
  changed_ms BIGINT NOT NULL, version BIGINT NOT NULL
) WITHOUT ROWID;

CREATE TABLE sessions (
  id TEXT PRIMARY KEY, key TEXT NOT NULL, org TEXT NOT NULL, provider TEXT NOT NULL, installation TEXT NOT NULL, agent TEXT NOT NULL,
  conversation TEXT NOT NULL, thread TEXT, peer TEXT, status TEXT NOT NULL, created_ms BIGINT NOT NULL, last_ms BIGINT NOT NULL,
  predecessor TEXT
);
CREATE UNIQUE INDEX sessions_active ON sessions (key) WHERE status = 'active';

-- The key's last part, the provider's own id, stands first: those mostly grow, so inserts stay at the end of the tree.
CREATE TABLE dedupe (
  key TEXT NOT NULL, installation TEXT NOT NULL, event TEXT NOT NULL, expires_ms BIGINT NOT NULL,
  PRIMARY KEY (key, installation)
) WITHOUT ROWID;

-- What is asked for stands in columns, the rest of what is known in `meta_json`: every column of every row is bound by itself.
CREATE TABLE events (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL, received_ms BIGINT NOT NULL, org TEXT NOT NULL, installation TEXT NOT NULL,
  agent TEXT NOT NULL, session TEXT NOT NULL, kind TEXT NOT NULL, provider_event_id TEXT NOT NULL, decision_first BIGINT NOT NULL,
  decision_count BIGINT NOT NULL, meta_json TEXT NOT NULL, normal_json TEXT NOT NULL, raw BLOB NOT NULL
);
CREATE UNIQUE INDEX events_id ON events (id);

-- A delivery has its event's number: finding one from the other costs no index.
CREATE TABLE deliveries (
  seq INTEGER PRIMARY KEY, event TEXT NOT NULL, org TEXT NOT NULL, agent TEXT NOT NULL, session TEXT NOT NULL,
  created_ms BIGINT NOT NULL, due_ms BIGINT NOT NULL, attempt BIGINT NOT NULL DEFAULT 0, lease BIGINT NOT NULL DEFAULT 0,
  lease_until_ms BIGINT, settled_ms BIGINT, state TEXT NOT NULL DEFAULT 'pending', code TEXT
);
-- What a start reads; which of them are due is kept in memory.
CREATE INDEX deliveries_open ON deliveries (seq) WHERE settled_ms IS NULL;

CREATE TABLE attempts (
  delivery BIGINT NOT NULL, number BIGINT NOT NULL, at_ms BIGINT NOT NULL, took_ms BIGINT NOT NULL, status BIGINT, code TEXT,
  PRIMARY KEY (delivery, number)
) WITHOUT ROWID;

-- A question with everything that could be read for it, and its answer, once however often it is asked: under load the same
-- few recur, and with their facts in every row they would be most of what is written.
CREATE TABLE verdicts (
  seq INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, action TEXT NOT NULL, principal TEXT NOT NULL, resource TEXT NOT NULL,
  facts_json TEXT NOT NULL, allowed BIGINT NOT NULL, code TEXT, policies_json TEXT NOT NULL, version TEXT NOT NULL
);

-- Each time it was asked. Those of one event or send stand in a row, in the order they were asked.
CREATE TABLE decisions (seq INTEGER PRIMARY KEY, at_ms BIGINT NOT NULL, org TEXT, subject TEXT NOT NULL, verdict BIGINT NOT NULL);

CREATE TABLE refusals (
  seq INTEGER PRIMARY KEY, at_ms BIGINT NOT NULL, provider TEXT NOT NULL, profile TEXT NOT NULL, installation TEXT, org TEXT,
  code TEXT NOT NULL, verdict BIGINT, digest TEXT NOT NULL, excerpt TEXT, request TEXT NOT NULL
);

CREATE TABLE audit (
  seq INTEGER PRIMARY KEY, at_ms BIGINT NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL, target TEXT NOT NULL, org TEXT,
  outcome TEXT NOT NULL, code TEXT, verdict BIGINT, request TEXT, detail_json TEXT
);

-- What agents sent: the idempotency record and the receipt in one.
CREATE TABLE sends (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL, agent TEXT NOT NULL, key TEXT NOT NULL, digest TEXT NOT NULL, state TEXT NOT NULL,
  status BIGINT, answer_json TEXT, org TEXT, installation TEXT, session TEXT, conversation TEXT, credential TEXT, owner TEXT,
  fallback BIGINT NOT NULL, provider_message_id TEXT, code TEXT, decision_first BIGINT, decision_count BIGINT, created_ms BIGINT NOT NULL, finished_ms BIGINT
);
CREATE UNIQUE INDEX sends_id ON sends (id);
CREATE UNIQUE INDEX sends_key ON sends (agent, key);
