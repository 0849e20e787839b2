// The official SDKs for Node and the AI SDK, against a live server: NOVASTACK_TEST_URL serves a scripted model `m`, which
// calls get_weather when it is asked about the weather, NOVASTACK_TEST_RANDOM_URL a model `tiny` of random weights, whose
// answers keep to a schema by grammar alone.
import assert from "node:assert/strict";
import { test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, isStepCount, Output, streamText, tool } from "ai";
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const url = process.env.NOVASTACK_TEST_URL;
const randomUrl = process.env.NOVASTACK_TEST_RANDOM_URL;
const HELLO = "Hello from the script.";
const SUNNY = "It is sunny in Rome.";
const ask = [{ role: "user", content: "The weather in Rome?" }];
const hello = [{ role: "user", content: "Say hello." }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const Trip = z.object({ city: z.enum(["Paris", "Oslo"]), days: z.int().min(1).max(9) });

const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const randomOpenai = new OpenAI({ baseURL: `${randomUrl}/v1`, apiKey: "none", maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: url, apiKey: "none", maxRetries: 0 });
const randomAnthropic = new Anthropic({ baseURL: randomUrl, apiKey: "none", maxRetries: 0 });

test("openai: chat and stream", async () => {
  const answer = await openai.chat.completions.create({ model: "m", messages: hello });
  assert.equal(answer.choices[0].message.content, HELLO);
  assert.ok(answer.usage.completion_tokens > 0);
  const options = { include_usage: true };
  const stream = await openai.chat.completions.create({ model: "m", messages: hello, stream: true, stream_options: options });
  const pieces = [];
  let usage;
  for await (const chunk of stream) {
    pieces.push(chunk.choices[0]?.delta.content ?? "");
    usage ??= chunk.usage;
  }
  assert.equal(pieces.join(""), HELLO);
  assert.ok(pieces.length > 3);
  assert.equal(usage.prompt_tokens, answer.usage.prompt_tokens);
});

test("openai: a round trip of tools", async () => {
  const asked = [];
  const weather = ({ city }) => {
    asked.push(city);
    return "sunny";
  };
  const runner = openai.chat.completions.runTools({
    model: "m",
    messages: ask,
    stream: true,
    tools: [{ type: "function", function: { name: "get_weather", parameters, parse: JSON.parse, function: weather } }],
  });
  assert.equal(await runner.finalContent(), SUNNY);
  assert.deepEqual(asked, ["Rome"]);
});

test("openai: structured output", async () => {
  const response_format = zodResponseFormat(Trip, "trip");
  const answer = await randomOpenai.chat.completions.parse({ model: "tiny", messages: hello, response_format, temperature: 0 });
  Trip.parse(answer.choices[0].message.parsed);
});

test("openai: responses", async () => {
  const answer = await openai.responses.create({ model: "m", input: "Say hello." });
  assert.equal(answer.output_text, HELLO);
  const stream = openai.responses.stream({ model: "m", input: "Say hello." });
  let text = "";
  for await (const event of stream) {
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  assert.equal(text, HELLO);
  assert.equal((await stream.finalResponse()).output_text, HELLO);
  const tools = [{ type: "function", name: "get_weather", parameters, strict: false }];
  const first = await openai.responses.create({ model: "m", input: ask, tools });
  const call = first.output.find((item) => item.type === "function_call");
  assert.deepEqual(JSON.parse(call.arguments), { city: "Rome" });
  const input = [{ type: "function_call_output", call_id: call.call_id, output: "sunny" }];
  const second = await openai.responses.create({ model: "m", input, tools, previous_response_id: first.id });
  assert.equal(second.output_text, SUNNY);
  const text_format = { format: zodTextFormat(Trip, "trip") };
  const parsed = await randomOpenai.responses.parse({ model: "tiny", input: "hello", text: text_format, temperature: 0 });
  Trip.parse(parsed.output_parsed);
});

test("openai: errors", async () => {
  const bad = openai.chat.completions.create({ model: "m", messages: hello, temperature: 9 });
  await assert.rejects(bad, (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature");
  const missing = openai.chat.completions.create({ model: "nobody", messages: "x" });
  await assert.rejects(missing, (error) => error instanceof OpenAI.APIError && error.status >= 400 && error.status < 500);
});

test("anthropic: messages and stream", async () => {
  const asked = { model: "m", max_tokens: 500, messages: hello };
  const answer = await anthropic.messages.create(asked);
  assert.equal(answer.content.at(-1).text, HELLO);
  assert.equal(answer.stop_reason, "end_turn");
  const stream = anthropic.messages.stream(asked);
  let text = "";
  stream.on("text", (piece) => (text += piece));
  assert.equal((await stream.finalMessage()).content.at(-1).text, HELLO);
  assert.equal(text, HELLO);
});

test("anthropic: a round trip of tools", async () => {
  const tools = [{ name: "get_weather", input_schema: parameters }];
  const asked = { model: "m", max_tokens: 2000, tools, thinking: { type: "enabled", budget_tokens: 1024 } };
  const first = await anthropic.messages.stream({ ...asked, messages: ask }).finalMessage();
  assert.deepEqual(first.content.map((block) => block.type), ["thinking", "text", "tool_use"]);
  const { id, input } = first.content[2];
  assert.deepEqual(input, { city: "Rome" });
  const result = { role: "user", content: [{ type: "tool_result", tool_use_id: id, content: "sunny" }] };
  const messages = [...ask, { role: "assistant", content: first.content }, result];
  const second = await anthropic.messages.create({ ...asked, messages });
  assert.equal(second.content.at(-1).text, SUNNY);
});

test("anthropic: structured output and errors", async () => {
  const schema = {
    type: "object",
    properties: { city: { type: "string", enum: ["Paris", "Oslo"] }, days: { type: "integer", enum: [1, 2, 3] } },
    required: ["city", "days"],
    additionalProperties: false,
  };
  const output_config = { format: { type: "json_schema", schema } };
  const asked = { model: "tiny", max_tokens: 500, messages: hello, output_config, temperature: 0 };
  const answer = await randomAnthropic.messages.create(asked);
  Trip.parse(JSON.parse(answer.content.at(-1).text));
  const bad = anthropic.messages.create({ model: "m", max_tokens: 0, messages: hello });
  await assert.rejects(bad, (error) => error instanceof Anthropic.BadRequestError && /max_tokens/.test(error.message));
});

const providers = {
  "@ai-sdk/openai-compatible": (base) => createOpenAICompatible({ name: "nova", baseURL: `${base}/v1`, supportsStructuredOutputs: true }),
  "@ai-sdk/openai": (base) => createOpenAI({ baseURL: `${base}/v1`, apiKey: "none" }),
  "@ai-sdk/openai, chat": (base) => createOpenAI({ baseURL: `${base}/v1`, apiKey: "none" }).chat,
  "@ai-sdk/anthropic": (base) => createAnthropic({ baseURL: `${base}/v1`, apiKey: "none" }),
};

for (const [name, provider] of Object.entries(providers)) {
  test(`ai with ${name}`, async () => {
    const common = { model: provider(url)("m"), maxRetries: 0, maxOutputTokens: 2000 };
    assert.equal((await generateText({ ...common, prompt: "Say hello." })).text, HELLO);
    const asked = [];
    const get_weather = tool({
      description: "The weather.",
      inputSchema: z.object({ city: z.string() }),
      execute: async ({ city }) => {
        asked.push(city);
        return "sunny";
      },
    });
    const stream = streamText({ ...common, prompt: "The weather in Rome?", tools: { get_weather }, stopWhen: isStepCount(4) });
    let text = "";
    for await (const piece of stream.textStream) text += piece;
    assert.ok(text.endsWith(SUNNY), text);
    assert.deepEqual(asked, ["Rome"]);
    const output = Output.object({ schema: Trip });
    const structured = { model: provider(randomUrl)("tiny"), maxRetries: 0, maxOutputTokens: 500, temperature: 0, prompt: "hello", output };
    Trip.parse((await generateText(structured)).output);
    const missing = generateText({ ...common, model: provider(randomUrl)("nobody"), prompt: "hello" });
    await assert.rejects(missing, (error) => error.statusCode === 404);
  });
}
