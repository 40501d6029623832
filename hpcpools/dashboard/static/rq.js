// Queues, workers and jobs from rq-dashboard's own data. What jobs say becomes text nodes, never markup.
import { age, ask, repeat } from './app.js';

const place = document.querySelector('.rq');
const note = document.querySelector('[data-age]');
const base = place.dataset.src.split('/0/data/')[0];
const changing = document.body.dataset.changes !== undefined;
const TONES = { finished: 'good', busy: 'busy', started: 'busy', idle: 'still', failed: 'bad', stopped: 'warn', canceled: 'warn', suspended: 'warn', queued: 'wait', deferred: 'wait', scheduled: 'wait' };

function el(name, facts = {}, ...inside) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(facts)) {
    if (value !== undefined && value !== '') made.setAttribute(key, value);
  }
  made.append(...inside.filter((each) => each !== null && each !== undefined));
  return made;
}

const state = (word) => el('span', { class: `state ${TONES[word] ?? 'still'}` }, word || '?');
const short = (id) => (id.length > 24 ? `${id.slice(0, 11)}…${id.slice(-9)}` : id);
const job = (id) => el('a', { class: 'mono', title: id, href: `${base}/0/view/job/${encodeURIComponent(id)}` }, short(id));

function when(text) {
  if (!text) return el('span', { class: 'dim' }, '');
  const at = Date.parse(/[Z+]|GMT/.test(text) ? text : `${text}Z`) / 1000;
  return Number.isFinite(at) ? el('time', { 'data-at': at, title: new Date(at * 1000).toString() }, age(at)) : text;
}

function table(caption, heads, rows) {
  const head = el('tr', {}, ...heads.map(([text, kind]) => el('th', { scope: 'col', class: kind }, text)));
  const body = rows.map((cells) => el('tr', {}, ...cells.map((cell, number) => el(number ? 'td' : 'th', { class: heads[number][1], ...(number ? {} : { scope: 'row' }) }, cell))));
  return el('div', { class: 'scroll' }, el('table', {}, el('caption', { class: 'hidden' }, caption), el('thead', {}, head), el('tbody', {}, ...body)));
}

const empty = (text, command) => el('div', { class: 'empty' }, el('p', {}, text), ...(command ? [el('p', {}, el('code', {}, command))] : []));

const LISTS = ['queued', 'started', 'scheduled', 'deferred', 'finished', 'failed', 'canceled'];

function queues({ queues: found }) {
  if (!found.length) return [empty('No queue has had a job yet. This gives one to the workers:', 'hpcpools enqueue mytasks:function')];
  const count = (queue, list) => queue[list === 'queued' ? 'count' : `${list}_job_registry_count`];
  const cell = (queue, list) => el('a', { href: queue[`${list}_url`], class: list === 'failed' && count(queue, list) ? 'bad' : '' }, String(count(queue, list)));
  return [table('Queues', [['Queue'], ...LISTS.map((list) => [list, 'n'])], found.map((queue) => [queue.name, ...LISTS.map((list) => cell(queue, list))]))];
}

function workers({ workers: found }) {
  if (!found.length) return [empty('No worker is registered. This starts them:', 'hpcpools up')];
  const current = (worker) => (typeof worker.current_job === 'object' ? job(worker.current_job.job_id) : '');
  return [table('Workers', [['Worker'], ['State'], ['Job'], ['Queues', 'wide'], ['Heartbeat'], ['Finished', 'n'], ['Failed', 'n']], found.map((worker) => [worker.name, state(worker.state), current(worker), worker.queues.join(', '), when(worker.last_heartbeat), String(worker.successful_job_count), String(worker.failed_job_count)]))];
}

function jobs({ jobs: found, pagination }) {
  if (!found.length) return [empty(`No ${place.dataset.registry} jobs in this queue.`)];
  const what = (one) => {
    const last = (one.exc_info ?? '').trim().split('\n').pop();
    return el('div', {}, one.description ?? '', ...(last ? [el('br'), el('small', { class: 'dim' }, last.slice(0, 300))] : []));
  };
  const buttons = (one) => {
    if (!changing) return '';
    if (['failed', 'canceled'].includes(place.dataset.registry)) return button('Requeue', `${base}/job/${encodeURIComponent(one.id)}/requeue`);
    if (place.dataset.registry === 'finished') return '';
    return button('Cancel', `/jobs/${encodeURIComponent(one.id)}/cancel`, 'danger', 'Cancel this job?');
  };
  const parts = [table('Jobs', [['Job'], ['What', 'wide'], ['Created'], ['Started'], ['Ended'], ['']], found.map((one) => [job(one.id), what(one), when(one.created_at), when(one.started_at), when(one.ended_at), buttons(one)]))];
  if (pagination.num_pages > 1) {
    const link = (page, text) => (page ? el('a', { href: page.url }, text) : el('span', { class: 'dim' }, text));
    parts.push(el('nav', { class: 'pager', 'aria-label': 'Pages of the list' }, link(pagination.prev_page, 'Previous'), el('span', {}, `Page ${pagination.current_page} of ${pagination.num_pages}`), link(pagination.next_page, 'Next')));
  }
  return parts;
}

function single(found) {
  document.querySelector('[data-state]').replaceChildren(state(found.status));
  for (const each of document.querySelectorAll('[data-when]')) each.hidden = !each.dataset.when.split(' ').includes(found.status);
  const facts = el('dl', { class: 'facts' });
  const add = (name, value, kind = '') => value !== null && value !== undefined && value !== '' && facts.append(el('dt', {}, name), el('dd', { class: kind }, value));
  add('What', found.description, 'mono');
  add('Queue', found.origin);
  for (const name of ['created', 'enqueued', 'started', 'ended']) add(name[0].toUpperCase() + name.slice(1), found[`${name}_at`] ? when(found[`${name}_at`]) : '');
  add('Result', found.result === null ? '' : JSON.stringify(found.result), 'mono');
  add('Meta', found.metadata === '{}' ? '' : found.metadata, 'mono');
  if (found.depends_on) add('After', el('span', {}, ...found.depends_on.flatMap((id, number) => [job(id), found.depends_on_status[number] === 'active' ? ' ' : ' (gone) '])));
  const parts = [facts];
  if (found.exc_info) parts.push(el('section', {}, el('h2', {}, 'What it raised'), el('pre', { class: 'log', tabindex: '0', 'aria-label': 'Traceback' }, found.exc_info)));
  return parts;
}

function button(text, url, kind = '', question = undefined) {
  return el('button', { type: 'button', class: kind, 'data-post': url, 'data-confirm': question }, text);
}

const DRAW = { queues, workers, jobs, job: single };
let before = '';
let leaving = false; // what this page shows is being deleted

async function look() {
  if (leaving) return;
  const found = await ask(place.dataset.src);
  const text = JSON.stringify(found);
  note.replaceChildren('as of ', el('time', { 'data-at': Date.now() / 1000 }, '0s ago'));
  if (text === before || (before && place.contains(document.activeElement))) return;
  before = text;
  place.replaceChildren(...DRAW[place.dataset.rq](found));
}

repeat(look, 3000);

document.addEventListener('click', async (event) => {
  const pressed = event.target.closest('[data-post]');
  if (!pressed || (pressed.dataset.confirm && !confirm(pressed.dataset.confirm))) return;
  pressed.disabled = true;
  leaving = pressed.dataset.then !== undefined;
  try {
    await ask(pressed.dataset.post, { post: true });
    if (leaving) {
      location.assign(pressed.dataset.then);
      return;
    }
    pressed.blur();
    before = '';
    await look();
  } catch (error) {
    leaving = false;
    note.replaceChildren(el('span', { class: 'problem', role: 'alert' }, error.message));
  } finally {
    pressed.disabled = false;
  }
});

document.querySelector('form[data-go]')?.addEventListener('submit', (event) => {
  event.preventDefault();
  const form = event.target;
  const parts = [form.queue.value, form.registry.value, '25', form.order.value, '1'];
  location.assign(form.dataset.go + parts.map(encodeURIComponent).join('/'));
});
