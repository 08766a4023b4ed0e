import type { Candidate, Strategy } from "../candidate.ts";
import { changedBy } from "./changed-by.ts";
import { setStates } from "./set-states.ts";

/**
 * Takes the candidates in turn. The cursor is a place in the whole set, so it goes on from there when some of them cannot be used for a while: of
 * four without the first and the third it takes 2, 4, 2.
 */
export function roundRobin(): Strategy {
  const cursorOf = setStates(() => ({ place: 0 }));

  return {
    pick(tier, open, _request, look) {
      const cursor = changedBy(look, cursorOf(tier), (state) => ({ ...state }));
      let picked = -1;
      for (let place = 0, next = 0; next < open.length && picked < cursor.place; place += 1) {
        if (tier[place] !== open[next]) continue;
        next += 1;
        // The first one stands in until one at or after the cursor is found.
        if (picked < 0 || place >= cursor.place) picked = place;
      }
      cursor.place = (picked + 1) % tier.length;
      return tier[picked] as Candidate;
    },
  };
}
