-- Version 5. Attempts that are under way, as they were a second ago at most: what a process leaves here when it
-- is killed. Columns as in `usage`.
CREATE TABLE open_attempts (
    writer TEXT NOT NULL,           -- the process
    id INTEGER NOT NULL,            -- of the process
    unix_ms INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    key TEXT NOT NULL,
    route TEXT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT,
    task TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    cost REAL NOT NULL,
    latency_ms INTEGER NOT NULL,
    ttft_ms INTEGER,
    outcome TEXT NOT NULL,
    status INTEGER NOT NULL,
    tags TEXT NOT NULL,
    arm TEXT,
    flag TEXT,
    PRIMARY KEY (writer, id)
) STRICT, WITHOUT ROWID;

-- Counts on while the process lives.
CREATE TABLE beats (
    writer TEXT PRIMARY KEY,
    beat INTEGER NOT NULL
) STRICT;
