import type { QuotaGuard } from "../guard.ts";
import { wildcardMount } from "./wildcard-mount.ts";

/** An empty object that the constructor below makes a guard of. */
const Empty = Object as unknown as new () => QuotaGuard;

/** The guard of the app, to inject: all of {@link QuotaGuard}, under the same names. */
export class QuotaGuardService extends Empty {
  constructor(guard: QuotaGuard) {
    super();
    // What the guard learns later, this knows without a line here.
    Object.defineProperties(this, Object.getOwnPropertyDescriptors(guard));
    this.handler = (more) => wildcardMount(guard.handler(more));
  }
}
