// The curves of a run, drawn by uPlot; its colours are those of the style sheet.
import { ask, repeat } from './app.js';

const place = document.querySelector('.curves');
const COLOURS = ['--accent', '--good', '--warn', '--bad', '--busy', '--dim'];
const TITLES = { metrics: 'Logged', gpus: 'GPU utilisation, %' };
const drawn = new Map();

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function draw(box, kind, data) {
  if (!data.x.length || !data.names.length) return;
  const steps = data.axis === 'step';
  const axis = { stroke: style('--dim'), grid: { stroke: style('--line'), width: 1 }, ticks: { stroke: style('--line') } };
  const options = {
    title: TITLES[kind],
    width: box.clientWidth - 26,
    height: 230,
    cursor: { drag: { x: true, y: false } },
    scales: { x: { time: !steps }, y: kind === 'gpus' ? { range: [0, 100] } : {} },
    axes: [{ ...axis }, { ...axis, size: 54 }],
    series: [
      { label: steps ? 'step' : 'time' },
      ...data.names.map((name, number) => ({
        label: name,
        stroke: style(COLOURS[number % COLOURS.length]),
        width: 1.75,
        spanGaps: kind === 'metrics',
        points: { show: data.x.length < 40 },
        show: number < 2 || kind === 'gpus',
      })),
    ],
  };
  const values = [data.x, ...data.columns];
  const before = drawn.get(box);
  if (before && before.series.length === options.series.length) {
    before.setData(values);
    return;
  }
  before?.destroy();
  box.replaceChildren();
  drawn.set(box, new uPlot(options, values, box));
}

async function look() {
  const data = await ask(place.dataset.src);
  for (const box of place.querySelectorAll('.chart')) draw(box, box.dataset.series, data[box.dataset.series]);
  place.dataset.drawn = '';
  return 'again' in place.dataset;
}

repeat(look);
addEventListener('resize', () => {
  for (const [box, chart] of drawn) chart.setSize({ width: box.clientWidth - 26, height: 230 });
});
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
  for (const chart of drawn.values()) chart.destroy();
  drawn.clear();
  look();
});
