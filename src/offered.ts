import type { ResolvedOptions } from "./options/resolved.ts";
import type { Candidate } from "./pool/candidate.ts";
import { modelCatalogue, type ModelCatalogue } from "./pool/catalogue.ts";
import { credentialSet, type ChangingCredentials } from "./pool/credential-set.ts";
import { offers, type Offers } from "./pool/offers.ts";
import { familyOf } from "./upstream/family.ts";
import { rowOf } from "./upstream/providers.ts";

/** What is offered, and by whom: known before the store is. */
export interface Offered {
  readonly credentials: ChangingCredentials;
  readonly offers: Offers;
  readonly catalogue: ModelCatalogue;
}

type Options = Pick<ResolvedOptions, "credentials" | "models" | "modelAlias" | "router">;

export function offeredBy({ credentials: configured, models, modelAlias: aliases, router }: Options): Offered {
  const credentials = credentialSet(configured);
  const catalogue = modelCatalogue(credentials);
  return { credentials, catalogue, offers: offers({ credentials, models, aliases, lists: catalogue, chains: router.fallbackChains, kindsOf }) };
}

/** What fallback chains know a candidate's provider by, the narrowest name first: its row, the family of the model, the dialect that it is asked in. */
function kindsOf({ credential, model }: Candidate): readonly string[] {
  const row = rowOf(credential);
  return [credential.provider, familyOf(row, model), row.dialect];
}
