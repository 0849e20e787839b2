-- Version 1. As in SQLite's schema, and `batches`. Texts are compared by their bytes.
CREATE TABLE usage (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    unix_ms BIGINT NOT NULL,
    request_id TEXT COLLATE "C" NOT NULL,
    attempt BIGINT NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    route TEXT COLLATE "C" NOT NULL,
    model TEXT COLLATE "C" NOT NULL,
    provider TEXT COLLATE "C",              -- NULL: the gateway's own process
    task TEXT COLLATE "C" NOT NULL,
    input_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    estimated BOOLEAN NOT NULL,
    cost DOUBLE PRECISION NOT NULL,         -- dollars
    latency_ms BIGINT NOT NULL,
    ttft_ms BIGINT,
    outcome TEXT COLLATE "C" NOT NULL,      -- completed, cancelled or failed
    status BIGINT NOT NULL,
    tags TEXT COLLATE "C" NOT NULL          -- a JSON object of texts, in their order
);

CREATE INDEX usage_by_time ON usage (unix_ms);

CREATE TABLE keys (
    name TEXT COLLATE "C" PRIMARY KEY,
    sha256 BYTEA NOT NULL UNIQUE,
    prefix TEXT COLLATE "C" NOT NULL,       -- the key's first characters
    models TEXT COLLATE "C" NOT NULL,       -- a JSON list, empty: all, or "none"
    limits TEXT COLLATE "C",                -- a JSON object; NULL: those of the configuration
    credit DOUBLE PRECISION,                -- prepaid dollars; NULL: no bound
    created_unix_ms BIGINT NOT NULL,
    expires_unix_ms BIGINT,
    revoked_unix_ms BIGINT
);

-- Dollars of all usage by a key, of this table or of a configuration. Written with the usage.
CREATE TABLE spent (
    key TEXT COLLATE "C" PRIMARY KEY,
    dollars DOUBLE PRECISION NOT NULL
);

-- Of each process that ever wrote usage, the last batch: one whose answer got lost is not written twice.
CREATE TABLE batches (
    writer TEXT COLLATE "C" PRIMARY KEY,
    number BIGINT NOT NULL
);

-- Marks the tables as ours. Its one row is the schema's version.
CREATE TABLE novastack_schema (version BIGINT NOT NULL);
