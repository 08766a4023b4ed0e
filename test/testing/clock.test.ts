import { describe, expect, it } from "vitest";
import { testClock } from "../../src/testing/index.ts";

describe("testClock", () => {
  it("fires timers in order of their time, then of their start, and shows each its own time", () => {
    const clock = testClock({ now: 1_000 });
    const fired: string[] = [];
    const note = (name: string) => () => void fired.push(`${name}@${clock.monotonic()}/${clock.now()}`);
    clock.timer(30, note("c"));
    clock.timer(10, note("a"));
    clock.timer(30, note("d"));
    clock.timer(20, note("b"));
    clock.timer(41, note("late"));
    clock.advance(40);
    expect(fired).toEqual(["a@10/1010", "b@20/1020", "c@30/1030", "d@30/1030"]);
    expect(clock.now()).toBe(1_040);
    expect(clock.pending()).toBe(1);
  });

  it("fires timers that are started by timers within the same advance, also with a delay of 0", () => {
    const clock = testClock();
    const fired: number[] = [];
    const again = (): void => {
      fired.push(clock.monotonic());
      if (fired.length < 4) clock.timer(0, again);
    };
    clock.timer(5, again);
    clock.advance(10);
    expect(fired).toEqual([5, 6, 7, 8]);
  });

  it("refresh starts the full delay again, also after firing; cancel is final", () => {
    const clock = testClock();
    let fired = 0;
    const timer = clock.timer(10, () => void (fired += 1));
    clock.advance(9);
    timer.refresh();
    clock.advance(9);
    expect(fired).toBe(0);
    clock.advance(1);
    expect(fired).toBe(1);
    timer.refresh();
    clock.advance(10);
    expect(fired).toBe(2);
    timer.cancel();
    timer.refresh();
    clock.advance(100);
    expect(fired).toBe(2);
    expect(clock.pending()).toBe(0);
  });

  it("a refreshed timer goes behind others of the same time", () => {
    const clock = testClock();
    const fired: string[] = [];
    const first = clock.timer(10, () => void fired.push("first"));
    clock.timer(10, () => void fired.push("second"));
    first.refresh();
    clock.advance(10);
    expect(fired).toEqual(["second", "first"]);
  });

  it("set jumps the wall clock only", () => {
    const clock = testClock({ now: 5_000 });
    let fired = false;
    clock.timer(10, () => void (fired = true));
    clock.set(1_000_000);
    expect([clock.now(), clock.monotonic(), fired]).toEqual([1_000_000, 0, false]);
    clock.advance(3);
    expect([clock.now(), clock.monotonic()]).toEqual([1_000_003, 3]);
    clock.set(0);
    expect([clock.now(), clock.monotonic()]).toEqual([0, 3]);
  });

  it("jump moves both clocks, back too, and timers keep the time that they have left", () => {
    const clock = testClock({ now: 5_000 });
    let fired = 0;
    clock.timer(10, () => void (fired += 1));
    clock.advance(4);
    clock.jump(1_000_000);
    expect([clock.now(), clock.monotonic(), fired]).toEqual([1_005_004, 1_000_004, 0]);
    clock.jump(-1_005_000);
    expect([clock.now(), clock.monotonic()]).toEqual([4, -4_996]);
    clock.advance(5);
    expect(fired).toBe(0);
    clock.advance(1);
    expect([fired, clock.pending()]).toEqual([1, 0]);
  });

  it("does not go back", () => {
    expect(() => testClock().advance(-1)).toThrow(/only moves forward/);
  });
});
