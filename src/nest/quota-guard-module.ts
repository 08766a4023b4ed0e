import {
  ConfigurableModuleBuilder,
  Inject,
  Logger,
  Module,
  type BeforeApplicationShutdown,
  type ConfigurableModuleAsyncOptions,
  type DynamicModule,
  type NestModule,
  type OnModuleInit,
  type Type,
} from "@nestjs/common";
import { ApplicationConfig, HttpAdapterHost, ModulesContainer } from "@nestjs/core";
import { loadConfig } from "../config/load.ts";
import { ConfigError } from "../core/errors.ts";
import { isPromise } from "../core/time.ts";
import { createGuard } from "../guard.ts";
import type { GuardOptions } from "../options.ts";
import { BudgetInterceptor } from "./budget-interceptor.ts";
import { nestLogger } from "./nest-logger.ts";
import { QuotaGuardService } from "./quota-guard-service.ts";
import { checkBudgets } from "./route-budgets.ts";

/** What `createGuard()` is given. */
export const QUOTAGUARD_OPTIONS = Symbol("quotaguard.nest.options");

const MOUNT = Symbol("quotaguard.nest.mount");

/** How the guard stands in the app. */
export interface QuotaGuardModuleExtras {
  /** Whether all modules may inject {@link QuotaGuardService} and use `@Budget()` without importing this one. Default true. */
  readonly isGlobal?: boolean;
  /**
   * Where the gateway answers, from the root: `/llm`; below the app's global prefix, too, and whatever its versions. Middleware of main.ts (`app.use()`) runs
   * before it, and so do Nest's body parsers; middleware of modules and Nest's guards do not. Larger requests than their 100 kB need
   * `app.useBodyParser("json", { limit: "10mb" })`, or `bodyParser: false`. Default: nowhere; `service.handler()` is middleware for any place.
   */
  readonly mount?: string | null;
}

export type QuotaGuardModuleOptions = GuardOptions & QuotaGuardModuleExtras;

/** With `useFactory`, `useClass` or `useExisting`; a class has a method `create()`. */
export type QuotaGuardModuleAsyncOptions = ConfigurableModuleAsyncOptions<GuardOptions> & QuotaGuardModuleExtras;

type Configurable = new () => object;

interface Statics {
  forRoot(options: QuotaGuardModuleOptions): DynamicModule;
  forRootAsync(options: QuotaGuardModuleAsyncOptions): DynamicModule;
}

const Configured = new ConfigurableModuleBuilder<GuardOptions>({ optionsInjectionToken: QUOTAGUARD_OPTIONS })
  .setClassMethodName("forRoot")
  .setExtras<QuotaGuardModuleExtras>({ isGlobal: true, mount: null }, (definition, { isGlobal = true, mount = null }) => ({
    ...definition,
    global: isGlobal,
    providers: [...(definition.providers ?? []), { provide: MOUNT, useValue: mount }],
  }))
  .build().ConfigurableModuleClass as unknown as Configurable & Statics;

/**
 * A guard for a Nest app on Express: its budgets by `@Budget()`, its gateway at `mount`. It waits for the store before the app listens, and on
 * shutdown (`app.close()`, or a signal under `enableShutdownHooks()`) for open requests, before Nest closes connections.
 *
 * On Fastify it stops the boot. In an app without HTTP (`createApplicationContext()`) the service does what needs no request.
 */
export class QuotaGuardModule extends Configured implements NestModule, OnModuleInit, BeforeApplicationShutdown {
  readonly #guard: QuotaGuardService;
  readonly #mount: string | null;
  readonly #host: HttpAdapterHost;
  readonly #config: ApplicationConfig;
  readonly #modules: ModulesContainer;

  constructor(guard: QuotaGuardService, mount: string | null, host: HttpAdapterHost, config: ApplicationConfig, modules: ModulesContainer) {
    super();
    this.#guard = guard;
    this.#mount = mount;
    this.#host = host;
    this.#config = config;
    this.#modules = modules;
  }

  /** Without options it reads file and environment, as `createGuard()` does. Mistakes in the options stop the boot. */
  static override forRoot(options: QuotaGuardModuleOptions = loadConfig()): DynamicModule {
    // Nest would copy what it has, and that is nothing.
    if (isPromise(options)) throw new ConfigError(["QuotaGuardModule.forRoot(): its options are a promise; use forRootAsync({ useFactory })"]);
    return super.forRoot(options);
  }

  static override forRootAsync(options: QuotaGuardModuleAsyncOptions): DynamicModule {
    return super.forRootAsync(options);
  }

  async configure(): Promise<void> {
    await this.#orNothing(() => this.#mountGateway());
  }

  async onModuleInit(): Promise<void> {
    await this.#orNothing(() => {
      this.#refuseFastify();
      this.#checkHandlers();
      return this.#guard.ready();
    });
  }

  /** Nest closes its server after this hook and would wait for open streams without end; the guard waits no longer than `server.shutdownTimeout`. */
  async beforeApplicationShutdown(): Promise<void> {
    await this.#guard.close();
  }

  /** A boot that fails leaves nothing open. */
  async #orNothing(step: () => void | Promise<void>): Promise<void> {
    try {
      await step();
    } catch (error) {
      await this.#guard.close();
      throw error;
    }
  }

  #refuseFastify(): void {
    if (this.#host.httpAdapter?.getType() !== "fastify") return;
    throw new ConfigError(["QuotaGuardModule works with Node's own requests and responses: use @nestjs/platform-express; this app runs on Fastify"]);
  }

  #mountGateway(): void {
    const mount = this.#mount;
    if (mount === null) return;
    if (!/^(?:\/|(?:\/[\w.~-]+)+)$/.test(mount)) throw new ConfigError(["mount: expected a path from the root, such as /llm"]);
    this.#refuseFastify();
    const gateway = this.#guard.handler();
    const prefix = this.#config.getGlobalPrefix().replaceAll(/^\/*|\/*$/g, "");
    const places = prefix === "" ? [mount] : [mount, `/${prefix}${mount === "/" ? "" : mount}`];
    // Not by the consumer: it would put the prefix and the version before the path, and hide from the gateway where it is mounted.
    for (const place of places) this.#host.httpAdapter.use(place, gateway);
    new Logger("QuotaGuardModule").log(`Mounted the gateway at ${places.join(" and ")}`);
  }

  /** Handlers of the modules whose interceptors have this guard. */
  #checkHandlers(): void {
    for (const { injectables, controllers, providers } of this.#modules.values()) {
      const hasOurs = [...injectables.values()].some(({ instance }) => instance instanceof BudgetInterceptor && instance.isOf(this.#guard));
      if (!hasOurs) continue;
      for (const { metatype, inject } of [...controllers.values(), ...providers.values()]) {
        if (typeof metatype === "function" && !inject) checkBudgets(this.#guard, metatype as Type);
      }
    }
  }
}

/** What a factory returned. Nothing would be a guard without a limit: a forgotten `return` must not pass for that. */
function given(options: GuardOptions | null | undefined): GuardOptions {
  if (typeof options !== "object" || options === null)
    throw new ConfigError([
      "QuotaGuardModule.forRootAsync(): the factory gave no options; does it return them? () => ({ … }) does, () => { … } does not",
    ]);
  const beside = ["mount", "isGlobal"].filter((name) => Object.hasOwn(options, name));
  if (beside.length === 0) return options;
  throw new ConfigError(
    beside.map((name) => `${name}: stands beside useFactory, not in what it returns: forRootAsync({ ${name}: …, useFactory: () => ({ … }) })`),
  );
}

for (const [index, token] of [QuotaGuardService, MOUNT, HttpAdapterHost, ApplicationConfig, ModulesContainer].entries()) {
  Inject(token)(QuotaGuardModule, undefined, index);
}
Module({
  providers: [
    {
      provide: QuotaGuardService,
      useFactory: (options: GuardOptions) => new QuotaGuardService(createGuard({ logger: nestLogger(), ...given(options) })),
      inject: [QUOTAGUARD_OPTIONS],
    },
  ],
  exports: [QuotaGuardService],
})(QuotaGuardModule);
