import { Lifeline, type LifelineOptions } from "./lifeline.ts";
import type { Session } from "./session.ts";
import { troubleOf } from "./trouble.ts";

export interface SubscriberOptions extends Pick<LifelineOptions, "dial" | "clock" | "random"> {
  readonly channel: string;
  onMessage(message: string): void;
  /** The channel is open (again). What was said before is not heard any more. */
  onOpen(): void;
  /** The server does not let us listen. */
  onRefused(error: unknown): void;
}

export interface Subscriber {
  /** Resolves when it listens, or cannot for now. Never rejects: it goes on trying. */
  start(): Promise<void>;
  /** Dials anew: a connection on which nothing comes. */
  renew(): void;
  stop(): void;
}

/** Listens to a channel on a connection of its own, for as long as it is not stopped. */
export function subscriber({ dial, clock, random, channel, onMessage, onOpen, onRefused }: SubscriberOptions): Subscriber {
  let started: (() => void) | undefined;

  async function listen({ client }: Session): Promise<void> {
    client.on("message", (_channel: string, message: string) => onMessage(message));
    try {
      await client.subscribe(channel);
    } catch (error) {
      // Not a reason to dial again and again: the beats tell that something was written.
      if (troubleOf(error).kind !== "refused") throw error;
      onRefused(error);
    }
  }

  const lifeline = new Lifeline({
    dial,
    clock,
    random,
    check: listen,
    onUp() {
      started?.();
      onOpen();
    },
    onDown: () => started?.(),
  });

  return {
    start() {
      return new Promise((resolve) => {
        started = resolve;
        lifeline.start();
      });
    },
    renew() {
      if (lifeline.session) lifeline.lose(lifeline.session, new Error("messages were lost"));
    },
    stop: () => lifeline.stop(),
  };
}
