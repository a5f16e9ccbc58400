-- What the canary takes by percentage, and what becomes of orgs that are not let in. The last two count in the row `global`.
ALTER TABLE flags ADD COLUMN percent BIGINT NOT NULL DEFAULT 0;
ALTER TABLE flags ADD COLUMN legacy_fallback BIGINT NOT NULL DEFAULT 1;
ALTER TABLE flags ADD COLUMN rollback_mode TEXT NOT NULL DEFAULT 'legacy_provider_only';
