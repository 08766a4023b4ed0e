import { createGuard } from "../../guard.ts";
import type { GuardOptions } from "../../options.ts";
import { QUOTAGUARD_OPTIONS } from "../quota-guard-module.ts";
import { QuotaGuardService } from "../quota-guard-service.ts";

/** The part of Nest's `TestingModuleBuilder` that is used here. */
interface Overridable<Builder> {
  overrideProvider(token: unknown): {
    useFactory(options: { readonly factory: (options: GuardOptions) => unknown; readonly inject: unknown[] }): Builder;
  };
}

/**
 * Runs an app's tests without its servers: the app's own options with store and ledger in memory, and with whatever else `changes` says. With a `testClock()`
 * of quotaguard/testing as `clock` a test moves through days; `module.get(QuotaGuardService)` tells what is left.
 *
 * @example
 * ```ts
 * const clock = testClock();
 * const module = await withMemoryStore(Test.createTestingModule({ imports: [AppModule] }), { clock }).compile();
 * ```
 */
export function withMemoryStore<Builder extends Overridable<Builder>>(builder: Builder, changes: GuardOptions = {}): Builder {
  return builder.overrideProvider(QuotaGuardService).useFactory({
    factory: (options) => {
      const { ledger: _, ...own } = options;
      return new QuotaGuardService(createGuard({ ...own, store: { url: "memory" }, ...changes }));
    },
    inject: [QUOTAGUARD_OPTIONS],
  });
}
