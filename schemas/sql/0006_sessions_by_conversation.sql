-- The open session of a conversation: what an SDK's call is an answer to.
CREATE INDEX sessions_conversation ON sessions (conversation, installation, agent) WHERE status = 'active';
