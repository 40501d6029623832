// What every page does: ages that grow, parts that renew themselves, questions before changes.
const EVERY = 5000; // milliseconds between two looks at a page that is seen
const offline = document.querySelector('.offline');

export function csrf() {
  return document.querySelector('meta[name=csrf]')?.content ?? '';
}

// GET as JSON or text, or POST. Shows when nobody answers; goes to the login when that is over.
export async function ask(url, { post = false, kind = 'json' } = {}) {
  let answer;
  try {
    const accept = kind === 'json' ? 'application/json' : 'text/html';
    const headers = { Accept: accept, ...(post ? { 'X-CSRF-Token': csrf() } : {}) };
    answer = await fetch(url, { method: post ? 'POST' : 'GET', headers, cache: 'no-store' });
  } catch (error) {
    offline.hidden = false;
    throw error;
  }
  offline.hidden = true;
  if (answer.status === 401 || (answer.redirected && new URL(answer.url).pathname === '/login')) {
    location.assign(`/login?to=${encodeURIComponent(location.pathname)}`);
  }
  if (!answer.ok) {
    const said = kind === 'json' ? (await answer.json().catch(() => ({}))).error : '';
    throw new Error(said || `${answer.status}`);
  }
  return kind === 'json' ? answer.json() : answer.text();
}

export function age(at) {
  const past = Date.now() / 1000 - at;
  const value = Math.abs(past);
  for (const [unit, size] of [['d', 86400], ['h', 3600], ['m', 60]]) {
    if (value >= size) return past < 0 ? `in ${Math.floor(value / size)}${unit}` : `${Math.floor(value / size)}${unit} ago`;
  }
  return past < 0 ? `in ${Math.floor(value)}s` : `${Math.floor(value)}s ago`;
}

// Calls `look` now and again while the page is seen; a look that fails is followed by a longer wait.
export function repeat(look, every = EVERY) {
  let wait = every;
  async function turn() {
    if (!document.hidden) {
      try {
        if ((await look()) === false) return;
        wait = every;
      } catch {
        wait = Math.min(wait * 2, 60000);
      }
    }
    setTimeout(turn, wait);
  }
  turn();
}

function tick() {
  for (const each of document.querySelectorAll('time[data-at]')) {
    const text = age(Number(each.dataset.at));
    if (each.textContent !== text) each.textContent = text;
  }
}
setInterval(tick, 1000);

// The parts marked data-live are taken from a fresh copy of the page, unless somebody is in them.
async function renew() {
  const parts = [...document.querySelectorAll('[data-live]')];
  if (!parts.length) return false;
  const text = await ask(location.href, { kind: 'html' });
  const fresh = new DOMParser().parseFromString(text, 'text/html');
  for (const part of parts) {
    const copy = fresh.getElementById(part.id);
    const busy = part.contains(document.activeElement) || String(getSelection()).length > 0;
    if (!copy || busy || copy.innerHTML === part.innerHTML) continue;
    const word = (where) => where.querySelector('.state')?.textContent;
    const same = word(part) === word(copy); // in another state there is another explanation
    for (const kept of !same ? [] : part.querySelectorAll('.fragment[data-loaded], details[open]')) {
      const place = kept.matches('details') ? copy.querySelector('details') : copy.querySelector('.fragment');
      place?.replaceWith(kept);
    }
    part.replaceWith(document.adoptNode(copy));
  }
  load();
  return true;
}
setTimeout(() => repeat(renew), EVERY);

// Parts that may take a while to answer come after the page.
function load() {
  for (const place of document.querySelectorAll('.fragment[data-src]:not([data-loaded])')) {
    place.dataset.loaded = '';
    ask(place.dataset.src, { kind: 'html' }).then((text) => {
      const found = new DOMParser().parseFromString(text, 'text/html');
      place.replaceChildren(...found.body.childNodes);
    }, () => {});
  }
}
load();

document.addEventListener('submit', (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});
