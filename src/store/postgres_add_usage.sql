WITH batch AS (
    INSERT INTO batches (writer, number) VALUES ($1, $2)
    ON CONFLICT (writer) DO UPDATE SET number = excluded.number WHERE batches.number < excluded.number
    RETURNING number
), added AS (
    INSERT INTO usage (unix_ms, request_id, attempt, key, route, model, provider, task, input_tokens,
        cached_tokens, output_tokens, estimated, cost, latency_ms, ttft_ms, outcome, status, tags, arm, flag)
    SELECT unix_ms, request_id, attempt, key, route, model, provider, task, input_tokens,
        cached_tokens, output_tokens, estimated, cost, latency_ms, ttft_ms, outcome, status, tags, arm, flag
    FROM batch, unnest($3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
        $21, $22) WITH ORDINALITY AS record (unix_ms, request_id, attempt, key, route, model, provider, task,
        input_tokens, cached_tokens, output_tokens, estimated, cost, latency_ms, ttft_ms, outcome, status,
        tags, arm, flag, line)
    ORDER BY line
), of_periods AS (
    INSERT INTO spent_by_period (period, kind, name, dollars)
    SELECT charge.period, charge.kind, charge.name, charge.dollars
    FROM batch, unnest($25, $26, $27, $28) AS charge (period, kind, name, dollars)
    ORDER BY charge.period, charge.kind, charge.name
    ON CONFLICT (period, kind, name) DO UPDATE SET dollars = spent_by_period.dollars + excluded.dollars
), taken_away AS (
    DELETE FROM open_attempts USING batch, unnest($30) AS note (id)
    WHERE open_attempts.writer = $29 AND open_attempts.id = note.id
)
INSERT INTO spent (key, dollars)
SELECT charge.key, charge.dollars FROM batch, unnest($23, $24) AS charge (key, dollars)
ORDER BY charge.key
ON CONFLICT (key) DO UPDATE SET dollars = spent.dollars + excluded.dollars
