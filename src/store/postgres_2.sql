-- Version 2. As in SQLite's schema.
ALTER TABLE usage ADD COLUMN arm TEXT COLLATE "C";  -- NULL: no split chose one

CREATE INDEX IF NOT EXISTS usage_by_request ON usage (request_id);

CREATE TABLE scores (
    request_id TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    value DOUBLE PRECISION NOT NULL,
    comment TEXT COLLATE "C",
    unix_ms BIGINT NOT NULL,
    PRIMARY KEY (request_id, key, name)
);
