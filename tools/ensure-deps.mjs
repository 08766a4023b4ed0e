// Installs the lockfile once, then costs about 30 ms. Runs on whatever Node npm itself runs on (18 or later),
// so `npm start` and `npm test` work in a fresh clone without a separate install step.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";

const root = new URL("..", import.meta.url);
const stamp = new URL("node_modules/.lock-sha256", root);
const wanted = createHash("sha256")
  .update(readFileSync(new URL("package-lock.json", root)))
  .digest("hex");
const installed = existsSync(stamp) ? readFileSync(stamp, "utf8") : "";

if (installed !== wanted) {
  console.error("[setup] installing dependencies (once per lockfile)");
  const npm = spawnSync("npm", ["ci", "--no-audit", "--no-fund"], {
    cwd: root,
    stdio: ["ignore", 2, 2],
    shell: process.platform === "win32",
  });
  if (npm.status !== 0) process.exit(npm.status ?? 1);
  writeFileSync(stamp, wanted);
}
