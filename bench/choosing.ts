/** How the strategies do over a simulated day of ten accounts: `node --conditions=@quotaguard/source bench/choosing.ts [seed] [load]`. */
import { CONTENDERS } from "./choosing/contenders.ts";
import { simulate } from "./choosing/simulation.ts";

const [seed = 1, load = 1] = process.argv.slice(2).map(Number);
const percent = (ratio: number): string => `${(ratio * 100).toFixed(1)} %`;

console.table(
  Object.fromEntries(
    Object.entries(CONTENDERS).map(([name, contender]) => {
      const { asked, served, overspent, switchesPerHour, utilisation, waste } = simulate(contender, { seed, load });
      return [
        name,
        {
          asked,
          served,
          "sent in vain": overspent,
          "switches an hour": Number(switchesPerHour.toFixed(1)),
          "quota used": percent(utilisation),
          "quota wasted": percent(waste),
        },
      ];
    }),
  ),
);
