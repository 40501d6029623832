// The log of one attempt: its end at once, then what is added. Text only, never markup.
import { ask, repeat } from './app.js';

const place = document.querySelector('.logview');
const form = place.querySelector('form');
const box = place.querySelector('pre');
const note = place.querySelector('[role=status]');
const MOST = 400000; // characters kept on the page
let next = null;
let turn = 0;

async function look() {
  if (!form.follow.checked && next !== null) return true;
  const mine = turn;
  const asked = new URLSearchParams({ attempt: form.attempt.value, stream: form.stream.value, node: form.node.value });
  if (next !== null) asked.set('at', next);
  const piece = await ask(`${place.dataset.src}?${asked}`);
  if (mine !== turn) return true;
  if (next === null) {
    box.textContent = '';
    nodes(piece.nodes);
  }
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  if (piece.text) {
    box.append(piece.text);
    if (box.textContent.length > MOST) box.textContent = box.textContent.slice(-MOST / 2);
  }
  next = piece.next;
  if (atEnd || box.scrollTop === 0) box.scrollTop = box.scrollHeight;
  const shown = box.textContent.length;
  note.textContent = shown ? `${piece.size.toLocaleString('en')} bytes in all` : 'Nothing was written here.';
  return !(piece.over && next >= piece.size);
}

function nodes(names) {
  form.node.closest('label').hidden = !names.length;
  if (form.node.options.length !== names.length) {
    form.node.replaceChildren(...names.map((name) => new Option(name, name)));
  }
}

form.addEventListener('change', (event) => {
  if (event.target.name !== 'follow') {
    next = null;
    turn += 1;
  }
  repeat(look, 2000);
});
form.addEventListener('submit', (event) => event.preventDefault());
repeat(look, 2000);
