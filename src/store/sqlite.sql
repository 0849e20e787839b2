-- Version 1. One row for each attempt to answer a request, in the order in which they were written.
CREATE TABLE usage (
    id INTEGER PRIMARY KEY,
    unix_ms INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    key TEXT NOT NULL,
    route TEXT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT,                  -- NULL: the gateway's own process
    task TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    estimated INTEGER NOT NULL,     -- 0 or 1
    cost REAL NOT NULL,             -- dollars
    latency_ms INTEGER NOT NULL,
    ttft_ms INTEGER,
    outcome TEXT NOT NULL,          -- completed, cancelled or failed
    status INTEGER NOT NULL,
    tags TEXT NOT NULL              -- a JSON object of texts
) STRICT;

CREATE INDEX usage_by_time ON usage (unix_ms);

CREATE TABLE keys (
    name TEXT PRIMARY KEY,
    sha256 BLOB NOT NULL UNIQUE,
    prefix TEXT NOT NULL,           -- the key's first characters
    models TEXT NOT NULL,           -- a JSON list, empty: all, or "none"
    limits TEXT,                    -- a JSON object; NULL: those of the configuration
    credit REAL,                    -- prepaid dollars; NULL: no bound
    created_unix_ms INTEGER NOT NULL,
    expires_unix_ms INTEGER,
    revoked_unix_ms INTEGER
) STRICT;

-- Dollars of all usage by a key, of this table or of the configuration. Written with the usage.
CREATE TABLE spent (
    key TEXT PRIMARY KEY,
    dollars REAL NOT NULL
) STRICT;
