// A Postgres of one's own: to kill, to freeze, to start again.
import { rmSync } from "node:fs";

import { initPostgres, servePostgres } from "../../setup/postgres.ts";
import { freePort } from "../../setup/server-process.ts";

export interface PostgresProcess {
  readonly url: string;
  readonly port: number;
  /** Like `stop -m immediate`: all its processes end without a checkpoint; the next start recovers from the log. */
  crash(): Promise<void>;
  /** SIGSTOP of the server's first process: new connections are not answered, old ones are served on. */
  freeze(): void;
  thaw(): void;
  restart(): Promise<void>;
  stop(): Promise<void>;
}

/** Starts one that keeps what it acknowledged. `settings` are `name=value`. */
export async function postgresProcess(settings: readonly string[] = []): Promise<PostgresProcess> {
  const files = await initPostgres();
  const port = await freePort();
  const start = () => servePostgres(files, port, settings, true);
  let running = await start();
  const crash = async (): Promise<void> => {
    running.signal("SIGQUIT");
    await running.gone;
    await running.stop();
  };
  return {
    url: running.url,
    port,
    crash,
    freeze: () => running.signal("SIGSTOP"),
    thaw: () => running.signal("SIGCONT"),
    async restart() {
      await crash();
      running = await start();
    },
    async stop() {
      running.signal("SIGCONT");
      await running.stop();
      rmSync(files.folder, { recursive: true, force: true });
    },
  };
}
