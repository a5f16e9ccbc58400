-- Repeats of a refused body are one row a day: how many, and when the last one came; `at_ms` is the first one's time.
ALTER TABLE refusals ADD COLUMN count BIGINT NOT NULL DEFAULT 1;
ALTER TABLE refusals ADD COLUMN last_ms BIGINT NOT NULL DEFAULT 0;
-- None in rows from before: those stay apart.
ALTER TABLE refusals ADD COLUMN day BIGINT;
UPDATE refusals SET last_ms = at_ms;
CREATE UNIQUE INDEX refusals_repeat ON refusals (digest, code, profile, COALESCE(installation, ''), COALESCE(verdict, 0), day);
