// Draws the plots from the page's data, and filters plots, tables and samples by method and backbone.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const looks = Object.fromEntries(data.methods.map((method) => [method.name, method]));
const off = { method: new Set(), backbone: new Set() };
const charts = [];

const shown = (item) => !off.method.has(item.method) && !off.backbone.has(item.backbone);
const short = (value) => (value === null ? "–" : String(Number(Number(value).toPrecision(4))));

// ---- plots

Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
Chart.defaults.color = "#5d6672";
Chart.defaults.animation = false;

function frame(parent, title, text, backbone) {
  const box = document.createElement("div");
  box.className = "chart";
  if (backbone) box.dataset.backbone = backbone;
  const heading = box.appendChild(document.createElement("h3"));
  heading.textContent = title;
  if (text) {
    const note = box.appendChild(document.createElement("p"));
    note.className = "note";
    note.textContent = text;
  }
  const holder = box.appendChild(document.createElement("div"));
  holder.className = "canvas";
  parent.appendChild(box);
  return holder.appendChild(document.createElement("canvas"));
}

function axis(description, extra) {
  return {
    type: description.logarithmic ? "logarithmic" : "linear",
    beginAtZero: Boolean(description.fromZero),
    title: { display: Boolean(description.label), text: description.label },
    grid: { color: "#eceff2" },
    ticks: { maxTicksLimit: 7, maxRotation: 0, callback: (value) => compact(value) },
    ...extra,
  };
}

function compact(value) {
  return new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(value);
}

function dataset(series, kind, labels) {
  const look = looks[series.method];
  return {
    series,
    label: series.method + (series.backbone ? ` · ${series.backbone}` : ""),
    data: kind === "bar" ? series.points.map((point) => ({ ...point, x: point.y, y: labels[point.x] })) : series.points,
    borderColor: look.colour,
    backgroundColor: look.colour,
    borderDash: look.dashed && kind === "line" ? [5, 3] : [],
    borderWidth: kind === "bar" ? 0 : 1.8,
    pointRadius: kind === "scatter" ? 5 : series.points.length > 25 ? 0 : 2.5,
    pointHoverRadius: 6,
    showLine: kind === "line",
    skipNull: true,
  };
}

// Intervals: a band behind a line, a whisker on a point or along a bar, which lies: names are long, phones narrow.
const intervals = {
  id: "intervals",
  beforeDatasetsDraw(chart, _, { kind }) {
    if (kind === "line") drawIntervals(chart, band);
  },
  afterDatasetsDraw(chart, _, { kind }) {
    if (kind !== "line") drawIntervals(chart, whiskers, kind === "bar");
  },
};

function drawIntervals(chart, shape, lying) {
  const { ctx, chartArea: area, scales } = chart;
  const value = lying ? scales.x : scales.y;
  ctx.save();
  ctx.beginPath();
  ctx.rect(area.left, area.top, area.width, area.height);
  ctx.clip();
  chart.data.datasets.forEach((drawn, index) => {
    if (!chart.isDatasetVisible(index)) return;
    const places = chart.getDatasetMeta(index).data;
    const ends = drawn.data
      .map(({ low, high }, i) => ({ at: lying ? places[i].y : places[i].x, low: value.getPixelForValue(low), high: value.getPixelForValue(high) }))
      .filter((end) => Number.isFinite(end.low) && Number.isFinite(end.high));
    ctx.beginPath();
    shape(ctx, ends, lying, drawn.borderColor);
  });
  ctx.restore();
}

function band(ctx, ends, _lying, colour) {
  for (const end of ends) ctx.lineTo(end.at, end.high);
  for (const end of ends.toReversed()) ctx.lineTo(end.at, end.low);
  ctx.fillStyle = colour + "26";
  ctx.fill();
}

function whiskers(ctx, ends, lying) {
  for (const { at, low, high } of ends) {
    ctx.moveTo(...(lying ? [low, at] : [at, low]));
    ctx.lineTo(...(lying ? [high, at] : [at, high]));
  }
  ctx.strokeStyle = "#1c1f24";
  ctx.lineWidth = 1.2;
  ctx.stroke();
}

function hoverText(item) {
  const { low, high, note } = item.raw;
  const value = item.raw[item.chart.options.indexAxis === "y" ? "x" : "y"];
  const interval = low === undefined ? "" : ` [${short(low)}, ${short(high)}]`;
  return `${item.dataset.label}: ${note && value === null ? note : short(value)}${interval}`;
}

// An option a line; a long one is broken once more.
function lines(label) {
  return label.split(", ").flatMap((option) => (option.length > 22 ? option.split(/(?<==)/) : option));
}

function draw(canvas, chart) {
  const [bar, scatter] = [chart.kind === "bar", chart.kind === "scatter"];
  const labels = chart.x.labels;
  const names = { type: "category", grid: { display: false }, ticks: { autoSkip: false, callback: (i) => lines(labels[i]) } };
  const points = chart.series.flatMap((series) => series.points).filter((point) => point.y !== null);
  const room = {
    suggestedMin: bar ? 0 : Math.min(...points.map((point) => point.low ?? point.y)),
    suggestedMax: Math.max(...points.map((point) => point.high ?? point.y)),
  };
  const logarithmic = chart.y.logarithmic && room.suggestedMax > 2.5 * room.suggestedMin;
  const values = axis({ ...chart.y, logarithmic }, room);
  if (bar) {
    const room = 10 + 15 * Math.max(...labels.map((label) => lines(label).length));
    canvas.parentElement.style.height = `${60 + Math.max(180, 22 * points.length, room * labels.length)}px`;
  }
  const drawn = new Chart(canvas, {
    type: bar ? "bar" : "line",
    data: { labels, datasets: chart.series.map((series) => dataset(series, chart.kind, labels)) },
    plugins: [intervals],
    options: {
      maintainAspectRatio: false,
      parsing: bar && {},
      indexAxis: bar ? "y" : "x",
      interaction: { mode: "nearest", intersect: false },
      scales: bar ? { x: values, y: names } : { x: axis(chart.x, scatter ? { grace: "8%" } : {}), y: values },
      plugins: {
        legend: { display: false },
        intervals: { kind: chart.kind },
        tooltip: {
          callbacks: {
            title: (items) => items.slice(0, 1).map((item) => (bar ? item.label : `${chart.x.label}: ${compact(item.raw.x)}`)),
            label: hoverText,
          },
        },
      },
    },
  });
  charts.push(drawn);
  return drawn;
}

// ---- convergence, by metric and cost

function curveSeries(backbone, metric, cost) {
  return data.curves
    .filter((curve) => curve.backbone === backbone)
    .map((curve) => {
      const [x, mean, low, high] = curve.points[metric][cost];
      return { method: curve.method, backbone, points: x.map((_, i) => ({ x: x[i], y: mean[i], low: low[i], high: high[i] })) };
    });
}

const [metric, cost] = ["metric", "cost"].map((id) => document.getElementById(id));
for (const item of data.measures) metric.add(new Option(item.label, item.key));
for (const item of data.costs) cost.add(new Option(item.label, item.key));
const curves = data.backbones.map((backbone) => ({ canvas: frame(document.getElementById("curves"), backbone, "", backbone), backbone }));

function drawCurves() {
  const y = data.measures.find((item) => item.key === metric.value);
  const x = data.costs.find((item) => item.key === cost.value);
  for (const place of curves) {
    if (place.drawn) charts.splice(charts.indexOf(place.drawn), 1);
    place.drawn?.destroy();
    place.drawn = draw(place.canvas, { kind: "line", x: { ...x, fromZero: true }, y, series: curveSeries(place.backbone, y.key, x.key) });
  }
  filter();
}

// ---- filter

function filter() {
  for (const element of document.querySelectorAll("main [data-method], main [data-backbone]")) {
    element.hidden = !shown(element.dataset);
  }
  for (const chart of charts) {
    chart.data.datasets.forEach((dataset, index) => chart.setDatasetVisibility(index, shown(dataset.series)));
    chart.update();
  }
}

function chip(kind, name, colour) {
  const button = document.createElement("button");
  button.textContent = name;
  button.setAttribute("aria-pressed", "true");
  if (colour) button.style.setProperty("--colour", colour);
  button.addEventListener("click", () => {
    const pressed = button.getAttribute("aria-pressed") === "true";
    button.setAttribute("aria-pressed", String(!pressed));
    off[kind][pressed ? "add" : "delete"](name);
    filter();
  });
  document.querySelector(`.chips[data-kind="${kind}"]`).append(button);
}

for (const method of data.methods) chip("method", method.name, method.colour);
for (const backbone of data.backbones) chip("backbone", backbone);

for (const chart of data.charts) draw(frame(document.getElementById("charts"), chart.title, chart.text), chart);
for (const select of [metric, cost]) select.addEventListener("change", drawCurves);
drawCurves();

// Headings sort by keyboard as they do by mouse.
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.matches("th")) event.target.click();
});
