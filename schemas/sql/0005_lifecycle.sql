-- Conversations as far as the provider told of them: blocked, left, moved. A row stays when one is open again, so that what
-- is older than it changes nothing.
CREATE TABLE places (
  installation TEXT NOT NULL, conversation TEXT NOT NULL, state TEXT NOT NULL, moved_to TEXT, at_ms BIGINT NOT NULL,
  PRIMARY KEY (installation, conversation)
) WITHOUT ROWID;

-- Whose deliveries wait: asked with every claim, so it must not walk over everything that was declared.
CREATE INDEX resources_halted ON resources (kind, id) WHERE json_extract(body, '$.status') IN ('paused', 'degraded', 'suspended');
