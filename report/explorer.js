// What the page holds: for every cell of an image its likely cells in the other, the best first, their shares of the
// match scores, and its confidence. Points are pixels of the image that they belong to; the centre of its first is 0, 0.
// The page's address takes points: #120,80;33.5,4 of the source, with an r before it (r33.5,4) of the target.
const data = JSON.parse(document.getElementById("data").textContent);
const STRIDE = 4, REACH = 5; // pixels of the frame between cells, and half a cell's box
const side = data.frame / STRIDE, wide = 2 * data.likely + 1;
const directions = data.directions.map((text) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return data.bytes === 2 ? new Uint16Array(bytes.buffer) : new Uint32Array(bytes.buffer);
});
const HEAD = "source,target,source_x,source_y,target_x,target_y,confidence";
const stages = [0, 1].map((end) => document.getElementById("stage" + end));
const byId = (name) => document.getElementById(name);
const round = (value) => (Number.isNaN(value) ? "" : Number(value.toFixed(4)));
let kept = [], current = null;

/** The cells along one axis whose box contains a coordinate of the frame. */
function covering(at) {
  const cells = [];
  const last = Math.min(side - 1, Math.floor((at + REACH) / STRIDE));
  for (let k = Math.max(0, Math.ceil((at - REACH) / STRIDE)); k <= last; k++) cells.push(k);
  return cells;
}

/** Where a point of image `from` is in the other: as match.py, in single precision where that computes in it. */
function predict(from, x, y) {
  const [size, otherSize] = [data.sizes[from], data.sizes[1 - from]];
  const at = [x, y].map((value, axis) => Math.fround(value / (size[axis] / data.frame)));
  const shift = [0, 0], heat = new Map();
  let count = 0, confidence = 0;
  for (const row of covering(at[1])) for (const column of covering(at[0])) {
    const cell = row * side + column, first = cell * wide, matches = directions[from];
    shift[0] += (matches[first] % side - column) * STRIDE;
    shift[1] += (Math.floor(matches[first] / side) - row) * STRIDE;
    for (let k = 0; k < data.likely; k++) {
      const share = matches[first + data.likely + k] / data.unit;
      heat.set(matches[first + k], (heat.get(matches[first + k]) || 0) + share);
    }
    confidence += matches[first + 2 * data.likely] / data.unit;
    count++;
  }
  const to = at.map((value, axis) => {
    const moved = Math.fround(value + Math.fround(shift[axis] / count)) * (otherSize[axis] / data.frame);
    return Math.min(Math.max(moved, 0), otherSize[axis] - 1);
  });
  const cells = [...heat].map(([cell, share]) => ({cell, share: share / count})).sort((a, b) => b.share - a.share);
  return {from, at: [x, y], to, confidence: data.blank ? NaN : confidence / count, cells};
}

/** A point (x, y) of image `end` as a correspondence from the source to the target. */
const ends = (found) => (found.from ? [found.to, found.at] : [found.at, found.to]);
/** A field of a CSV file. */
const field = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
const coordinates = (xy) => xy.map((value) => value.toFixed(1)).join(", ");

function table() {
  const names = data.names.map(field).join(",");
  return [HEAD, ...kept.map((found) => [names, ...ends(found).flat().map(round), round(found.confidence)].join(","))]
    .join("\n") + "\n";
}

function element(name, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

/** A ring with a dark rim, seen on light and dark pictures; `radius` in pixels of the screen. */
function ring(xy, unit, radius, more = {}) {
  const look = {cx: xy[0] + 0.5, cy: xy[1] + 0.5, r: radius * unit, ...more};
  return [element("circle", {...look, class: "rim", "stroke-width": 4.5 * unit}),
    element("circle", {...look, class: "shape", "stroke-width": 2 * unit})];
}

/** Draws what is kept, the current point, and its prediction with the cells that it might be in. */
function draw() {
  stages.forEach((stage, end) => {
    const size = data.sizes[end], svg = stage.querySelector("svg");
    const unit = size[0] / (stage.clientWidth || size[0]); // pixels of the image by pixels of the screen
    const shapes = [];
    if (current && current.from !== end) {
      const [w, h] = size.map((value) => value * STRIDE / data.frame), most = current.cells[0].share || 1;
      for (const {cell, share} of current.cells) {
        const x = (cell % side - 0.5) * w + 0.5, y = (Math.floor(cell / side) - 0.5) * h + 0.5;
        const opacity = Math.max(0.12, 0.75 * share / most).toFixed(2);
        shapes.push(element("rect", {x, y, width: w, height: h, class: "heat", "fill-opacity": opacity,
          "stroke-width": unit / 2}));
      }
    }
    kept.forEach((found, number) => {
      const xy = ends(found)[end];
      shapes.push(...ring(xy, unit, 4));
      shapes.push(element("text", {x: xy[0] + 0.5 + 7 * unit, y: xy[1] + 0.5 + 5 * unit, class: "label",
        "font-size": 14 * unit, "stroke-width": 3 * unit}, String(number + 1)));
    });
    if (current) shapes.push(...ring(ends(current)[end], unit, current.from === end ? 6 : 9,
      current.from === end ? {} : {"stroke-dasharray": `${5 * unit} ${3 * unit}`}));
    svg.replaceChildren(...shapes);
  });
  byId("now").textContent = current ? sentence(current) : "No point yet.";
}

function sentence(found) {
  const words = ["source", "target"];
  const others = found.cells.slice(0, 5).map(({cell, share}) => {
    const xy = [cell % side, Math.floor(cell / side)];
    const at = xy.map((k, axis) => Math.round(k * STRIDE * data.sizes[1 - found.from][axis] / data.frame));
    return `${(100 * share).toFixed(0)} % at ${at.join(", ")}`;
  });
  return `${words[found.from]} ${coordinates(found.at)} → ${words[1 - found.from]} ${coordinates(found.to)}, ` +
    `confidence ${data.blank ? "none: an image has one colour everywhere" : found.confidence.toFixed(2)}. Likeliest cells, with their shares of the match scores: ${others.join("; ")}.`;
}

function changed() {
  byId("table").textContent = table();
  byId("undo").disabled = byId("clear").disabled = !kept.length;
  draw();
}

function keep() {
  if (!current) return;
  kept.push(current);
  const points = kept.map((found) => (found.from ? "r" : "") + found.at.map(round).join(","));
  history.replaceState(null, "", "#" + points.join(";"));
  changed();
}

function drop(count) {
  kept = kept.slice(0, Math.max(0, kept.length - count));
  changed();
}

function show(from, x, y) {
  const [width, height] = data.sizes[from];
  current = predict(from, Math.min(Math.max(x, 0), width - 1), Math.min(Math.max(y, 0), height - 1));
  draw();
}

/** Takes the points of the address for those that are kept. */
function address() {
  const wrong = [];
  kept = [];
  for (const text of location.hash.slice(1).split(/;|%3B/i).filter(Boolean)) {
    const [, mark, ...xy] = /^(r?)(\d+\.?\d*)(?:,|%2C)(\d+\.?\d*)$/i.exec(text) || [];
    const from = mark ? 1 : 0, point = xy.map(Number);
    if (xy.length && point.every((value, axis) => value <= data.sizes[from][axis])) kept.push(predict(from, ...point));
    else wrong.push(text);
  }
  current = kept.at(-1) || null;
  changed();
  if (wrong.length) byId("now").textContent = `Not points of these images: ${wrong.join("; ")}`;
}

stages.forEach((stage, from) => {
  const point = (event) => {
    const box = stage.getBoundingClientRect();
    show(from, (event.clientX - box.left) / box.width * data.sizes[from][0] - 0.5,
      (event.clientY - box.top) / box.height * data.sizes[from][1] - 0.5);
  };
  stage.addEventListener("pointermove", point);
  stage.addEventListener("pointerdown", point);
  // A finger's tap only shows, since nothing hovers: the button keeps.
  stage.addEventListener("click", (event) => event.pointerType === "mouse" && keep());
  stage.addEventListener("keydown", (event) => {
    const moves = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
    const start = current && current.from === from ? current.at : data.sizes[from].map((value) => Math.floor(value / 2));
    const step = event.shiftKey ? 10 : 1;
    if (moves[event.key]) show(from, ...start.map((value, axis) => value + step * moves[event.key][axis]));
    else if (event.key === "Enter" || event.key === " ") keep();
    else if (event.key === "Backspace" || event.key === "Delete") drop(1);
    else return;
    event.preventDefault();
  });
});
byId("keep").addEventListener("click", keep);
byId("undo").addEventListener("click", () => drop(1));
byId("clear").addEventListener("click", () => drop(kept.length));
byId("copy").addEventListener("click", async () => {
  const done = await copied(table());
  byId("now").textContent = done ? `Copied ${kept.length} points.` : "Not copied: select the table and copy it.";
});
addEventListener("hashchange", address);
addEventListener("resize", draw);
address();
