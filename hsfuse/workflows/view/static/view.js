"use strict";
// A map of tiles on a canvas, and the spectrum of the pixel that was clicked. Nothing is loaded from elsewhere.
const find = (id) => document.getElementById(id);
const canvas = find("canvas"), pen = canvas.getContext("2d");
const view = { row: 0, col: 0, zoom: 1 }; // Cube pixel in the middle; screen pixels per cube pixel.
const tiles = new Map();
let about = null, arrows = [], picked = null, shown = null, waiting = false;

const wanted = () => {
  const chosen = about.composites.find((each) => each.key === find("composite").value);
  return chosen ? chosen.nm : ["red", "green", "blue"].map((name) => Number(find(name).value));
};
const draw = () => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; paint(); });
};

function tile(layer, level, row, col) {
  const address = `tile/${layer}/${level}/${row}/${col}.png?nm=${layer === "change" ? "" : wanted().join(",")}`;
  let image = tiles.get(address);
  if (!image) {
    image = new Image();
    image.addEventListener("load", draw);
    image.src = address;
    tiles.set(address, image);
    if (tiles.size > 400) tiles.delete(tiles.keys().next().value);
  }
  return image.complete && image.naturalWidth ? image : null;
}

function paint() {
  const dense = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * dense) || canvas.height !== Math.round(height * dense)) {
    canvas.width = Math.round(width * dense);
    canvas.height = Math.round(height * dense);
  }
  pen.setTransform(dense, 0, 0, dense, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.imageSmoothingEnabled = view.zoom < 1;
  const against = find("against").value, border = (width * find("swipe").value) / 100;
  layer("fused", 0, against ? border : width, width, height);
  if (against) layer(against, border, width, width, height);
  if (find("change").checked) layer("change", 0, width, width, height);
  if (find("vectors").checked) vectors(width, height);
  if (against) line(border, 0, border, height, "#fff", 2);
  if (picked) mark(width, height);
  scale();
}

const across = (col, width) => (col - view.col) * view.zoom + width / 2;
const down = (row, height) => (row - view.row) * view.zoom + height / 2;

function layer(name, from, to, width, height) {
  const dense = devicePixelRatio || 1;
  const best = Math.min(Math.max(Math.floor(Math.log2(1 / (view.zoom * dense)) + 0.5), 0), about.levels - 1);
  pen.save();
  pen.beginPath();
  pen.rect(from, 0, to - from, height);
  pen.clip();
  // Coarse tiles first: something is seen at once, and finer ones lie on top of it.
  for (let level = about.levels - 1; level >= best; level -= 1) {
    if (level !== best && level !== about.levels - 1 && level !== best + 1) continue;
    const side = about.tile * 2 ** level;
    const first = (middle, size) => Math.max(Math.floor((middle - size / 2 / view.zoom) / side), 0);
    const last = (middle, size, most) => Math.min(Math.ceil((middle + size / 2 / view.zoom) / side), Math.ceil(most / side));
    for (let row = first(view.row, height); row < last(view.row, height, about.height); row += 1)
      for (let col = first(view.col, width); col < last(view.col, width, about.width); col += 1) {
        const image = tile(name, level, row, col);
        if (!image) continue;
        const rows = Math.min(side, about.height - row * side), cols = Math.min(side, about.width - col * side);
        pen.drawImage(image, across(col * side, width), down(row * side, height), cols * view.zoom, rows * view.zoom);
      }
  }
  pen.restore();
}

function line(x0, y0, x1, y1, colour, thick) {
  pen.strokeStyle = colour;
  pen.lineWidth = thick;
  pen.beginPath();
  pen.moveTo(x0, y0);
  pen.lineTo(x1, y1);
  pen.stroke();
}

function vectors(width, height) {
  if (!arrows.length) return;
  const middle = (name) => [...arrows].map((each) => each[name]).sort((a, b) => a - b)[arrows.length >> 1];
  const east = middle("dx_m"), north = middle("dy_m");
  // What is left beside the shift of the scene: the shift itself is one number and stands in the heading.
  const longest = Math.max(...arrows.map((each) => Math.hypot(each.dx_m - east, each.dy_m - north)), 0.01);
  for (const each of arrows) {
    const x = across(each.col, width), y = down(each.row, height), length = 46 / longest;
    const tip = [x + (each.dx_m - east) * length, y - (each.dy_m - north) * length];
    line(x, y, ...tip, "#000", 4);
    line(x, y, ...tip, "#ffe14d", 2);
    pen.fillStyle = "#ffe14d";
    pen.fillRect(x - 2, y - 2, 4, 4);
  }
  pen.font = "12px system-ui, sans-serif";
  const words = `shift ${east.toFixed(1)} m east, ${north.toFixed(1)} m north; arrows: beyond it, longest ${longest.toFixed(1)} m`;
  pen.fillStyle = "#000b";
  pen.fillRect(8, height - 84, pen.measureText(words).width + 12, 20);
  pen.fillStyle = "#fff";
  pen.fillText(words, 14, height - 70);
}

function mark(width, height) {
  const x = across(picked.col + 0.5, width), y = down(picked.row + 0.5, height), side = Math.max(view.zoom, 8);
  pen.strokeStyle = "#000";
  pen.lineWidth = 4;
  pen.strokeRect(x - side / 2, y - side / 2, side, side);
  pen.strokeStyle = "#fff";
  pen.lineWidth = 2;
  pen.strokeRect(x - side / 2, y - side / 2, side, side);
}

function scale() {
  const most = 140 / view.zoom * about.pixel_m, power = 10 ** Math.floor(Math.log10(most));
  const length = [5, 2, 1].map((step) => step * power).find((each) => each <= most) || power;
  find("scale").style.width = `${(length / about.pixel_m) * view.zoom}px`;
  find("scale").textContent = length >= 1000 ? `${length / 1000} km` : `${length} m`;
}

function fit() {
  view.row = about.height / 2;
  view.col = about.width / 2;
  view.zoom = Math.min(canvas.clientWidth / about.width, canvas.clientHeight / about.height) || 1;
  draw();
}

function zoom(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  const before = view.zoom;
  view.zoom = Math.min(Math.max(view.zoom * factor, 0.01), 40);
  // What lies under the pointer stays there.
  view.col += (x - canvas.clientWidth / 2) * (1 / before - 1 / view.zoom);
  view.row += (y - canvas.clientHeight / 2) * (1 / before - 1 / view.zoom);
  draw();
}

async function pick(row, col) {
  if (row < 0 || col < 0 || row >= about.height || col >= about.width) return;
  picked = { row, col };
  draw();
  // Sentinel-2 may have to be decoded first: what is ready is shown at once.
  const quick = about.layers.map((each) => each.name).filter((name) => name !== "sentinel2");
  const ask = async (names) => (await fetch(`spectrum.json?row=${row}&col=${col}&layers=${names.join(",")}`)).json();
  const found = await ask(quick);
  const current = () => picked.row === row && picked.col === col;
  if (!current()) return;
  find("spectrum").hidden = false;
  find("pixel").textContent = `of row ${row}, column ${col}`;
  find("place").textContent = `x ${found.x}, y ${found.y} (${found.crs}); ${found.latitude}° N, ${found.longitude}° E`;
  const known = found.confidence;
  find("confidence").textContent = known
    ? `Probability that Sentinel-2 shows other ground: ${percent(known.change_probability)}; expected error: `
      + `${percent(known.relative_error)} of the brightness (shaded); made of: ${known.source}.`
    : "This cube has no confidence layer (--quality fast, standard or best writes one).";
  find("csv").href = `spectrum.csv?row=${row}&col=${col}`;
  find("csv").download = `${about.name}.row${row}.col${col}.csv`;
  shown = found;
  chart(found);
  if (quick.length === about.layers.length) return;
  const rest = await ask(["sentinel2"]);
  if (!current()) return;
  found.series.push(...rest.series);
  chart(found);
}
const percent = (value) => (value === null ? "not known" : `${(100 * value).toFixed(1)} %`);

function chart(found) {
  const width = Math.min(Math.max(find("chart").clientWidth, 300), 1300), height = 300, left = 48, bottom = 34, top = 30, right = 12;
  const points = found.series.flatMap((each) => each.nm.map((nm, i) => [nm, each.reflectance[i]]))
    .filter(([nm, value]) => nm !== null && value !== null);
  find("chart").replaceChildren();
  if (!points.length) {
    find("chart").textContent = "No data at this pixel: cloud, or outside the images.";
    return;
  }
  const low = Math.min(...points.map((each) => each[0])) - 10, high = Math.max(...points.map((each) => each[0])) + 10;
  const most = Math.max(...points.map((each) => each[1]), 0.05) * 1.08;
  const x = (nm) => left + ((nm - low) / (high - low)) * (width - left - right);
  const y = (value) => height - bottom - (Math.max(value, 0) / most) * (height - bottom - top);
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Reflectance by wavelength" });
  for (let i = 0; i <= 4; i += 1) {
    const value = (most * i) / 4;
    svg.append(element("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    svg.append(element("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(2)));
  }
  const tick = width < 500 ? 500 : 250;
  for (let nm = Math.ceil(low / tick) * tick; nm < high; nm += tick)
    svg.append(element("text", { x: x(nm), y: height - 14, "text-anchor": "middle" }, nm));
  svg.append(element("text", { x: left, y: height - 1 }, "reflectance by wavelength, nm"));
  const error = found.confidence ? found.confidence.relative_error : null;
  let place = 4;
  for (const each of found.series) {
    if (each.layer === "fused") curve(svg, each, x, y, error);
    else for (let i = 0; i < each.nm.length; i += 1) {
      if (each.nm[i] === null || each.reflectance[i] === null) continue;
      if (each.layer === "prisma") svg.append(element("circle", { class: "prisma", cx: x(each.nm[i]), cy: y(each.reflectance[i]), r: 1.9 }));
      else {
        const half = each.fwhm[i] / 2, level = y(each.reflectance[i]);
        svg.append(element("line", { class: "sentinel2", x1: x(each.nm[i] - half), x2: x(each.nm[i] + half), y1: level, y2: level }));
      }
    }
    const words = each.layer === "fused" ? "line: fused" : each.layer === "prisma" ? `dots: ${each.title}` : `bars: ${each.title}`;
    svg.append(element("text", { class: each.layer, x: place, y: 14 }, words));
    place += 6.6 * words.length + 16;
  }
  find("chart").append(svg);
}

function curve(svg, each, x, y, error) {
  // A gap of the bands is a gap of the line.
  const parts = [[]];
  each.nm.forEach((nm, i) => {
    const before = parts[parts.length - 1], last = before[before.length - 1];
    if (each.reflectance[i] === null) { if (before.length) parts.push([]); return; }
    if (last && nm - last[0] > 60) parts.push([]);
    parts[parts.length - 1].push([nm, each.reflectance[i]]);
  });
  for (const part of parts.filter((points) => points.length)) {
    const path = (points) => points.map(([nm, value]) => `${x(nm).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    if (error !== null) {
      const edge = [...part.map(([nm, v]) => [nm, v * (1 + error)]), ...[...part].reverse().map(([nm, v]) => [nm, v * (1 - error)])];
      svg.append(element("polygon", { class: "band", points: path(edge) }));
    }
    svg.append(element("polyline", { class: "fused", points: path(part) }));
  }
}

function element(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function listen() {
  const touches = new Map();
  let moved = 0;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    touches.set(event.pointerId, [event.offsetX, event.offsetY]);
    moved = touches.size > 1 ? 99 : 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!touches.has(event.pointerId)) return;
    const [x, y] = touches.get(event.pointerId), [dx, dy] = [event.offsetX - x, event.offsetY - y];
    if (touches.size === 2) {
      const other = [...touches].find(([id]) => id !== event.pointerId)[1];
      const apart = (px, py) => Math.hypot(px - other[0], py - other[1]) || 1;
      zoom(apart(event.offsetX, event.offsetY) / apart(x, y), other[0], other[1]);
    } else {
      view.col -= dx / view.zoom;
      view.row -= dy / view.zoom;
    }
    moved += Math.abs(dx) + Math.abs(dy);
    touches.set(event.pointerId, [event.offsetX, event.offsetY]);
    draw();
  });
  const up = (event) => {
    if (touches.delete(event.pointerId) && moved < 6 && event.type === "pointerup")
      pick(Math.floor((event.offsetY - canvas.clientHeight / 2) / view.zoom + view.row),
        Math.floor((event.offsetX - canvas.clientWidth / 2) / view.zoom + view.col));
  };
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.25 : 0.8, event.offsetX, event.offsetY);
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = 60 / view.zoom, moves = { ArrowUp: [-step, 0], ArrowDown: [step, 0], ArrowLeft: [0, -step], ArrowRight: [0, step] };
    if (event.key === "+" || event.key === "-") zoom(event.key === "+" ? 1.25 : 0.8);
    else if (event.key === "Enter") pick(Math.floor(view.row), Math.floor(view.col));
    else if (moves[event.key]) { view.row += moves[event.key][0]; view.col += moves[event.key][1]; draw(); } else return;
    event.preventDefault();
  });
  find("in").addEventListener("click", () => zoom(1.6));
  find("out").addEventListener("click", () => zoom(1 / 1.6));
  find("fit").addEventListener("click", fit);
  for (const id of ["change", "vectors", "swipe", "red", "green", "blue"]) find(id).addEventListener("input", draw);
  find("composite").addEventListener("change", () => { find("three").hidden = find("composite").value !== "three"; draw(); });
  find("against").addEventListener("change", tags);
  addEventListener("resize", () => { draw(); if (shown) chart(shown); });
}

function tags() {
  const chosen = about.layers.find((each) => each.name === find("against").value);
  find("swipe").hidden = find("left-tag").hidden = find("right-tag").hidden = !chosen;
  find("left-tag").textContent = about.layers[0].title;
  find("right-tag").textContent = chosen ? chosen.title : "";
  draw();
}

async function start() {
  about = await (await fetch("about.json")).json();
  document.title = `${about.name} - hsfuse view`;
  find("name").textContent = about.name;
  const error = about.coregistration_rmse_m ? `, co-registration error ${about.coregistration_rmse_m.toFixed(1)} m` : "";
  find("about").textContent = `${about.height} x ${about.width} pixels of ${about.pixel_m} m, ${about.bands.length} bands, ${about.crs}`
    + `${about.method ? `, made by ${about.method}` : ""}${error}`;
  const option = (value, text) => new Option(text, value);
  find("composite").append(...about.composites.map((each) => option(each.key, each.title)), option("three", "Any three bands"));
  for (const [place, name] of ["red", "green", "blue"].entries()) {
    find(name).append(...about.bands.map((each) => option(each.nm, each.name)));
    const near = [...about.bands].sort((a, b) => Math.abs(a.nm - about.composites[0].nm[place]) - Math.abs(b.nm - about.composites[0].nm[place]))[0];
    find(name).value = near.nm;
  }
  find("against").append(...about.layers.slice(1).map((each) => option(each.name, each.title)));
  find("change-label").hidden = !about.change;
  find("vectors-label").hidden = !about.vectors;
  find("notes").append(...about.notes.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  if (about.vectors) arrows = await (await fetch("vectors.json")).json();
  listen();
  fit();
  // What the address asks for: #row,col picks a pixel, #row,col,layer swipes too.
  const [row, col, against] = location.hash.slice(1).split(",");
  if (against) { find("against").value = against; tags(); }
  if (col !== undefined) pick(Number(row), Number(col));
  document.body.dataset.ready = "yes";
}
start();
