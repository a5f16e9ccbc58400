-- When a stage was entered, which the soak counts from; the last matrix run before the last roll-back, because times can be set
-- back and numbers cannot; and the run that a promotion rested on.
ALTER TABLE flags ADD COLUMN staged_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE flags ADD COLUMN rolled_back_run BIGINT NOT NULL DEFAULT 0;
ALTER TABLE flags ADD COLUMN evidence TEXT;

-- What the gateway found when it played the failure-path matrix against itself.
CREATE TABLE matrix_runs (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL, at_ms BIGINT NOT NULL, provider TEXT NOT NULL, policy_version TEXT NOT NULL,
  build TEXT NOT NULL, played BIGINT NOT NULL, red BIGINT NOT NULL, report_json TEXT NOT NULL
);
CREATE INDEX matrix_runs_provider ON matrix_runs (provider, seq);
