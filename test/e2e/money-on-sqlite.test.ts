// What is held, charged and billed is the same when it is kept in a file.
import { describe } from "vitest";
import { keepIn, onSqlite } from "../helpers/place.ts";

keepIn(onSqlite);

describe("budgets", async () => void (await import("./budgets.test.ts")));
describe("money", async () => void (await import("./money.test.ts")));
describe("prices", async () => void (await import("./price-rules.test.ts")));
describe("settlement", async () => void (await import("./settlement.test.ts")));
