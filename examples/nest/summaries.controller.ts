import { Body, Controller, HttpCode, Inject, Post, UseGuards } from "@nestjs/common";
import type OpenAI from "openai";
import type { RequestQuota } from "quotaguard";
import { Budget, Quota } from "quotaguard/nest";
import { LoginGuard } from "./login-guard.js";

export const OPENAI = Symbol("openai");

interface Text {
  readonly text?: string;
}

@Controller()
@UseGuards(LoginGuard)
export class SummariesController {
  readonly #openai: OpenAI;

  constructor(@Inject(OPENAI) openai: OpenAI) {
    this.#openai = openai;
  }

  /** Holds what 800 tokens of output may cost, for whom the login found, and settles what was used. */
  @Post("summarise")
  @HttpCode(200)
  @Budget({ limits: ["user-day"], cost: { model: "gpt-4o", maxOutputTokens: 800 } })
  async summarise(@Body() { text = "" }: Text, @Quota() quota: RequestQuota): Promise<{ readonly summary: string | null }> {
    const answer = await this.#openai.chat.completions.create(
      { model: "gpt-4o", messages: [{ role: "user", content: `Summarise: ${text}` }], max_tokens: 800 },
      { signal: quota.signal },
    );
    quota.meter(answer);
    return { summary: answer.choices[0]?.message.content ?? null };
  }
}
