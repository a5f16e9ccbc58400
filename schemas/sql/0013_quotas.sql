-- How many bytes of events the store holds of each org: bodies and readings. Kept beside the rows, because adding up an org's
-- events takes as long as it has events.
CREATE TABLE org_usage (org TEXT PRIMARY KEY, stored_bytes BIGINT NOT NULL) WITHOUT ROWID;
INSERT INTO org_usage (org, stored_bytes) SELECT org, SUM(octet_length(content)) FROM events WHERE content IS NOT NULL GROUP BY org;
