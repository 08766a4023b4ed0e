// `npm run docs`: docs/api/ from the docstrings, one page an entry point. `--check` only says whether it is up to date.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { Application } from "typedoc";
import { load } from "typedoc-plugin-markdown";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const TARGET = join(ROOT, "docs/api");

/** The package's entry points: `quotaguard/testing` -> `src/testing/index.ts`. */
function entryPoints() {
  const { exports } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
  return Object.entries(exports).flatMap(([subpath, target]) => {
    const source = target["@quotaguard/source"];
    return source === undefined ? [] : [{ name: `quotaguard${subpath.slice(1)}`, source: source.slice(2) }];
  });
}

async function generate(folder) {
  const points = entryPoints();
  const app = await Application.bootstrapWithPlugins(
    {
      plugin: [load],
      entryPoints: points.map(({ source }) => join(ROOT, source)),
      tsconfig: join(ROOT, "tsconfig.build.json"),
      out: folder,
      readme: "none",
      // Nothing of one machine or one day.
      disableSources: true,
      disableGit: true,
      hideGenerator: true,
      includeVersion: false,
      excludeInternal: true,
      excludePrivate: true,
      excludeProtected: false,
      excludeExternals: true,
      skipErrorChecking: true,
      logLevel: "Error",
      validation: false,
      groupOrder: ["Functions", "Variables", "Classes", "Interfaces", "*"],
      router: "module",
      hidePageHeader: true,
      hideBreadcrumbs: true,
      useCodeBlocks: true,
      parametersFormat: "table",
      interfacePropertiesFormat: "table",
      typeAliasPropertiesFormat: "table",
      typeDeclarationFormat: "table",
      classPropertiesFormat: "table",
      enumMembersFormat: "table",
      expandObjects: false,
    },
    [],
  );
  const project = await app.convert();
  if (!project) throw new Error("typedoc could not read the sources");
  // Modules are called as they are imported.
  for (const module of project.children ?? []) {
    const point = points.find(({ source }) => source === (module.name === "index" ? "src/index.ts" : `src/${module.name}/index.ts`));
    if (!point) throw new Error(`typedoc has a module ${module.name} that is no entry point of the package`);
    module.name = point.name;
  }
  await app.generateOutputs(project);
}

/** Path -> text, of all files below a folder. */
function textsIn(folder) {
  if (!existsSync(folder)) return new Map();
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return new Map(files.map(({ parentPath, name }) => [relative(folder, join(parentPath, name)), readFileSync(join(parentPath, name), "utf8")]));
}

async function check() {
  const folder = mkdtempSync(join(tmpdir(), "quotaguard-api-"));
  try {
    await generate(folder);
    const [wanted, kept] = [textsIn(folder), textsIn(TARGET)];
    const names = [...new Set([...wanted.keys(), ...kept.keys()])];
    return names.filter((name) => wanted.get(name) !== kept.get(name));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const { values } = parseArgs({ options: { check: { type: "boolean" } } });
if (values.check) {
  const stale = await check();
  for (const name of stale) console.error(`docs/api/${name} is not what the docstrings say: npm run docs`);
  process.exitCode = stale.length === 0 ? 0 : 1;
} else {
  rmSync(TARGET, { recursive: true, force: true });
  await generate(TARGET);
}
