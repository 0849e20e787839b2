-- Version 4. As in SQLite's schema.
CREATE TABLE spent_by_period (
    period TEXT COLLATE "C" NOT NULL,       -- a day or a month, in UTC: 2026-01-31, 2026-01
    kind TEXT COLLATE "C" NOT NULL,         -- key or model
    name TEXT COLLATE "C" NOT NULL,         -- whose
    dollars DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (period, kind, name)
);

INSERT INTO spent_by_period
SELECT to_char(to_timestamp(unix_ms / 1000) AT TIME ZONE 'UTC', 'YYYY-MM-DD'), 'key', key, sum(cost)
FROM usage WHERE cost > 0 GROUP BY 1, key;
INSERT INTO spent_by_period
SELECT to_char(to_timestamp(unix_ms / 1000) AT TIME ZONE 'UTC', 'YYYY-MM-DD'), 'model', model, sum(cost)
FROM usage WHERE cost > 0 GROUP BY 1, model;
INSERT INTO spent_by_period
SELECT substr(period, 1, 7), kind, name, sum(dollars) FROM spent_by_period GROUP BY substr(period, 1, 7), kind, name;
