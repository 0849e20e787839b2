-- Version 4. What was spent of each day and month, so that a start reads these and no records. Written with
-- the usage.
CREATE TABLE spent_by_period (
    period TEXT NOT NULL,           -- a day or a month, in UTC: 2026-01-31, 2026-01
    kind TEXT NOT NULL,             -- key or model
    name TEXT NOT NULL,             -- whose
    dollars REAL NOT NULL,
    PRIMARY KEY (period, kind, name)
) STRICT, WITHOUT ROWID;

INSERT INTO spent_by_period
SELECT date(unix_ms / 1000, 'unixepoch') AS day, 'key', key, sum(cost) FROM usage WHERE cost > 0 GROUP BY day, key;
INSERT INTO spent_by_period
SELECT date(unix_ms / 1000, 'unixepoch') AS day, 'model', model, sum(cost) FROM usage WHERE cost > 0 GROUP BY day, model;
INSERT INTO spent_by_period
SELECT substr(period, 1, 7), kind, name, sum(dollars) FROM spent_by_period GROUP BY substr(period, 1, 7), kind, name;
