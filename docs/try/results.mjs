// What is said of cells and of subjects: the same rules and the same columns as leukaemia_zoo.prediction.

export const UNCERTAIN = 'uncertain';

const CNMC_NAME = /^UID_(H?\d+)_(\d+)_(\d+)_(all|hem)\.(bmp|png|jpe?g|tiff?|webp)$/i;

/** The subject that a file name of C-NMC 2019 gives, or null; `merged` joins numbers that stand for one person. */
export function subjectOf(path, merged) {
  const found = CNMC_NAME.exec(path.split('/').pop());
  if (!found) return null;
  const subject = found[1].toUpperCase();
  return merged[subject] ?? subject;
}

function largest(values) {
  return values.reduce((best, value, i) => (value > values[best] ? i : best), 0);
}

/** The class that is left when those below their limits are ruled out, or "uncertain"; null without limits. */
export function verdictOf(probabilities, model) {
  if (!model.verdict_limits) return null;
  const { rates, limits, default: chosen } = model.verdict_limits;
  const left = model.classes.filter((name, i) => probabilities[i] >= limits[name][rates.indexOf(chosen[name])]);
  if (left.length > 1) return UNCERTAIN;
  return left[0] ?? model.classes[largest(probabilities)];
}

/** One record a cell, with the columns of the CSV. */
export function record(cell, outputs, model) {
  const probabilities = outputs.probabilities;
  const score = outputs.ood_score ?? null;
  return {
    path: cell.name,
    subject: cell.subject,
    label: model.classes[largest(probabilities)],
    ...Object.fromEntries(model.classes.map((name, i) => [`p_${name}`, probabilities[i]])),
    verdict: verdictOf(probabilities, model),
    ood_score: score,
    unfamiliar: score === null || model.ood_limit === null ? null : score > model.ood_limit,
    error: null,
  };
}

export function failure(cell, error, model) {
  const empty = Object.fromEntries(model.classes.map((name) => [`p_${name}`, null]));
  return {
    ...{ path: cell.name, subject: cell.subject, label: null, ...empty },
    ...{ verdict: null, ood_score: null, unfamiliar: null, error },
  };
}

/** One record a subject, sorted: means over the cells that have a verdict. */
export function bySubject(records, model) {
  const subjects = new Map();
  for (const row of records) {
    if (row.subject === null || row.error !== null) continue;
    if (!subjects.has(row.subject)) subjects.set(row.subject, []);
    subjects.get(row.subject).push(row);
  }
  return [...subjects.keys()].sort().map((subject) => {
    const rows = subjects.get(subject);
    const means = model.classes.map((name) => rows.reduce((sum, row) => sum + row[`p_${name}`], 0) / rows.length);
    const count = (test) => rows.filter(test).length;
    return {
      subject,
      label: model.classes[largest(means)],
      cells: rows.length,
      ...Object.fromEntries(model.classes.map((name) => [`n_${name}`, count((row) => row.label === name)])),
      ...Object.fromEntries(model.classes.map((name, i) => [`mean_p_${name}`, means[i]])),
      uncertain: model.verdict_limits ? count((row) => row.verdict === UNCERTAIN) : null,
      unfamiliar: model.ood_limit === null ? null : count((row) => row.unfamiliar),
    };
  });
}

function field(value) {
  if (value === null || value === undefined) return '';
  if (typeof value === 'boolean') return value ? 'True' : 'False'; // as Python writes them
  if (typeof value === 'number') return String(Number.isInteger(value) ? value : Number(value.toFixed(6)));
  return /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
}

/** Records as CSV, as `leukaemia-zoo predict --csv` writes them. */
export function csv(records) {
  if (!records.length) return '';
  const columns = Object.keys(records[0]);
  return [columns, ...records.map((row) => columns.map((name) => row[name]))]
    .map((row) => `${row.map(field).join(',')}\r\n`)
    .join('');
}
