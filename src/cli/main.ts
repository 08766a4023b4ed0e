#!/usr/bin/env node
/** The `quotaguard` command: one file per subcommand, loaded only when it is asked for. */
import { Command } from "commander";
import { awake } from "../core/awake.ts";
import { systemClock } from "../core/time.ts";
import { VERSION } from "../core/version.ts";
import { EXIT_USAGE, reportFailure, type CommonFlags } from "./output.ts";
import type { AuditFlags } from "./audit.ts";
import type { ExplainFlags } from "./explain.ts";
import type { CreateFlags } from "./keys.ts";
import type { SetFlags } from "./limits.ts";
import type { PriceImportFlags, PriceListFlags } from "./prices.ts";
import type { ServeFlags } from "./serve.ts";
import type { UsageFlags } from "./usage.ts";

const program = new Command("quotaguard")
  .description("LLM quota, routing and billing. Without an app around it: `quotaguard serve`.")
  .version(VERSION)
  .showSuggestionAfterError()
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : EXIT_USAGE));

const common = (command: Command): Command =>
  command.option("-c, --config <path>", "configuration file").option("--json", "print JSON").option("--no-color", "print without colours");

common(program.command("serve").description("run the gateway as a server of its own"))
  .option("--host <address>", "address to listen on")
  .option("--port <number>", "port to listen on; 0 takes a free one")
  .action(async (flags: ServeFlags) => {
    const { serve } = await import("./serve.ts");
    await serve(flags);
  });

common(program.command("check").description("check the configuration, the store and each credential")).action(async (flags: CommonFlags) => {
  const { check } = await import("./check.ts");
  process.exitCode = await check(flags);
});

common(program.command("models").description("list the models that clients may ask for, and who serves them")).action(async (flags: CommonFlags) => {
  const { models } = await import("./models.ts");
  process.exitCode = await models(flags);
});

common(program.command("quotas").description("show what is left of each account's quotas, and when they are whole again")).action(
  async (flags: CommonFlags) => {
    const { quotas } = await import("./quotas.ts");
    process.exitCode = await quotas(flags, systemClock.now());
  },
);

common(
  program.command("explain [id]").description("say why a past request (by its x-request-id) was decided as it was, or what would become of a call"),
)
  .option("--key <name>", "whose call: the name of a client's key, or the key itself")
  .option("--scope <scope=value...>", "or the scopes that it has, such as user=alice")
  .option("--model <name>", "the model that it asks for")
  .option("--max-tokens <number>", "the cap that it names")
  .option("--text <text>", "what it says")
  .option("--body <file>", "its whole body, as JSON in a file")
  .option("--stream", "it streams")
  .option("--dialect <name>", "openai, anthropic, responses or gemini")
  .action(async (id: string | undefined, flags: ExplainFlags) => {
    const { explain } = await import("./explain.ts");
    process.exitCode = await explain(id, flags, systemClock.now());
  });

common(program.command("audit").description("go through the ledger and name each row that was altered or does not balance"))
  .option("--from <date>", "only requests from then on, such as 2026-11-01")
  .option("--to <date>", "only requests before then")
  .action(async (flags: AuditFlags) => {
    const { audit } = await import("./audit.ts");
    process.exitCode = await audit(flags);
  });
common(
  program
    .command("usage")
    .description("show what was used and what it cost, by the ledger: of this month (UTC) by day, unless told otherwise")
    .option("--from <date>", "from this time on, such as 2026-11-01")
    .option("--to <date>", "before this time")
    .option("--group-by <names>", "day, org, team, user, key, model, provider, credential, route, tag, scope.<name>; several separated by commas")
    .option("--org <name>", "of this org only; so with the others")
    .option("--team <name>")
    .option("--user <name>")
    .option("--key <name>", "name of a client's key")
    .option("--model <name>", "as clients name it")
    .option("--provider <name>")
    .option("--credential <name>")
    .option("--route <path>")
    .option("--tag <text>")
    .option("--scope <scope=value...>", "any other scope, such as role=dev")
    .option("--csv", "print CSV"),
).action(async (flags: UsageFlags) => {
  const { usage } = await import("./usage.ts");
  process.exitCode = await usage(flags, systemClock.now());
});

const prices = program.command("prices").description("what models cost here, and who says so");
common(prices.command("list").description("list the price of each model at each credential"))
  .option("--model <name>", "only this model, or those of a pattern")
  .option("--org <name>", "as it is for this org")
  .action(async (flags: PriceListFlags) => {
    const { listPrices } = await import("./prices.ts");
    process.exitCode = await listPrices(flags);
  });
common(prices.command("import <file>").description("check a price list (a path or URL), and show what it would change"))
  .option("--write", "save it as the first path in prices.files")
  .action(async (file: string, flags: PriceImportFlags) => {
    const { importPrices } = await import("./prices.ts");
    process.exitCode = await importPrices(file, flags);
  });

const keys = program.command("keys").description("keys of clients, kept in the database");
common(keys.command("create [name]").description("make a key and print it, this once"))
  .option("--org <name>", "organisation that it belongs to; made when there is none")
  .option("--scope <scope=value...>", "scopes of its requests, such as user=alice")
  .option("--models <patterns>", "models that it may use, separated by commas")
  .option("--expires <date>", "when it ends, such as 2027-01-01")
  .option("--may-assert-scopes", "let its requests name their scopes by header")
  .action(async (name: string | undefined, flags: CreateFlags) => {
    const { createKey } = await import("./keys.ts");
    process.exitCode = await createKey(name, flags);
  });
common(keys.command("list").description("list the keys, without what they are")).action(async (flags: CommonFlags) => {
  const { listKeys } = await import("./keys.ts");
  process.exitCode = await listKeys(flags);
});
common(keys.command("rotate <name>").description("give a name another key and print it, this once"))
  .option("--overlap <duration>", "how long the key before it works, such as 24h; without it, it ends at once")
  .action(async (name: string, flags: CommonFlags & { readonly overlap?: string }) => {
    const { rotateKey } = await import("./keys.ts");
    process.exitCode = await rotateKey(name, flags);
  });
common(keys.command("revoke <name>").description("end all keys of a name")).action(async (name: string, flags: CommonFlags) => {
  const { revokeKey } = await import("./keys.ts");
  process.exitCode = await revokeKey(name, flags);
});

const limits = program.command("limits").description("limits, what of them is set at run time, and whom they would refuse");
common(limits.command("list").description("list the limits, and what was set")).action(async (flags: CommonFlags) => {
  const { listLimits } = await import("./limits.ts");
  process.exitCode = await listLimits(flags);
});
common(
  limits.command("set <limit> [value]").description("set other numbers for one value (set org-month acme --limit 2000), or change the whole limit"),
)
  .option("--mode <mode>", "enforce or shadow, for the whole limit; what is counted stays counted")
  .option("--enforce-from <date>", "shadow until then, for the whole limit")
  .option("--limit <number>", "the limit, in its unit, USD for money; -1 = unlimited")
  .option("--capacity <number>", "the same, of a bucket")
  .option("--refill-per-sec <number>", "of a bucket")
  .option("--until <date>", "when it ends, such as 2027-01-01; for one value")
  .action(async (name: string, value: string | undefined, flags: SetFlags) => {
    const { setLimit } = await import("./limits.ts");
    process.exitCode = await setLimit(name, value, flags);
  });
common(limits.command("reset <limit> [value]").description("back to what the configuration says: one value, or the whole limit")).action(
  async (name: string, value: string | undefined, flags: CommonFlags) => {
    const { resetLimit } = await import("./limits.ts");
    process.exitCode = await resetLimit(name, value, flags);
  },
);
common(limits.command("shadow <limit>").description("who would have been refused within 30 days, while it only watched")).action(
  async (name: string, flags: CommonFlags) => {
    const { showShadow } = await import("./shadow.ts");
    process.exitCode = await showShadow(name, flags);
  },
);

// Whoever reads may stop reading (`| head`): no reason to fail.
for (const stream of [process.stdout, process.stderr]) {
  stream.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code !== "EPIPE") throw error;
  });
}

awake(program.parseAsync()).catch((error: unknown) => {
  process.exitCode = reportFailure(error, process.argv.includes("--json"));
});
