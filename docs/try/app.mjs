// The page: images in, verdicts out. What is computed stands in pixels.mjs, network.mjs and results.mjs.

import { asImageData, canvasIsExact, decode, ImageError } from './decode.mjs';
import { fieldEditor } from './field.mjs';
import { judge } from './network.mjs';
import { BLACK, highest, liesOnBlack, preprocess } from './pixels.mjs';
import { bySubject, csv, failure, record, subjectOf, UNCERTAIN } from './results.mjs';
import { attentionCanvas, shareInside } from './attention.mjs';

const SHOWN = 300; // rows with pictures; what is more is in the CSV
const IMAGE_NAME = /\.(bmp|png|jpe?g|webp|tiff?)$/i;

const byId = (id) => document.getElementById(id);
let models = [];
let merged = {};
let cells = []; // {name, subject, file or frame, record, attention}
let run = 0;

function element(kind, { className, text, title, ...attributes } = {}, ...children) {
  const made = document.createElement(kind);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  if (title) made.dataset.title = title;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function tell(fault) {
  byId('fault').textContent = fault;
  byId('fault').hidden = !fault;
}

const chosen = () => models.find((model) => model.name === byId('model').value);
const count = (number, one, many = `${one}s`) => `${number.toLocaleString('en')} ${number === 1 ? one : many}`;

// --------------------------------------------------------------------------------------------------------------------
// Images in

async function add(files) {
  tell('');
  const known = new Set(cells.map((cell) => cell.key));
  let [others, again] = [0, 0];
  for (const { name, file } of files) {
    // Files of one name may lie in folders of several people, of which a browser tells nothing.
    const key = `${name}|${file.size}|${file.lastModified}`;
    if (!IMAGE_NAME.test(name)) others += 1;
    else if (known.has(key)) again += 1;
    else cells.push({ key, name, subject: subjectOf(name, merged), file });
    known.add(key);
  }
  const told = [];
  if (others) told.push(`${count(others, 'file')} passed over, no image by the name.`);
  if (again) told.push(`${count(again, 'file')} passed over, here already.`);
  tell(told.join(' '));
  await judgeAll();
}

/** Files of what was dropped, of folders too. */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files].map((file) => ({ name: file.name, file }));
  const found = [];
  async function walk(entry) {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      found.push({ name: entry.fullPath.replace(/^\//, ''), file });
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      // A reader gives a hundred entries at a time.
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return;
      for (const inner of some) if (!inner.name.startsWith('.')) await walk(inner);
    }
  }
  for (const entry of entries) await walk(entry);
  return found;
}

async function examples() {
  byId('results').setAttribute('aria-busy', 'true');
  const names = (await (await fetch('models.json')).json()).examples;
  const files = await Promise.all(
    names.map(async (name) => ({ name, file: await (await fetch(`examples/${name}`)).blob() })),
  );
  await add(files);
}

// --------------------------------------------------------------------------------------------------------------------
// Judging

async function judgeAll() {
  run += 1;
  const own = run;
  const model = chosen();
  byId('results').setAttribute('aria-busy', 'true');
  const waiting = () => cells.filter((cell) => !cell.record);
  const total = waiting().length;
  if (total) {
    byId('status').textContent = `Judging ${count(total, 'image')} with ${model.name}.`;
    byId('progress').max = total;
  }
  byId('progress-line').hidden = !total;
  for (let done = 0, cell = waiting()[0]; cell; cell = waiting()[0]) {
    byId('progress').value = done;
    await new Promise((resolve) => setTimeout(resolve)); // let the page answer
    if (own !== run) return;
    let outcome;
    try {
      outcome = await judged(cell, model);
    } catch (error) {
      if (!(error instanceof ImageError)) {
        if (own === run) finish(`Stopped: ${error.message}`);
        return;
      }
      outcome = { record: failure(cell, error.message, model) };
    }
    if (own !== run) return;
    if (outcome.field) {
      cells = cells.filter((other) => other !== cell);
      showField(cell.name, outcome.field);
    } else {
      Object.assign(cell, outcome);
      showCell(cell, model);
    }
    done += 1;
  }
  finish();
}

async function judged(cell, model) {
  const frame = cell.frame ?? (await decode(cell.file, cell.name));
  if (!cell.frame && !liesOnBlack(frame)) return { field: frame };
  const pixels = preprocess(frame, model.preprocessing);
  const most = highest(pixels);
  if (most <= BLACK) {
    throw new ImageError(
      `${cell.name} is black where the cell should be (highest value ${most} of 255, background up to ${BLACK}): give ` +
        'an image of a cell.',
    );
  }
  const outputs = await judge(model, pixels);
  return { record: record(cell, outputs, model), pixels, attention: outputs.attention };
}

function finish(fault) {
  byId('progress-line').hidden = true;
  const model = chosen();
  const records = cells.flatMap((cell) => cell.record ?? []);
  const good = records.filter((row) => row.error === null);
  const parts = model.classes.map((name) => `${good.filter((row) => row.label === name).length} ${name}`);
  const said = [`${count(good.length, 'cell')} judged by ${model.name}: ${parts.join(', ')}`];
  const tallies = [
    [good.filter((row) => row.verdict === UNCERTAIN).length, 'uncertain'],
    [good.filter((row) => row.unfamiliar).length, 'unfamiliar'],
    [records.length - good.length, 'not read'],
  ];
  for (const [number, what] of tallies) if (number) said.push(`${number} ${what}`);
  const fields = byId('field-list').childElementCount;
  if (fields) said.push(`${count(fields, 'field')} to mark cells in`);
  byId('status').textContent = records.length || fields ? `${said.join('; ')}.` : 'No images yet.';
  if (fault) tell(fault);
  byId('results').setAttribute('aria-busy', 'false');
  byId('downloads').hidden = !records.length;
  showSubjects(bySubject(records, model), model);
}

// --------------------------------------------------------------------------------------------------------------------
// Results

function head(table, titles) {
  const row = element('tr', { role: 'row' });
  for (const title of titles) row.append(element('th', { scope: 'col', role: 'columnheader', text: title }));
  table.querySelector('thead').replaceChildren(row);
  table.querySelector('tbody').replaceChildren();
}

function cellOf(title, className, ...children) {
  return element('td', { className, title, role: 'cell' }, ...children);
}

function cellTitles(model) {
  return ['Cell', 'File', 'Subject', 'Class, probability', 'Verdict', 'Unfamiliar', ...(hasAttention(model) ? ['Attention'] : [])];
}

const hasAttention = (model) => model.outputs.includes('attention');

function showCell(cell, model) {
  const body = byId('cells').querySelector('tbody');
  byId('cells').hidden = false;
  if (body.childElementCount >= SHOWN) {
    byId('more').hidden = false;
    byId('more').textContent = `Only the first ${SHOWN} cells are shown; the CSV has them all.`;
    cell.pixels = cell.attention = null;
    return;
  }
  const { record: row } = cell;
  const line = element('tr', { role: 'row' });
  line.append(cellOf('Cell', 'picture', ...(cell.pixels ? [picture(cell)] : [])));
  line.append(cellOf('File', 'path', cell.name), cellOf('Subject', 'subject', row.subject ?? 'not known'));
  if (row.error !== null) {
    line.append(cellOf('Not read', 'error', row.error));
    line.lastChild.setAttribute('colspan', cellTitles(model).length - 3);
  } else {
    const p = row[`p_${row.label}`];
    line.append(cellOf('Class', 'label', element('span', {}, element('span', { className: 'strong', text: row.label }), ` ${p.toFixed(3)}`)));
    line.append(cellOf('Verdict', 'verdict', verdict(row, model)));
    line.append(cellOf('Unfamiliar', 'ood', familiarity(row, model)));
    if (hasAttention(model)) line.append(cellOf('Attention', 'attention', attention(cell)));
  }
  body.append(line);
}

function verdict(row, model) {
  if (!model.verdict_limits) return element('span', { className: 'note', text: 'no limits known' });
  if (row.verdict !== UNCERTAIN) return element('span', { className: 'strong', text: row.verdict });
  return element('span', {}, element('span', { className: 'badge', text: UNCERTAIN }), ' for a human to look at');
}

function familiarity(row, model) {
  if (row.ood_score === null) return 'not known';
  const score = `OOD ${row.ood_score.toFixed(2)}`;
  if (!row.unfamiliar) return `no (${score})`;
  const badge = element('span', { className: 'badge', text: 'unfamiliar' });
  return element('span', {}, badge, ` ${score} is above ${model.ood_limit.toFixed(2)}: do not rely on it`);
}

function picture(cell) {
  const canvas = element('canvas', { role: 'img', 'aria-label': `What the network sees of ${cell.name}` });
  canvas.width = cell.pixels.width;
  canvas.height = cell.pixels.height;
  canvas.getContext('2d').putImageData(asImageData(cell.pixels), 0, 0);
  return canvas;
}

function attention(cell) {
  const { looked, covered } = shareInside(cell.attention, cell.pixels);
  const told = `${Math.round(100 * looked)} % of it on the cell, which fills ${Math.round(100 * covered)} % of the picture`;
  const canvas = attentionCanvas(cell.attention, asImageData(cell.pixels));
  canvas.setAttribute('role', 'img');
  canvas.setAttribute('aria-label', `Attention map of ${cell.name}: ${told}`);
  return element('div', {}, canvas, element('p', { className: 'note', text: told }));
}

function showSubjects(rows, model) {
  byId('subjects').hidden = !rows.length;
  byId('csv-subjects').hidden = !rows.length;
  const means = model.classes.map((name) => `Mean p(${name})`);
  const titles = ['Subject', 'Class', 'Cells', ...model.classes, ...means, 'Uncertain', 'Unfamiliar'];
  head(byId('subjects'), titles);
  for (const row of rows) {
    const values = [
      ...[row.subject, row.label, row.cells],
      ...model.classes.map((name) => row[`n_${name}`]),
      ...model.classes.map((name) => row[`mean_p_${name}`].toFixed(3)),
      ...[row.uncertain ?? 'no limits known', row.unfamiliar ?? 'not known'],
    ];
    const line = element('tr', { role: 'row' });
    values.forEach((value, i) => line.append(cellOf(titles[i], i === 1 ? 'strong' : '', String(value))));
    line.firstChild.setAttribute('role', 'rowheader');
    byId('subjects').querySelector('tbody').append(line);
  }
}

function download(what, records) {
  // With a mark of the encoding a spreadsheet would read it too, and Python's own files have none.
  const link = element('a', { href: URL.createObjectURL(new Blob([csv(records)], { type: 'text/csv' })) });
  link.download = `${what}-${chosen().name}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// --------------------------------------------------------------------------------------------------------------------
// Fields

function showField(name, frame) {
  byId('fields').hidden = false;
  byId('field-list').append(
    fieldEditor(name, frame, {
      scale: () => Number(byId('scale').value),
      cut: async (cell) => {
        cells.push({ ...cell, subject: subjectOf(name, merged) });
        await judgeAll();
      },
      known: (cellName) => cells.some((cell) => cell.name === cellName),
    }),
  );
}

// --------------------------------------------------------------------------------------------------------------------
// The network

function showModel() {
  const model = chosen();
  const about = byId('about-model');
  about.replaceChildren(element('p', { text: model.about }));
  const rest = [
    model.verdict_limits
      ? `It says "uncertain" where it cannot rule out all classes but one.`
      : 'It has no limits for "uncertain".',
    `Licence ${model.licence}. Cite: ${model.citation}`,
  ];
  for (const text of rest) about.append(element('p', { text }));
  head(byId('cells'), cellTitles(model));
  byId('attention-note').hidden = !hasAttention(model);
  byId('more').hidden = true;
}

async function changeModel() {
  tell('');
  showModel();
  for (const cell of cells) cell.record = null;
  await judgeAll();
}

function clear() {
  run += 1;
  tell('');
  cells = [];
  byId('field-list').replaceChildren();
  byId('fields').hidden = true;
  byId('cells').hidden = true;
  showModel();
  finish();
  byId('files').focus();
}

// --------------------------------------------------------------------------------------------------------------------
// Without a network

async function keepForOffline(megabytes) {
  if (!('serviceWorker' in navigator)) return;
  try {
    byId('offline').textContent = `Loading what this page needs without a network connection, ${megabytes} MB.`;
    await navigator.serviceWorker.register('sw.js', { type: 'classic' });
    await navigator.serviceWorker.ready;
    byId('offline').textContent = 'This page is kept on your machine and works without a network connection now.';
  } catch {
    byId('offline').textContent = 'This browser does not keep the page: without a network connection it will not open.';
  }
}

function listen() {
  byId('files').addEventListener('change', async ({ target }) => {
    const files = [...target.files].map((file) => ({ name: file.name, file }));
    target.value = ''; // so that the same file can be chosen again
    await add(files);
  });
  byId('folder').addEventListener('change', async ({ target }) => {
    const files = [...target.files].map((file) => ({ name: file.webkitRelativePath || file.name, file }));
    target.value = '';
    await add(files);
  });
  byId('examples').addEventListener('click', () => examples().catch((error) => tell(error.message)));
  byId('model').addEventListener('change', changeModel);
  byId('stop').addEventListener('click', () => {
    run += 1;
    const left = cells.filter((cell) => !cell.record).length;
    cells = cells.filter((cell) => cell.record);
    finish(`Stopped: ${count(left, 'image was', 'images were')} not judged. Give them again to go on.`);
  });
  byId('clear').addEventListener('click', clear);
  const records = () => cells.flatMap((cell) => cell.record ?? []);
  byId('csv-cells').addEventListener('click', () => download('cells', records()));
  byId('csv-subjects').addEventListener('click', () => download('subjects', bySubject(records(), chosen())));
  // A file that misses the frame must not take the place of the page.
  for (const kind of ['dragover', 'drop']) document.addEventListener(kind, (event) => event.preventDefault());
  document.addEventListener('dragover', () => byId('drop').classList.add('over'));
  for (const kind of ['dragleave', 'drop']) document.addEventListener(kind, () => byId('drop').classList.remove('over'));
  document.addEventListener('drop', async (event) => add(await dropped(event.dataTransfer)));
}

async function start() {
  const reply = await fetch('models.json');
  if (!reply.ok) {
    tell('The networks are not beside this page: assemble it with `python tools/build_page.py`.');
    return;
  }
  const about = await reply.json();
  ({ models, merged_subjects: merged } = about);
  byId('model').replaceChildren(...models.map(({ name, title }) => element('option', { value: name, text: title })));
  if (!canvasIsExact()) {
    tell('This browser changes the pixels of pictures, to protect against fingerprinting: results would be wrong. Allow canvas data for this page, or use another browser.');
    return;
  }
  showModel();
  listen();
  document.documentElement.dataset.ready = 'true';
  keepForOffline(about.megabytes);
}

start().catch((error) => tell(`This page could not start: ${error.message}`));
