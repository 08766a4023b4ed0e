import { Module, type DynamicModule } from "@nestjs/common";
import OpenAI from "openai";
import { QuotaGuardModule } from "quotaguard/nest";
import type { LoggedIn } from "./login-guard.js";
import { OPENAI, SummariesController } from "./summaries.controller.js";

export interface AppOptions {
  /** Where the provider is. */
  readonly upstream: string;
  /** The key of the gateway's client. */
  readonly key: string;
}

@Module({})
export class AppModule {
  static forRoot({ upstream, key }: AppOptions): DynamicModule {
    return {
      module: AppModule,
      imports: [
        QuotaGuardModule.forRoot({
          // One line makes the gateway; the rest is about whom it serves, with what, and how much.
          mount: "/llm",
          auth: { keys: [{ name: "carol", key, scopes: { user: "carol" } }] },
          // Put your own `apiKey` here and drop `baseUrl` for the real one.
          credentials: [{ name: "scripted", provider: "openai", apiKey: "sk-not-a-real-key", baseUrl: upstream }],
          // On the app's own routes the login says who it is.
          scopes: (req: LoggedIn) => ({ user: req.user?.id }),
          models: [{ name: "gpt-4o", price: { inputPerMtok: 2.5, outputPerMtok: 10 } }],
          limits: [{ name: "user-day", scope: "user", unit: "usd", window: { limit: 0.02, per: "day" } }],
          store: { url: "memory" },
        }),
      ],
      controllers: [SummariesController],
      providers: [{ provide: OPENAI, useValue: new OpenAI({ apiKey: "sk-not-a-real-key", baseURL: `${upstream}/v1` }) }],
    };
  }
}
