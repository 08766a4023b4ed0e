/** A LiteLLM file looks like ours at first glance. It is refused as a whole, with the names that its options have here. */

const COUNTERPARTS: readonly (readonly [key: string, counterpart: string])[] = [
  ["model_list", "models (name, model, credential, price) and credentials (name, provider, api_key, base_url)"],
  ["model_list[].model_name", "models[].name"],
  ["model_list[].litellm_params.model", "models[].model, without the provider's prefix"],
  ["model_list[].litellm_params.api_key", "credentials[].api_key"],
  ["model_list[].litellm_params.api_base", "credentials[].base_url"],
  ["model_list[].litellm_params.rpm", "limits with unit: requests"],
  ["model_list[].litellm_params.tpm", "limits with unit: tokens"],
  ["model_list[].model_info", "models[].price and models[].max_output_tokens"],
  ["router_settings", "router and resilience (num_retries is resilience.max_retries, model_group_alias is model_alias)"],
  ["litellm_settings", "resilience (request_timeout is server.request_timeout) and limits (max_budget is a window with unit: usd)"],
  ["general_settings", "server.master_key (master_key) and ledger.url (database_url)"],
  ["environment_variables", "a .env file beside the config"],
];

type Fields = Readonly<Record<string, unknown>>;

const isObject = (value: unknown): value is Fields => typeof value === "object" && value !== null && !Array.isArray(value);

function has(value: unknown, parts: readonly string[]): boolean {
  const [part, ...rest] = parts;
  if (part === undefined) return true;
  if (Array.isArray(value)) return value.some((item) => has(item, parts));
  return isObject(value) && Object.hasOwn(value, part) && has(value[part], rest);
}

/** Lines that translate a LiteLLM file; undefined when it is not one. `options` is the file as read: its first level is already in camelCase. */
export function liteLlmProblems(options: Fields): readonly string[] | undefined {
  if (!Object.hasOwn(options, "modelList")) return undefined;
  const used = COUNTERPARTS.filter(([key]) => {
    const [first, ...rest] = key.replaceAll("[]", "").split(".") as [string, ...string[]];
    return has(options, [first.replace(/_([a-z])/g, (_match, letter: string) => letter.toUpperCase()), ...rest]);
  });
  return [
    "model_list: this is a LiteLLM configuration, which quotaguard does not read",
    ...used.map(([key, counterpart]) => `${key} is here: ${counterpart}`),
  ];
}
