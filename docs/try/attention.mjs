// The attention map of a cell: as a picture, and how much of it lies on the cell.

import { BLACK } from './pixels.mjs';

/** The map over what the network sees: from its least (nothing) to its most (yellow). */
export function attentionCanvas(map, cell) {
  const small = document.createElement('canvas');
  small.width = map.width;
  small.height = map.height;
  const [least, most] = [Math.min(...map.data), Math.max(...map.data)];
  const colours = new ImageData(map.width, map.height);
  map.data.forEach((value, i) => {
    const share = most > least ? (value - least) / (most - least) : 0;
    colours.data.set([255, 225, 40, Math.round(200 * share)], 4 * i);
  });
  small.getContext('2d').putImageData(colours, 0, 0);
  const canvas = document.createElement('canvas');
  canvas.width = cell.width;
  canvas.height = cell.height;
  const context = canvas.getContext('2d');
  context.putImageData(cell, 0, 0);
  context.imageSmoothingQuality = 'high';
  context.drawImage(small, 0, 0, cell.width, cell.height);
  return canvas;
}

/** The share of the map that lies on pixels of the cell, and the share of the picture that these are. */
export function shareInside(map, pixels) {
  let [looked, total, covered] = [0, 0, 0];
  for (let y = 0; y < pixels.height; y += 1) {
    const row = Math.min(map.height - 1, Math.floor(((y + 0.5) * map.height) / pixels.height));
    for (let x = 0; x < pixels.width; x += 1) {
      const column = Math.min(map.width - 1, Math.floor(((x + 0.5) * map.width) / pixels.width));
      const value = map.data[row * map.width + column];
      const i = 3 * (y * pixels.width + x);
      const isCell = Math.max(pixels.data[i], pixels.data[i + 1], pixels.data[i + 2]) > BLACK;
      total += value;
      looked += isCell ? value : 0;
      covered += isCell;
    }
  }
  return { looked: total ? looked / total : 0, covered: covered / (pixels.width * pixels.height) };
}
