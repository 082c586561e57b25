// From a file to the pixels of its frame: what the browser decodes, without its colour management.

const MIN_SIDE = 16;
const MAX_PIXELS = 50_000_000;
const MEND = 'save it as an 8-bit RGB PNG';

const KINDS = [
  ['BMP', [0x42, 0x4d]],
  ['PNG', [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]],
  ['JPEG', [0xff, 0xd8, 0xff]],
  ['WebP', [0x52, 0x49, 0x46, 0x46]],
];
const OTHERS = [
  ['a TIFF image, which browsers do not read', [0x49, 0x49, 0x2a, 0]],
  ['a TIFF image, which browsers do not read', [0x4d, 0x4d, 0, 0x2a]],
  ['a GIF image', [0x47, 0x49, 0x46, 0x38]],
  ['a PDF document', [0x25, 0x50, 0x44, 0x46]],
  ['a ZIP archive', [0x50, 0x4b, 3, 4]],
];

/** Why a file gives no pixels, in one sentence for a person. */
export class ImageError extends Error {}

function begins(bytes, start) {
  return start.every((byte, i) => bytes[i] === byte);
}

function kindOf(bytes, name) {
  if (bytes.length === 0) throw new ImageError(`${name} is empty (0 bytes): copy or download it again.`);
  const kind = KINDS.find(([, start]) => begins(bytes, start));
  if (kind && (kind[0] !== 'WebP' || begins(bytes.subarray(8), [0x57, 0x45, 0x42, 0x50]))) return kind[0];
  const other = OTHERS.find(([, start]) => begins(bytes, start));
  throw new ImageError(`${name} is ${other ? other[0] : 'not an image of a known kind'}: ${MEND}.`);
}

/** Decode an image file: {width, height, channels: 3, data}, RGB, transparency over black. */
export async function decode(file, name) {
  const head = new Uint8Array(await file.slice(0, 64).arrayBuffer());
  const kind = kindOf(head, name);
  if (kind === 'PNG' && head[24] === 16) {
    throw new ImageError(`${name} has 16 bits a sample, of which a browser would drop half: ${MEND}.`);
  }
  let bitmap;
  try {
    // Pillow ignores colour profiles and gamma too; an EXIF orientation is applied here and there.
    bitmap = await createImageBitmap(file, { colorSpaceConversion: 'none', imageOrientation: 'from-image' });
  } catch {
    throw new ImageError(`${name} cannot be read as ${kind}: it is damaged, cut off or of a rare kind; ${MEND}.`);
  }
  try {
    const { width, height } = bitmap;
    if (width * height > MAX_PIXELS) {
      throw new ImageError(`${name} is ${width} x ${height} pixels, more than 50 megapixels: cut cells out of it first.`);
    }
    if (Math.min(width, height) < MIN_SIDE) {
      throw new ImageError(`${name} is ${width} x ${height} pixels, less than ${MIN_SIDE} on a side: give an image of a cell.`);
    }
    const context = opaque(width, height);
    context.drawImage(bitmap, 0, 0);
    return { width, height, channels: 3, data: withoutAlpha(pixelsOf(context, name).data) };
  } finally {
    bitmap.close();
  }
}

function pixelsOf(context, name) {
  try {
    return context.getImageData(0, 0, context.canvas.width, context.canvas.height);
  } catch {
    throw new ImageError(`${name} is too large for this browser: cut cells out of it first.`);
  }
}

/** A canvas that is black where nothing was drawn, and cannot be transparent. */
function opaque(width, height) {
  const canvas = document.createElement('canvas');
  canvas.width = width;
  canvas.height = height;
  return canvas.getContext('2d', { alpha: false, willReadFrequently: true, colorSpace: 'srgb' });
}

function withoutAlpha(rgba) {
  const data = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    data[to] = rgba[from];
    data[to + 1] = rgba[from + 1];
    data[to + 2] = rgba[from + 2];
  }
  return data;
}

/** An image of three channels as the browser draws it. */
export function asImageData({ width, height, data }) {
  const rgba = new Uint8ClampedArray(width * height * 4);
  for (let from = 0, to = 0; from < data.length; from += 3, to += 4) {
    rgba.set([data[from], data[from + 1], data[from + 2], 255], to);
  }
  return new ImageData(rgba, width, height);
}

/** Whether a canvas gives back what was put on it: against fingerprinting some browsers add noise to every picture. */
export function canvasIsExact() {
  const context = opaque(32, 32);
  const pixels = context.createImageData(32, 32);
  for (let i = 0; i < pixels.data.length; i += 1) pixels.data[i] = i % 4 === 3 ? 255 : (i * i * 31 + i * 17) % 256;
  context.putImageData(pixels, 0, 0);
  const back = context.getImageData(0, 0, 32, 32).data;
  return back.every((value, i) => value === pixels.data[i]);
}
