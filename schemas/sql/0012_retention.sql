-- When an event's body was removed, and whether by `retention` or by `purge`. The rest of the row stays.
ALTER TABLE events ADD COLUMN body_removed_ms BIGINT;
ALTER TABLE events ADD COLUMN body_removed_by TEXT;

-- When the question was last asked, to the day.
ALTER TABLE verdicts ADD COLUMN last_ms BIGINT NOT NULL DEFAULT 0;
UPDATE verdicts SET last_ms = COALESCE((SELECT at_ms FROM decisions ORDER BY seq DESC LIMIT 1), 0);

-- How far the sweeps got: each row up to this number was looked at.
CREATE TABLE swept (kind TEXT PRIMARY KEY, seq BIGINT NOT NULL) WITHOUT ROWID;

-- Events that a sweep passed over, because their delivery was open. It looks at them again.
CREATE TABLE put_off (seq BIGINT PRIMARY KEY) WITHOUT ROWID;
