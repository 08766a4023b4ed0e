import type { DatabaseSync, SQLInputValue } from "node:sqlite";

import { Kysely, SqliteDialect } from "kysely";

import type { Database } from "../sql/schema.ts";

/** Kysely over a connection of node:sqlite. Never destroyed through Kysely: the connection belongs to whoever opened it. */
export function kyselyOver(db: DatabaseSync): Kysely<Database> {
  return new Kysely<Database>({
    dialect: new SqliteDialect({
      database: {
        close: () => {},
        prepare(sql) {
          const statement = db.prepare(sql);
          // As numbers, sums above 2^53 would be an error instead of a value.
          statement.setReadBigInts(true);
          const values = (parameters: readonly unknown[]): SQLInputValue[] => parameters as SQLInputValue[];
          return {
            reader: statement.columns().length > 0,
            all: (parameters) => statement.all(...values(parameters)),
            run: (parameters) => statement.run(...values(parameters)),
            iterate: (parameters) => statement.iterate(...values(parameters)),
          };
        },
      },
    }),
  });
}

/** Runs `fn` in one write transaction; a throw undoes all of it. The lock is taken first, so that the work cannot fail half-way for a busy file. */
export type Transact = <T>(fn: () => T) => T;

export function transactor(db: DatabaseSync): Transact {
  const begin = db.prepare("begin immediate");
  const commit = db.prepare("commit");
  return (fn) => {
    begin.run();
    try {
      const result = fn();
      commit.run();
      return result;
    } catch (error) {
      // Some errors (a full disk, for one) have already ended the transaction.
      if (db.isTransaction) db.exec("rollback");
      throw error;
    }
  };
}
