/**
 * One candidate in a process of its own: takes jobs over HTTP and answers with what it measured.
 * Arguments: what it is, the URL of Redis ("" = none), a folder for its files.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { join } from "node:path";
import { performance } from "node:perf_hooks";
import { json } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { Redis } from "ioredis";
import { memoryStore, type Store } from "quotaguard";
import { sqliteStore } from "quotaguard/stores/sqlite";
import { serve } from "../targets/serve.ts";
import { flexibleLimiters } from "./flexible-limiters.ts";
import type { Contender, Job, JobResult } from "./job.ts";
import { limitJobs } from "./limit-jobs.ts";
import { Meter } from "./meter.ts";
import { serverTime } from "./redis-server.ts";

const [, , id = "", redisUrl = "", folder = "."] = process.argv;
/** Stores in this process never wait, and promises alone let no timer fire: their callers look at the time. */
const answersAtOnce = id === "memory" || id === "sqlite";
const admin = redisUrl === "" ? null : new Redis(redisUrl);

async function contender(): Promise<Contender> {
  switch (id) {
    case "memory":
      return limits(memoryStore());
    case "sqlite":
      return limits(sqliteStore(join(folder, "limits.db")));
    case "redis": {
      const { redisStore } = await import("quotaguard/stores/redis");
      return limits(redisStore(redisUrl, { partition: "bench" }));
    }
    case "flexible":
      return flexibleLimiters(redisUrl);
    default:
      throw new Error(`there is no contender ${id}`);
  }
}

async function limits(store: Store): Promise<Contender> {
  await store.ready();
  return { ...limitJobs(store.limits), close: async () => store.close() };
}

const mine = await contender();

async function work(job: Job): Promise<JobResult> {
  const meter = new Meter(admin === null ? async () => null : serverTime(admin));
  const measured = answersAtOnce ? blocking(job, meter) : waiting(job, meter);
  const result = await measured;
  try {
    await mine.tidy();
    return result;
  } catch (error) {
    return { ...result, failures: [...result.failures, [`tidying up: ${error instanceof Error ? error.message : String(error)}`, 1]] };
  }
}

/** Keeps the thread to itself: it looks at the time, because no timer could tell it. */
async function blocking(job: Job, meter: Meter): Promise<JobResult> {
  const runFor = (ms: number): Promise<void> => {
    const endMs = performance.now() + ms;
    return mine.run(job, meter, () => performance.now() >= endMs);
  };
  await runFor(job.warmUpMs);
  await meter.begin();
  await runFor(job.measureMs);
  return meter.end();
}

async function waiting(job: Job, meter: Meter): Promise<JobResult> {
  let stopping = false;
  const running = mine.run(job, meter, () => stopping);
  await sleep(job.warmUpMs);
  await meter.begin();
  await sleep(job.measureMs);
  const result = await meter.end();
  stopping = true;
  await running;
  return result;
}

function answer(req: IncomingMessage, res: ServerResponse): void {
  const done = (status: number, body: unknown): void => void res.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
  json(req)
    .then((job) => work(job as Job))
    .then((result) => done(200, result))
    .catch((error: unknown) => done(500, { error: error instanceof Error ? error.message : String(error) }));
}

serve(answer, async () => {
  admin?.disconnect();
  await mine.close();
});
