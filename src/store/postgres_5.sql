-- Version 5. As in SQLite's schema.
CREATE TABLE open_attempts (
    writer TEXT COLLATE "C" NOT NULL,       -- the process
    id BIGINT NOT NULL,                     -- of the process
    unix_ms BIGINT NOT NULL,
    request_id TEXT COLLATE "C" NOT NULL,
    attempt BIGINT NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    route TEXT COLLATE "C" NOT NULL,
    model TEXT COLLATE "C" NOT NULL,
    provider TEXT COLLATE "C",
    task TEXT COLLATE "C" NOT NULL,
    input_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    estimated BOOLEAN NOT NULL,
    cost DOUBLE PRECISION NOT NULL,
    latency_ms BIGINT NOT NULL,
    ttft_ms BIGINT,
    outcome TEXT COLLATE "C" NOT NULL,
    status BIGINT NOT NULL,
    tags TEXT COLLATE "C" NOT NULL,
    arm TEXT COLLATE "C",
    flag TEXT COLLATE "C",
    PRIMARY KEY (writer, id)
);

-- Counts on while the process lives.
CREATE TABLE beats (
    writer TEXT COLLATE "C" PRIMARY KEY,
    beat BIGINT NOT NULL
);
