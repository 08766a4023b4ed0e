import { ConfigError, GuardError } from "./core/errors.ts";
import type { PluginSecrets } from "./core/plugin.ts";
import type { SecretBox } from "./core/secret-box.ts";
import { Secret } from "./core/secret.ts";
import type { RecordStore } from "./core/store.ts";
import { checkKey, checkPrefix, checkRecord } from "./plugin-records.ts";

/** Tokens and passwords, not files. */
const MOST_CHARACTERS = 65_536;

/** What stands in the database. */
interface Sealed {
  readonly sealed: string;
}

function sealedIn(value: unknown): string | undefined {
  const sealed = typeof value === "object" && value !== null ? (value as Partial<Sealed>).sealed : undefined;
  return typeof sealed === "string" ? sealed : undefined;
}

/** Encrypted records below one place, apart from the plugin's plain ones. `box` throws ConfigError when there is no key. */
export function pluginSecrets(plugin: string, records: RecordStore, box: () => SecretBox): PluginSecrets {
  const root = `plugin-secrets/${plugin}/`;
  const inside = (key: string): string => root + checkKey(plugin, key);
  return {
    async get(key) {
      const place = inside(key);
      const record = await records.get(place);
      if (record === undefined) return undefined;
      const sealed = sealedIn(record.value);
      if (sealed === undefined) throw new GuardError("internal", `the secret ${place} was changed in the database; store the value anew`);
      return box().open(sealed, place);
    },

    async put(key, given, options = {}) {
      const place = inside(key);
      const text = given instanceof Secret ? given.reveal() : given;
      if (typeof text !== "string" || text === "" || text.length > MOST_CHARACTERS) {
        throw new ConfigError([`the plugin ${plugin}: the secret ${key} must be text of 1 to ${MOST_CHARACTERS} characters, or a Secret`]);
      }
      const value: Sealed = { sealed: box().seal(text, place) };
      checkRecord(plugin, key, value, options);
      await records.put(place, value, options);
    },

    async delete(key) {
      return records.delete(inside(key));
    },

    async keys(prefix = "") {
      const found = await records.list(root + checkPrefix(plugin, prefix));
      return found.map(({ key }) => key.slice(root.length));
    },
  };
}
