import { describe, expect, test } from "vitest";
import type { Call } from "../../../src/core/call.ts";
import type { Context } from "../../../src/core/context.ts";
import { refuseStored } from "../../../src/middleware/credentials/stored-conversations.ts";
import { refusalOf } from "../../core/context-kit.ts";

const tenant = { principal: { kind: "key", name: "alice" } } as unknown as Context;
const call = (body: object, dialect = "responses") => ({ dialect, body }) as unknown as Call;

describe("a conversation that a provider keeps", () => {
  test.each([
    ["previous_response_id", { previous_response_id: "resp_1", input: "hi" }],
    ["conversation", { conversation: { id: "conv_1" }, input: "hi" }],
    [
      "input[1]",
      {
        input: [
          { role: "user", content: "hi" },
          { type: "item_reference", id: "msg_1" },
        ],
      },
    ],
  ])("%s is refused to a tenant: the account is lent to many", (field, body) => {
    expect(refusalOf(() => refuseStored(tenant, call(body)))).toMatchObject({ code: "untranslatable", status: 422, param: field });
  });

  test("the host's own calls have no tenant, and everything else passes", () => {
    const body = { previous_response_id: "resp_1" };
    expect(() => refuseStored({} as Context, call(body))).not.toThrow();
    expect(() => refuseStored(tenant, call(body, "openai"))).not.toThrow();
    expect(() => refuseStored(tenant, call({ input: [null, 5, { type: "message" }], previous_response_id: null }))).not.toThrow();
  });
});
