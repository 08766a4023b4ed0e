import type { QuotaReading } from "../../core/credential.ts";

/**
 * `ok`: it said what is left · `needs-login`: it does not accept the login · `limited`: it was asked too often · `unknown`: it says nothing of quotas ·
 * `failed`: no answer, or none that can be read.
 */
export type Outcome =
  | { readonly kind: "ok"; readonly readings: readonly QuotaReading[] }
  | { readonly kind: "needs-login"; readonly reason: string }
  | { readonly kind: "limited"; readonly reason: string; readonly waitMs: number | null }
  /** `isMissing` = there is nobody to ask. */
  | { readonly kind: "unknown"; readonly reason: string; readonly isMissing: boolean }
  | { readonly kind: "failed"; readonly reason: string };
