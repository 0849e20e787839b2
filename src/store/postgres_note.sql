INSERT INTO open_attempts (writer, id, unix_ms, request_id, attempt, key, route, model, provider, task,
    input_tokens, cached_tokens, output_tokens, estimated, cost, latency_ms, ttft_ms, outcome, status, tags,
    arm, flag)
SELECT $1, id, unix_ms, request_id, attempt, key, route, model, provider, task, input_tokens, cached_tokens,
    output_tokens, estimated, cost, latency_ms, ttft_ms, outcome, status, tags, arm, flag
FROM unnest($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)
    AS note (id, unix_ms, request_id, attempt, key, route, model, provider, task, input_tokens, cached_tokens,
    output_tokens, estimated, cost, latency_ms, ttft_ms, outcome, status, tags, arm, flag)
ON CONFLICT (writer, id) DO UPDATE SET input_tokens = excluded.input_tokens,
    cached_tokens = excluded.cached_tokens, output_tokens = excluded.output_tokens, cost = excluded.cost,
    latency_ms = excluded.latency_ms, ttft_ms = excluded.ttft_ms
