// The real openai SDK for Node against a running Tallygate. `tests/conformance/test_openai_node.py` starts it with the
// gateway's address and keys in the environment; the scripted upstream answers (tests/upstream/behaviour.py).
import assert from "node:assert/strict";
import { describe, it } from "node:test";

import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const needed = (name) => {
  const value = process.env[name];
  assert.ok(value, `${name} is not set: run this through pytest tests/conformance`);
  return value;
};

const baseURL = needed("BASE_URL");
const keys = {
  good: needed("API_KEY"),
  poor: needed("POOR_KEY"),
  revoked: needed("REVOKED_KEY"),
  limited: needed("LIMITED_KEY"),
};

const clientFor = (apiKey) => new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 30_000 });
const client = clientFor(keys.good);

const asked = (content, more = {}) => ({ model: "test/ok", messages: [{ role: "user", content }], ...more });

const Weather = z.object({ city: z.string(), days: z.number().int() });
const Order = z.object({ dish: z.enum(["soup", "salad"]), portions: z.number().int(), notes: z.array(z.string()) });

async function textOf(stream) {
  let text = "";
  for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
  return text;
}

describe("answers", () => {
  it("plain, with usage and what it cost", async () => {
    const { data, response } = await client.chat.completions.create(asked("plain from node")).withResponse();
    assert.equal(data.object, "chat.completion");
    assert.equal(data.choices[0].message.content, "You said: plain from node");
    assert.equal(data.choices[0].finish_reason, "stop");
    assert.deepEqual(
      [data.usage.prompt_tokens, data.usage.completion_tokens, data.usage.total_tokens],
      [4, 5, 9],
    );
    assert.match(response.headers.get("x-trace-id"), /^[0-9a-f]{32}$/);
    assert.match(response.headers.get("x-receipt-id"), /^rcpt_/);
    assert.match(response.headers.get("x-generation-id"), /^gen_/);
    assert.equal(response.headers.get("x-served-mode"), "fresh");
    // 4 tokens at $1 and 5 at $2 a million, and 5 %.
    assert.equal(response.headers.get("x-cost-usd"), "0.0000147");
  });

  it("a stream says what the body says", async () => {
    const whole = await client.chat.completions.create(asked("one text twice"));
    const streamed = await textOf(await client.chat.completions.create(asked("one text twice", { stream: true })));
    assert.equal(streamed, whole.choices[0].message.content);
  });

  it("a stream without usage has none", async () => {
    const stream = await client.chat.completions.create(asked("no usage asked", { stream: true }));
    for await (const chunk of stream) {
      assert.equal(chunk.choices.length, 1);
      assert.equal(chunk.usage ?? null, null);
    }
  });

  it("a stream with usage ends with it", async () => {
    const options = { stream: true, stream_options: { include_usage: true } };
    const chunks = [];
    for await (const chunk of await client.chat.completions.create(asked("usage asked", options))) chunks.push(chunk);
    const last = chunks.at(-1);
    assert.deepEqual(last.choices, []);
    assert.equal(last.usage.total_tokens, 7);
    assert.match(last.tallygate.receipt_id, /^rcpt_/);
    assert.equal(last.tallygate.served_mode, "fresh");
    assert.ok(chunks.slice(0, -1).every((chunk) => chunk.usage == null));
  });

  it("the SDK's own accumulation of a stream", async () => {
    const stream = client.chat.completions.stream(asked("accumulate this"));
    const completion = await stream.finalChatCompletion();
    assert.equal(completion.choices[0].message.content, "You said: accumulate this");
    assert.equal(completion.choices[0].finish_reason, "stop");
  });

  it("a stream that is left half-way does not harm the next request", async () => {
    const stream = await client.chat.completions.create(asked("leave me", { model: "test/slow-chunks", stream: true }));
    for await (const chunk of stream) {
      assert.ok(chunk.id);
      break;
    }
    assert.ok(stream.controller.signal.aborted);
    const next = await client.chat.completions.create(asked("still there"));
    assert.equal(next.choices[0].message.content, "You said: still there");
  });

  it("an identical request is replayed for a quarter of the price", async () => {
    const request = asked("replay for node", { temperature: 0 });
    const first = await client.chat.completions.create(request).withResponse();
    const again = await client.chat.completions.create(request).withResponse();
    assert.equal(again.response.headers.get("x-served-mode"), "exact");
    assert.deepEqual(again.data.choices, first.data.choices);
    assert.deepEqual(again.data.usage, first.data.usage);
    const cost = ({ response }) => Math.round(Number(response.headers.get("x-cost-usd")) * 1e9);
    assert.equal(cost(again) * 4, cost(first));
    const streamed = await textOf(await client.chat.completions.create({ ...request, stream: true }));
    assert.equal(streamed, first.data.choices[0].message.content);
  });
});

describe("tools", () => {
  const tools = [zodFunction({ name: "get_weather", parameters: Weather })];
  const call = { city: "scripted", days: 7 };

  it("plain", async () => {
    const completion = await client.chat.completions.parse(asked("weather, plain", { tools }));
    const [toolCall] = completion.choices[0].message.tool_calls;
    assert.equal(completion.choices[0].finish_reason, "tool_calls");
    assert.equal(completion.choices[0].message.content, null);
    assert.equal(toolCall.function.name, "get_weather");
    assert.deepEqual(toolCall.function.parsed_arguments, call);
  });

  it("as deltas, put together by the SDK", async () => {
    const pieces = [];
    const stream = client.chat.completions
      .stream(asked("weather, streamed", { tools }))
      .on("tool_calls.function.arguments.delta", (event) => pieces.push(event.arguments_delta));
    const completion = await stream.finalChatCompletion();
    const [toolCall] = completion.choices[0].message.tool_calls;
    assert.ok(pieces.length > 2, "the arguments came in pieces");
    assert.equal(pieces.join(""), toolCall.function.arguments);
    assert.deepEqual(toolCall.function.parsed_arguments, call);
  });

  it("the result of a tool goes back", async () => {
    const first = await client.chat.completions.create(asked("weather, then words", { tools }));
    const message = first.choices[0].message;
    const completion = await client.chat.completions.create({
      model: "test/ok",
      tools,
      messages: [
        { role: "user", content: "weather, then words" },
        message,
        { role: "tool", tool_call_id: message.tool_calls[0].id, content: "sunny all week" },
      ],
    });
    assert.equal(completion.choices[0].message.content, "You said: sunny all week");
  });
});

describe("response_format", () => {
  it("json_object", async () => {
    const completion = await client.chat.completions.create(
      asked("json please", { response_format: { type: "json_object" } }),
    );
    assert.deepEqual(JSON.parse(completion.choices[0].message.content), { echo: "json please" });
  });

  it("json_schema, parsed", async () => {
    const response_format = zodResponseFormat(Order, "order");
    const completion = await client.chat.completions.parse(asked("order, plain", { response_format }));
    assert.deepEqual(completion.choices[0].message.parsed, { dish: "soup", portions: 7, notes: ["scripted"] });
  });

  it("json_schema, streamed and parsed", async () => {
    const response_format = zodResponseFormat(Order, "order");
    const stream = client.chat.completions.stream(asked("order, streamed", { response_format }));
    const completion = await stream.finalChatCompletion();
    assert.equal(completion.choices[0].message.parsed.dish, "soup");
  });
});

describe("models", () => {
  it("are listed", async () => {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    assert.ok(ids.includes("test/ok"));
    assert.ok(ids.includes("gpt-4o-mini"));
    assert.equal(new Set(ids).size, ids.length);
  });

  it("are found one by one, also with a slash in the name", async () => {
    const model = await client.models.retrieve("test/ok");
    assert.deepEqual([model.id, model.object, model.owned_by], ["test/ok", "model", "tallygate-tests"]);
  });

  it("an unknown one is NotFoundError", async () => {
    await assert.rejects(client.models.retrieve("no-such-model"), OpenAI.NotFoundError);
  });
});

describe("errors", () => {
  const refusedWith = (kind, status, code) => (error) => {
    assert.ok(error instanceof kind, `${error.constructor.name}: ${error.message}`);
    assert.equal(error.status, status);
    assert.equal(error.code, code);
    assert.ok(error.message.length > 10);
    return true;
  };
  const ask = (who, more = {}) => who.chat.completions.create(asked("refuse me", more));

  for (const stream of [false, true]) {
    const how = stream ? "streamed" : "plain";

    it(`no such key, ${how}`, () =>
      assert.rejects(
        ask(clientFor("tg-nobody-ever-had-this-key"), { stream }),
        refusedWith(OpenAI.AuthenticationError, 401, "invalid_api_key"),
      ));

    it(`a revoked key, ${how}`, () =>
      assert.rejects(
        ask(clientFor(keys.revoked), { stream }),
        refusedWith(OpenAI.AuthenticationError, 401, "invalid_api_key"),
      ));

    it(`a model that the key may not use, ${how}`, () =>
      assert.rejects(
        ask(clientFor(keys.limited), { stream }),
        refusedWith(OpenAI.PermissionDeniedError, 403, "model_not_allowed"),
      ));

    it(`an empty balance, ${how}`, () =>
      assert.rejects(ask(clientFor(keys.poor), { stream }), refusedWith(OpenAI.APIError, 402, "insufficient_balance")));

    it(`an unknown model, ${how}`, () =>
      assert.rejects(
        ask(client, { model: "no-such-model", stream }),
        refusedWith(OpenAI.NotFoundError, 404, "model_not_found"),
      ));

    it(`a request that is none, ${how}`, () =>
      assert.rejects(
        ask(client, { messages: "hello", stream }),
        refusedWith(OpenAI.BadRequestError, 400, "invalid_request"),
      ));

    it(`a request that the source refuses, ${how}`, () =>
      assert.rejects(
        ask(client, { model: "test/400", stream }),
        refusedWith(OpenAI.BadRequestError, 400, "upstream_rejected"),
      ));

    it(`sources that are called too often, ${how}`, () =>
      assert.rejects(
        ask(client, { model: "test/429", stream }),
        refusedWith(OpenAI.RateLimitError, 429, "upstream_rate_limited"),
      ));

    it(`sources that fail, ${how}`, () =>
      assert.rejects(
        ask(client, { model: "test/500", stream }),
        refusedWith(OpenAI.InternalServerError, 502, "upstream_error"),
      ));
  }

  for (const model of ["test/cut", "test/error-mid-stream"]) {
    it(`a stream that breaks off: ${model}`, async () => {
      const stream = await ask(client, { model, stream: true });
      let text = "";
      await assert.rejects(
        async () => {
          for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
        },
        (error) => error instanceof OpenAI.APIError && error.code === "upstream_error",
      );
      assert.equal(text, "You said:");
    });
  }
});
