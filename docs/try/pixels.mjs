// From the pixels of a frame to what a network takes: the same arithmetic as leukaemia_zoo.cells.preprocessing, whose
// resizing is Pillow's (src/libImaging/Resample.c). Weights of a filter are rounded to 22 bits and sums to whole grey
// levels, exactly as there, so that every pixel is the one that Python gives.
//
// An image is {width, height, channels, data}: data is a Uint8Array, row after row, `channels` values a pixel.

const PRECISION_BITS = 32 - 8 - 2;

function sinc(x) {
  if (x === 0) return 1;
  x *= Math.PI;
  return Math.sin(x) / x;
}

function bicubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

const FILTERS = {
  box: { support: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: bicubic },
  lanczos: { support: 3, weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

/** For each pixel of the output: the first pixel of the input that counts, and the weights from there on. */
function coefficients(inSize, start, end, outSize, filter) {
  // Pillow keeps the edges of the box in single precision.
  start = Math.fround(start);
  const scale = Math.fround(Math.fround(end) - start) / outSize;
  const filterScale = Math.max(scale, 1);
  const support = filter.support * filterScale;
  const rows = [];
  for (let out = 0; out < outSize; out += 1) {
    const center = start + (out + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const last = Math.min(inSize, Math.trunc(center + support + 0.5));
    const weights = new Float64Array(Math.max(0, last - first));
    let total = 0;
    for (let i = 0; i < weights.length; i += 1) {
      weights[i] = filter.weight((i + first - center + 0.5) * (1 / filterScale));
      total += weights[i];
    }
    const whole = new Int32Array(weights.length);
    for (let i = 0; i < weights.length; i += 1) {
      const share = (total !== 0 ? weights[i] / total : weights[i]) * (1 << PRECISION_BITS);
      whole[i] = Math.trunc(share < 0 ? share - 0.5 : share + 0.5);
    }
    rows.push({ first, weights: whole });
  }
  return rows;
}

function clipped(sum) {
  const value = sum >> PRECISION_BITS;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

/**
 * Image.resize((width, height), filter, box=box) of Pillow; the box is [left, top, right, bottom]. Rows come first, as in
 * Pillow up to 12. Pillow 13 begins with the columns where that is less work, as with frames more than 1.5 times as tall
 * as wide: it then rounds otherwise, by two grey levels at most where a picture is smooth.
 */
export function resize(image, width, height, filterName, box = [0, 0, image.width, image.height]) {
  const filter = FILTERS[filterName];
  if (!filter) throw new Error(`There is no interpolation '${filterName}'.`);
  const { channels } = image;
  const [left, top, right, bottom] = box.map(Math.fround);
  const down = coefficients(image.height, top, bottom, height, filter);
  let current = image;
  let firstRow = 0;
  if (width !== image.width || left !== 0 || right !== width) {
    const along = coefficients(image.width, left, right, width, filter);
    firstRow = down[0].first;
    const lastRow = down[height - 1].first + down[height - 1].weights.length;
    const data = new Uint8Array(width * (lastRow - firstRow) * channels);
    let place = 0;
    for (let y = firstRow; y < lastRow; y += 1) {
      for (const { first, weights } of along) {
        const from = (y * image.width + first) * channels;
        for (let channel = 0; channel < channels; channel += 1) {
          let sum = 1 << (PRECISION_BITS - 1);
          for (let i = 0; i < weights.length; i += 1) sum += image.data[from + i * channels + channel] * weights[i];
          data[place] = clipped(sum);
          place += 1;
        }
      }
    }
    current = { width, height: lastRow - firstRow, channels, data };
  }
  if (height === image.height && top === 0 && bottom === height) {
    return current === image ? { ...image, data: image.data.slice() } : current;
  }
  const data = new Uint8Array(width * height * channels);
  const stride = width * channels;
  for (let y = 0; y < height; y += 1) {
    const { first, weights } = down[y];
    const from = (first - firstRow) * stride;
    for (let x = 0; x < stride; x += 1) {
      let sum = 1 << (PRECISION_BITS - 1);
      for (let i = 0; i < weights.length; i += 1) sum += current.data[from + i * stride + x] * weights[i];
      data[y * stride + x] = clipped(sum);
    }
  }
  return { width, height, channels, data };
}

/** Python's round: halves go to the even number. */
export function round(x) {
  const floor = Math.floor(x);
  if (x - floor !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Reduce to `side` pixels on the shorter side and put the black background back. */
function reduced(frame, side) {
  const shorter = Math.min(frame.width, frame.height);
  if (side === null || shorter <= side) return frame;
  const scale = side / shorter;
  const width = round(frame.width * scale);
  const height = round(frame.height * scale);
  const small = resize(frame, width, height, 'lanczos');
  const cell = new Uint8Array(frame.width * frame.height);
  for (let i = 0; i < cell.length; i += 1) {
    const [r, g, b] = [frame.data[3 * i], frame.data[3 * i + 1], frame.data[3 * i + 2]];
    cell[i] = (19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16 ? 255 : 0;
  }
  const share = resize({ width: frame.width, height: frame.height, channels: 1, data: cell }, width, height, 'box');
  for (let i = 0; i < share.data.length; i += 1) if (share.data[i] < 128) small.data.fill(0, 3 * i, 3 * i + 3);
  return small;
}

/** The pixels that a network takes of a frame; `settings` is the preprocessing of its weight. */
export function preprocess(frame, settings) {
  const small = reduced(frame, settings.reference_frame);
  const [height, width] = settings.input_size;
  const scale = (settings.crop_fraction * Math.min(small.width, small.height)) / Math.max(height, width);
  const [cropWidth, cropHeight] = [scale * width, scale * height];
  const [left, top] = [(small.width - cropWidth) / 2, (small.height - cropHeight) / 2];
  return resize(small, width, height, settings.interpolation, [
    Math.max(left, 0),
    Math.max(top, 0),
    Math.min(left + cropWidth, small.width),
    Math.min(top + cropHeight, small.height),
  ]);
}

// --------------------------------------------------------------------------------------------------------------------
// What an image is

export const BLACK = 8; // background, as leukaemia_zoo.cells.images has it
const MOST_OF_A_CELL = 0.25;
const SLIDE = 150;

function brightest(data, i) {
  return Math.max(data[3 * i], data[3 * i + 1], data[3 * i + 2]);
}

/** Whether a frame shows a cell on black: nine tenths of its outermost pixels are background. */
export function liesOnBlack({ width, height, data }) {
  let above = 0;
  let edge = 0;
  let edgeAbove = 0;
  const darkest = new Uint32Array(256);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const i = y * width + x;
      const isAbove = brightest(data, i) > BLACK;
      if (y === 0 || x === 0 || y === height - 1 || x === width - 1) {
        edge += 1;
        edgeAbove += isAbove;
      }
      if (isAbove) {
        above += 1;
        darkest[Math.min(data[3 * i], data[3 * i + 1], data[3 * i + 2])] += 1;
      }
    }
  }
  if (edgeAbove / edge > 0.1) return false;
  return !(above / (width * height) > MOST_OF_A_CELL && median(darkest, above) >= SLIDE);
}

function median(counts, total) {
  const at = (rank) => {
    let seen = 0;
    for (let value = 0; value < counts.length; value += 1) {
      seen += counts[value];
      if (seen > rank) return value;
    }
    return 0;
  };
  return (at(Math.floor((total - 1) / 2)) + at(Math.floor(total / 2))) / 2;
}

/** The highest value of what a network is to see: at most BLACK, and there is nothing to see. */
export function highest({ data }) {
  let most = 0;
  for (let i = 0; i < data.length; i += 1) if (data[i] > most) most = data[i];
  return most;
}

// --------------------------------------------------------------------------------------------------------------------
// A cell out of a field

export const FRAME = 450; // side in pixels of the official frames of C-NMC 2019
export const CNMC_MICROMETRES_PER_PIXEL = 0.06;

/**
 * A round piece of a field as a frame like those of C-NMC 2019: leukaemia_zoo.smears.segmentation.on_black with a
 * circle for the outline. A pixel whose middle lies in the circle belongs to the cell.
 */
export function circleOnBlack(field, x, y, diameter, micrometresPerPixel) {
  const radius = diameter / 2;
  const inside = (column, row) => Math.hypot(column + 0.5 - x, row + 0.5 - y) < radius;
  let [x0, y0, x1, y1] = [field.width, field.height, -1, -1];
  const [lowX, highX] = [Math.max(0, Math.floor(x - radius) - 1), Math.min(field.width - 1, Math.ceil(x + radius) + 1)];
  const [lowY, highY] = [Math.max(0, Math.floor(y - radius) - 1), Math.min(field.height - 1, Math.ceil(y + radius) + 1)];
  for (let row = lowY; row <= highY; row += 1) {
    for (let column = lowX; column <= highX; column += 1) {
      if (inside(column, row)) {
        [x0, x1] = [Math.min(x0, column), Math.max(x1, column)];
        [y0, y1] = [Math.min(y0, row), Math.max(y1, row)];
      }
    }
  }
  if (x1 < 0) throw new Error('The circle lies outside the field.');
  const zoom = micrometresPerPixel / CNMC_MICROMETRES_PER_PIXEL;
  const middle = [(x0 + x1 + 1) / 2, (y0 + y1 + 1) / 2];
  const half = FRAME / 2 / zoom;
  const left = Math.floor(middle[0] - half) - 1;
  const top = Math.floor(middle[1] - half) - 1;
  const side = Math.ceil(2 * half) + 3;
  const canvas = { width: side, height: side, channels: 3, data: new Uint8Array(side * side * 3) };
  const cell = { width: side, height: side, channels: 1, data: new Uint8Array(side * side) };
  for (let row = Math.max(top, 0); row < Math.min(top + side, field.height); row += 1) {
    for (let column = Math.max(left, 0); column < Math.min(left + side, field.width); column += 1) {
      const to = (row - top) * side + column - left;
      const from = row * field.width + column;
      canvas.data.set(field.data.subarray(3 * from, 3 * from + 3), 3 * to);
      cell.data[to] = inside(column, row) ? 255 : 0;
    }
  }
  const corner = [middle[0] - half - left, middle[1] - half - top];
  const box = [...corner, Math.min(corner[0] + 2 * half, side), Math.min(corner[1] + 2 * half, side)];
  const colours = resize(canvas, FRAME, FRAME, 'bicubic', box);
  const outline = resize(cell, FRAME, FRAME, zoom < 1 ? 'box' : 'bilinear', box);
  for (let i = 0; i < outline.data.length; i += 1) {
    for (let channel = 3 * i; channel < 3 * i + 3; channel += 1) {
      // A pixel of a cell is never exactly black: that is how the networks tell the background.
      colours.data[channel] = outline.data[i] >= 128 ? Math.max(colours.data[channel], 1) : 0;
    }
  }
  return colours;
}
