// A field: the reader marks a cell with a circle, by tapping or by numbers, and cuts it out.

import { asImageData } from './decode.mjs';
import { circleOnBlack } from './pixels.mjs';

const USUAL = 12; // micrometres across a white cell, to begin with

let number = 0;

function input(kind, label, attributes) {
  const made = Object.assign(document.createElement('input'), { type: kind, ...attributes });
  const around = document.createElement('label');
  around.append(label, made);
  return { made, around };
}

/** The element of one field; `scale()` tells micrometres per pixel, `cut(cell)` takes {name, frame}. */
export function fieldEditor(name, frame, { scale, cut, known }) {
  number += 1;
  const section = document.createElement('section');
  section.className = 'field';
  const title = Object.assign(document.createElement('h3'), { id: `field-${number}`, textContent: name });
  section.setAttribute('aria-labelledby', title.id);
  const canvas = document.createElement('canvas');
  canvas.width = frame.width;
  canvas.height = frame.height;
  canvas.setAttribute('role', 'img');
  canvas.setAttribute('aria-label', `Field ${name}, ${frame.width} by ${frame.height} pixels. Tap on the middle of a cell, or give the place below.`);
  const context = canvas.getContext('2d');
  const picture = asImageData(frame);

  const most = Math.min(frame.width, frame.height);
  const usual = () => (scale() > 0 ? Math.round(USUAL / scale()) : Math.round(most / 6));
  const x = input('number', 'Middle, from the left (pixels)', { min: 0, max: frame.width, step: 1, value: Math.round(frame.width / 2) });
  const y = input('number', 'Middle, from the top (pixels)', { min: 0, max: frame.height, step: 1, value: Math.round(frame.height / 2) });
  const size = input('range', 'Diameter', { min: 8, max: most, step: 1, value: Math.min(most, usual()) });
  const told = document.createElement('output');
  size.around.append(told);
  const button = Object.assign(document.createElement('button'), { type: 'button', textContent: 'Cut this cell out', className: 'main' });
  const said = document.createElement('p');
  said.setAttribute('role', 'status');
  said.className = 'note';
  const numbers = document.createElement('div');
  numbers.className = 'numbers';
  numbers.append(x.around, y.around, size.around, button);
  section.append(title, canvas, numbers, said);

  const done = [];
  const circle = () => ({ x: Number(x.made.value), y: Number(y.made.value), d: Number(size.made.value) });

  function ring({ x: left, y: top, d }, colour, label) {
    const line = Math.max(1.5, frame.width / 300);
    for (const [style, width] of [['#000000', 2 * line], [colour, line]]) {
      context.beginPath();
      context.arc(left, top, d / 2, 0, 2 * Math.PI);
      context.strokeStyle = style;
      context.lineWidth = width;
      context.stroke();
    }
    if (label) {
      context.font = `bold ${8 * line}px system-ui, sans-serif`;
      context.lineWidth = line;
      context.strokeStyle = '#000000';
      context.strokeText(label, left - 2 * line, top + 3 * line);
      context.fillStyle = colour;
      context.fillText(label, left - 2 * line, top + 3 * line);
    }
  }

  function draw() {
    context.putImageData(picture, 0, 0);
    done.forEach((mark, i) => ring(mark, '#ffffff', String(i + 1)));
    ring(circle(), '#ffe128');
    const { d } = circle();
    told.textContent = scale() > 0 ? `${d} pixels, ${(d * scale()).toFixed(1)} micrometres` : `${d} pixels`;
  }

  canvas.addEventListener('click', (event) => {
    const box = canvas.getBoundingClientRect();
    x.made.value = Math.round(((event.clientX - box.left) / box.width) * frame.width);
    y.made.value = Math.round(((event.clientY - box.top) / box.height) * frame.height);
    draw();
  });
  for (const { made } of [x, y, size]) made.addEventListener('input', draw);
  document.getElementById('scale').addEventListener('change', () => {
    if (scale() > 0 && !done.length) size.made.value = Math.min(most, usual());
    draw();
  });

  button.addEventListener('click', async () => {
    const { x: left, y: top, d } = circle();
    const micrometres = scale();
    if (!(micrometres >= 0.01 && micrometres <= 1)) {
      said.textContent = 'Give the scale above first: micrometres per pixel, from 0.01 to 1, such as 0.1.';
      document.getElementById('scale').focus();
      return;
    }
    if (!(left >= 0 && left <= frame.width && top >= 0 && top <= frame.height)) {
      said.textContent = `Give a place in the field: 0 to ${frame.width} from the left, 0 to ${frame.height} from the top.`;
      return;
    }
    const cellName = `${name}#x=${left},y=${top},d=${d}`;
    if (known(cellName)) {
      said.textContent = 'This cell was cut out already.';
      return;
    }
    done.push({ x: left, y: top, d });
    draw();
    said.textContent = `Cell ${done.length} is cut out: ${(d * micrometres).toFixed(1)} micrometres across. Its verdict stands in the results.`;
    await cut({ name: cellName, frame: circleOnBlack(frame, left, top, d, micrometres) });
  });

  draw();
  return section;
}
