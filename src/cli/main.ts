#!/usr/bin/env node
/** The `quotaguard` command: one file per subcommand, loaded only when it is asked for. */
import { Command } from "commander";
import { awake } from "../core/awake.ts";
import { VERSION } from "../core/version.ts";
import { EXIT_USAGE, reportFailure, type CommonFlags } from "./output.ts";
import type { PriceImportFlags, PriceListFlags } from "./prices.ts";
import type { ServeFlags } from "./serve.ts";

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

// Whoever reads may stop reading (`| head`): no reason to fail.
for (const stream of [process.stdout, process.stderr]) {
  stream.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code !== "EPIPE") throw error;
  });
}

awake(program.parseAsync()).catch((error: unknown) => {
  process.exitCode = reportFailure(error, process.argv.includes("--json"));
});
