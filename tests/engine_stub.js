// An engine for tests of the page: it takes the place of engine_webgpu.js, and fills in the negative of what is there, in `stub.steps`
// steps of `stub.delay` milliseconds, each as a preview. `stub.jobs` is what it was asked for.

const [WIDE, HIGH] = [160, 120];
globalThis.stub = { steps: 3, delay: 5, jobs: [], aborted: 0, checks: 0 };

export async function open(about, hear) {
  hear("Downloading weights", 1, 2);
  return { model, fill, check, lost: new Promise(() => {}) };
}

async function check() {
  globalThis.stub.checks++;
  return null;
}

function model() {
  const picture = { data: new Uint8Array(3 * WIDE * HIGH).fill(90), width: WIDE, height: HIGH };
  const defaults = { steps: 20, guidance: 2.5, seed: 0 };
  return { name: "stub", where: "in a test", note: "", size: 64, bytes: 1e6, defaults, mostSteps: 100, sample: { picture, mask: null }, files: ["sw.js"] };
}

async function fill(picture, mask, settings, hear, signal) {
  const { steps, delay, jobs } = globalThis.stub;
  jobs.push({ width: picture.width, height: picture.height, marked: mask.data.reduce((a, b) => a + b, 0), first: [...picture.data.slice(0, 3)], seed: String(settings.seed) });
  for (let step = 1; step <= steps; step++) {
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, delay);
      signal.addEventListener("abort", () => resolve(clearTimeout(timer)));
    });
    if (signal.aborted) {
      globalThis.stub.aborted++;
      throw signal.reason;
    }
    const small = { data: new Uint8Array([0, 255, 0]), width: 1, height: 1 };
    hear({ step, steps, pieces: [{ picture: small, x: 0, y: 0, width: picture.width, height: picture.height }] });
  }
  const data = picture.data.slice();
  for (let i = 0; i < mask.data.length; i++) if (mask.data[i]) for (let c = 0; c < 3; c++) data[3 * i + c] = 255 - data[3 * i + c];
  return { data, width: picture.width, height: picture.height };
}
