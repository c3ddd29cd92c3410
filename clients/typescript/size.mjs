// What a browser loads, minified and compressed: fails above 10 kB.
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const LIMIT_BYTES = 10_000;
for (const entry of ["index", "react"]) {
  const { outputFiles } = await build({
    entryPoints: [`src/${entry}.ts`], bundle: true, minify: true, format: "esm", target: "es2022", write: false, external: ["react"],
  });
  const bytes = gzipSync(outputFiles[0].contents, { level: 9 }).length;
  console.log(`${entry}: ${bytes} bytes, minified and compressed`);
  if (bytes > LIMIT_BYTES) process.exitCode = 1;
}
