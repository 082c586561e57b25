// A weight in the browser: its graph, as `leukaemia-zoo export` writes it, on ONNX Runtime Web.

let runtime;

/** ONNX Runtime Web, loaded when the first cell is to be judged; it is not beside a page that was not assembled. */
async function engine() {
  runtime ??= import('./ort/ort.wasm.min.mjs').then((ort) => {
    ort.env.wasm.wasmPaths = new URL('./ort/', import.meta.url).href;
    // More threads would need headers of the server that a page of documentation does not have.
    ort.env.wasm.numThreads = 1;
    ort.env.logLevel = 'error';
    return ort;
  });
  return runtime;
}

const sessions = new Map();

async function load(model) {
  const ort = await engine();
  const reply = await fetch(new URL(`./models/${model.file}`, import.meta.url));
  if (!reply.ok) throw new Error(`${model.file} cannot be loaded (${reply.status}).`);
  return ort.InferenceSession.create(new Uint8Array(await reply.arrayBuffer()), { executionProviders: ['wasm'] });
}

/** Judge the pixels of one cell: {probabilities, ood_score, attention} as far as the network gives them. */
export async function judge(model, { width, height, data }) {
  if (!sessions.has(model.name)) sessions.set(model.name, load(model));
  let session;
  try {
    session = await sessions.get(model.name);
  } catch (error) {
    sessions.delete(model.name); // so that another try loads it again
    runtime = undefined;
    throw error;
  }
  const { Tensor } = await engine();
  const images = new Tensor('float32', Float32Array.from(data), [1, height, width, 3]);
  const found = await session.run({ images }, model.outputs);
  const result = { probabilities: Array.from(found.probabilities.data) };
  if (found.ood_score) [result.ood_score] = found.ood_score.data;
  if (found.attention) {
    const [, rows, columns] = found.attention.dims;
    result.attention = { width: columns, height: rows, data: Float32Array.from(found.attention.data) };
  }
  for (const tensor of [images, ...Object.values(found)]) tensor.dispose();
  return result;
}
