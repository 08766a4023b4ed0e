// What an app's own tests look like: no servers, and time that the test moves.
import "reflect-metadata";
import { Controller, Module, Post } from "@nestjs/common";
import { Test } from "@nestjs/testing";
import { expect, test } from "vitest";
import { Budget, QuotaGuardModule, QuotaGuardService } from "quotaguard/nest";
import { withMemoryStore } from "quotaguard/nest/testing";
import { testClock } from "quotaguard/testing";
import { closingAll, later, listening, post } from "../nest-kit.ts";

closingAll();

@Controller()
class Summaries {
  @Post("summarise")
  @Budget({ limits: ["user-day"], cost: 0.4 })
  summarise() {
    return "summary";
  }
}

/** An app as it is deployed: its servers are not there when its tests run. */
@Module({
  imports: [
    QuotaGuardModule.forRootAsync({
      useFactory: () => ({
        store: { url: "redis://127.0.0.1:1" },
        ledger: { url: "postgres://nobody@127.0.0.1:1/none" },
        scopes: (req) => ({ user: req.headers["x-login"] as string }),
        limits: [{ name: "user-day", scope: "user", unit: "usd", window: { limit: 1, per: "day" } }],
        secrets: { key: "a-secret-key-of-32-characters-or-more" },
      }),
    }),
  ],
  controllers: [Summaries],
})
class AppModule {}

test("the app's own limits, in memory, on a clock of the test's", async () => {
  const clock = testClock();
  const module = await withMemoryStore(Test.createTestingModule({ imports: [AppModule] }), { clock }).compile();
  const app = later(module.createNestApplication({ logger: false }));
  const url = await listening(app);
  const guard = app.get(QuotaGuardService);
  const left = async (): Promise<unknown> =>
    (await guard.remaining({ user: "alice" })).map(({ name, available, held }) => ({ name, available, held }));

  expect([(await post(`${url}/summarise`, "alice")).status, (await post(`${url}/summarise`, "alice")).status]).toEqual([201, 201]);
  expect(await left()).toEqual([{ name: "user-day", available: 0.2, held: 0 }]);
  expect((await post(`${url}/summarise`, "alice")).status).toBe(429);
  clock.advance(24 * 3_600_000);
  expect(await left()).toEqual([{ name: "user-day", available: 1, held: 0 }]);
  expect((await post(`${url}/summarise`, "alice")).status).toBe(201);
});
