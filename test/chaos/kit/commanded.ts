/** The other side of `fleet`: does what the test says, one answer per command, and keeps count of what nobody caught. */
export function commanded(commands: Readonly<Record<string, (about: never) => unknown>>): void {
  const uncaught: string[] = [];
  for (const event of ["unhandledRejection", "uncaughtException"] as const) {
    process.on(event, (error: unknown) => void uncaught.push(error instanceof Error ? (error.stack ?? error.message) : String(error)));
  }
  const all: Readonly<Record<string, (about: never) => unknown>> = { hello: () => process.pid, uncaught: () => uncaught, ...commands };
  process.on("message", ({ id, command, about }: { id: number; command: string; about: never }) => {
    const answer = async (): Promise<unknown> => {
      const run = all[command];
      if (!run) throw new Error(`there is no command ${command}`);
      return run(about);
    };
    answer().then(
      (value) => process.send?.({ id, value }),
      (error: unknown) => process.send?.({ id, error: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
    );
  });
  // Whoever gave the commands is gone, and so is the reason to be here.
  process.once("disconnect", () => process.exit(0));
}
