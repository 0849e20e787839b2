-- Version 2. Which arm a split chose, and what callers think of answers.
ALTER TABLE usage ADD COLUMN arm TEXT;  -- NULL: no split did

-- Whose request is scored? It may be there already: a large table may get it before.
CREATE INDEX IF NOT EXISTS usage_by_request ON usage (request_id);

-- Callers may choose a request's id: two keys may have used the same.
CREATE TABLE scores (
    request_id TEXT NOT NULL,
    key TEXT NOT NULL,
    name TEXT NOT NULL,
    value REAL NOT NULL,
    comment TEXT,
    unix_ms INTEGER NOT NULL,
    PRIMARY KEY (request_id, key, name)
) STRICT;
