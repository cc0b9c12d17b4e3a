"use strict";
// The report's pictures: two layers with a divider between them, a line to be drawn, values along it.
(async () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (id) => document.getElementById(id);
  const stage = find("stage"), overlay = find("overlay"), ends = [find("start"), find("finish")];
  const state = { view: 0, left: data.left, right: data.right, split: 50, actual: false, line: null };
  const unit = data.units ? " " + data.units : "";

  // --- values: little-endian uint16, deflated; 0 is unknown, q means low + (q - 1) * step
  async function unpack(grid) {
    const bytes = Uint8Array.from(atob(grid.values), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const view = new DataView(await new Response(stream).arrayBuffer());
    const values = new Float64Array(grid.rows * grid.columns);
    for (let i = 0; i < values.length; i++) {
      const q = view.getUint16(2 * i, true);
      values[i] = q ? grid.low + (q - 1) * grid.step : NaN;
    }
    return { rows: grid.rows, columns: grid.columns, values };
  }
  for (const view of data.views) {
    view.grids = {};
    for (const [name, grid] of Object.entries(view.surfaces)) view.grids[name] = await unpack(grid);
  }
  const current = () => data.views[state.view];

  // the value of a layer at a place in the view: the pixel that holds it, as stored
  function valueAt(name, column, row) {
    const view = current(), grid = view.grids[name];
    if (!grid || column < 0 || row < 0 || column >= view.columns || row >= view.rows) return NaN;
    const i = Math.min(Math.floor((row / view.rows) * grid.rows), grid.rows - 1);
    const j = Math.min(Math.floor((column / view.columns) * grid.columns), grid.columns - 1);
    return grid.values[i * grid.columns + j];
  }

  // --- numbers for people
  function digits(step) { return Math.max(0, Math.min(8, Math.ceil(-Math.log10(step)))); }
  function number(value, step) { return Number.isFinite(value) ? value.toFixed(digits(step)) : "no data"; }
  const shown = (value) => Number.isFinite(value) ? number(value, current().precision) + unit : "no data";
  function ticks(low, high, count) {
    const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find((m) => m * power >= raw);
    const first = Math.ceil(low / step), list = [];
    for (let i = first; i * step <= high + step * 1e-9; i++) list.push(i * step);
    return { list, step };
  }
  function svg(name, attributes, text) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  }

  // --- the stage
  function draw() {
    const view = current(), room = stage.parentElement.clientWidth - 22;
    let width = room, height = (room * view.rows) / view.columns;
    const most = Math.max(window.innerHeight * 0.78, 360);
    if (height > most) [width, height] = [(most * view.columns) / view.rows, most];
    if (state.actual) [width, height] = [view.columns / window.devicePixelRatio, view.rows / window.devicePixelRatio];
    stage.style.width = width + "px";
    stage.style.height = height + "px";
    stage.classList.toggle("coarse", width * window.devicePixelRatio >= 2 * view.columns);
    for (const image of stage.querySelectorAll("img")) {
      const here = Number(image.dataset.view) === state.view, name = image.dataset.layer;
      const left = here && name === state.left, right = here && name === state.right;
      image.classList.toggle("shown", left || right);
      image.style.clipPath = left && right ? "none"
        : left ? `inset(0 ${100 - state.split}% 0 0)` : `inset(0 0 0 ${state.split}%)`;
    }
    find("divider").style.left = state.split + "%";
    find("left-tag").textContent = data.labels[state.left];
    find("right-tag").textContent = data.labels[state.right];
    for (const legend of document.querySelectorAll(".legend"))
      legend.classList.toggle("shown", Number(legend.dataset.view) === state.view);
    drawOverlay();
  }
  function drawOverlay() {
    const view = current();
    overlay.setAttribute("viewBox", `0 0 ${view.columns} ${view.rows}`);
    overlay.replaceChildren();
    for (const [kind, mark] of view.marks)
      overlay.append(svg("rect", { class: kind, x: mark[0], y: mark[1], width: mark[2], height: mark[3] }));
    const [a, b] = state.line;
    for (const name of ["halo", "line"])
      overlay.append(svg("line", { class: name, x1: a[0], y1: a[1], x2: b[0], y2: b[1] }));
    ends.forEach((end, i) => {
      end.style.left = (100 * state.line[i][0]) / view.columns + "%";
      end.style.top = (100 * state.line[i][1]) / view.rows + "%";
    });
  }

  // --- the profile
  function along(view) {
    const [a, b] = state.line, pixels = Math.hypot(b[0] - a[0], b[1] - a[1]);
    const count = Math.max(2, Math.min(2000, Math.ceil(2 * pixels) + 1));
    const length = Math.hypot((b[0] - a[0]) * view.ground[0], (b[1] - a[1]) * view.ground[1]);
    const points = Array.from({ length: count }, (_, i) => {
      const t = i / (count - 1);
      return { t, at: t * length, column: a[0] + t * (b[0] - a[0]), row: a[1] + t * (b[1] - a[1]) };
    });
    return { length, points };
  }
  function drawProfile() {
    const view = current(), chart = find("profile"), { length, points } = along(view);
    const names = ["source", "result"].filter((name) => view.grids[name]);
    const lines = names.map((name) => points.map((p) => valueAt(name, p.column, p.row)));
    const known = lines.flat().filter(Number.isFinite);
    const words = [`Length ${number(length, length / 1000 || 1)} ${data.length}`];
    names.forEach((name, i) => {
      const values = lines[i].filter(Number.isFinite);
      words.push(values.length
        ? `${data.labels[name]} ${number(values.reduce((m, v) => Math.min(m, v), Infinity), view.precision)} to ${shown(values.reduce((m, v) => Math.max(m, v), -Infinity))}`
        : `${data.labels[name]} no data`);
    });
    find("profile-words").textContent = words.join("; ") + ".";
    chart.setAttribute("aria-label", "Values along the line. " + words.join("; "));
    chart.replaceChildren();
    if (!known.length) return;
    const box = { width: Math.max(chart.clientWidth, 300), height: chart.clientHeight || 280, left: 74, right: 16, top: 26, bottom: 42 };
    let low = known.reduce((m, v) => Math.min(m, v)), high = known.reduce((m, v) => Math.max(m, v));
    const pad = (high - low) * 0.05 || 0.5;
    [low, high] = [low - pad, high + pad];
    const x = (at) => box.left + ((box.width - box.left - box.right) * at) / (length || 1);
    const y = (value) => box.top + ((box.height - box.top - box.bottom) * (high - value)) / (high - low);
    const root = svg("svg", { viewBox: `0 0 ${box.width} ${box.height}` });
    const vertical = ticks(low, high, 7), across = ticks(0, length || 1, 8);
    for (const tick of vertical.list) {
      root.append(svg("line", { class: "grid", x1: box.left, x2: box.width - box.right, y1: y(tick), y2: y(tick) }));
      root.append(svg("text", { x: box.left - 8, y: y(tick) + 4, "text-anchor": "end" }, number(tick, vertical.step)));
    }
    for (const tick of across.list)
      root.append(svg("text", { x: x(tick), y: box.height - box.bottom + 18, "text-anchor": "middle" }, number(tick, across.step)));
    root.append(svg("line", { class: "axis", x1: box.left, x2: box.width - box.right, y1: box.height - box.bottom, y2: box.height - box.bottom }));
    root.append(svg("text", { x: (box.left + box.width - box.right) / 2, y: box.height - 6, "text-anchor": "middle" }, `distance from A in ${data.length}`));
    root.append(svg("text", { x: box.left, y: 14, "text-anchor": "start" }, data.units ? `${data.kind} in ${data.units}` : `${data.kind} (the file names no unit)`));
    names.forEach((name, i) => {
      let path = "", pen = false;
      lines[i].forEach((value, j) => {
        if (Number.isFinite(value)) path += `${pen ? "L" : "M"}${x(points[j].at).toFixed(1)} ${y(value).toFixed(1)}`;
        pen = Number.isFinite(value);
      });
      root.append(svg("path", { class: name, d: path }));
      const place = box.width - box.right - 90 * (names.length - i);
      root.append(svg("path", { class: name, d: `M${place} 10h22` }), svg("text", { x: place + 28, y: 14 }, data.labels[name].toLowerCase()));
    });
    const cursor = svg("line", { class: "cursor", y1: box.top, y2: box.height - box.bottom, x1: -9, x2: -9 });
    root.append(cursor);
    root.addEventListener("pointermove", (event) => {
      const t = ((event.clientX - root.getBoundingClientRect().left) * box.width / root.clientWidth - box.left) / (box.width - box.left - box.right);
      if (t < 0 || t > 1) return;
      const p = points[Math.round(t * (points.length - 1))];
      cursor.setAttribute("x1", x(p.at));
      cursor.setAttribute("x2", x(p.at));
      read(p.column, p.row);
    });
    chart.append(root);
  }
  function read(column, row) {
    const view = current(), m = view.affine, fine = view.decimals;
    const place = `x ${(m[0] * column + m[1] * row + m[2]).toFixed(fine)}, y ${(m[3] * column + m[4] * row + m[5]).toFixed(fine)}`;
    const pixel = `row ${Math.floor(view.row + row * view.pixel[1])}, column ${Math.floor(view.column + column * view.pixel[0])}`;
    const values = ["source", "result"].filter((n) => view.grids[n]).map((n) => `${data.labels[n].toLowerCase()} ${shown(valueAt(n, column, row))}`);
    find("readout").textContent = `${values.join("; ")} (${place}; ${pixel})`;
  }

  // --- what the reader does
  function setLine(line) {
    const view = current(), clamp = (v, n) => Math.max(0, Math.min(n - 0.001, v));
    state.line = line.map(([column, row]) => [clamp(column, view.columns), clamp(row, view.rows)]);
    drawOverlay();
    drawProfile();
  }
  function place(event) {
    const box = stage.getBoundingClientRect(), view = current();
    return [((event.clientX - box.left) / box.width) * view.columns, ((event.clientY - box.top) / box.height) * view.rows];
  }
  function drag(element, begin, move) {
    element.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      event.preventDefault();
      event.stopPropagation();
      if (element !== stage) element.focus();
      element.setPointerCapture(event.pointerId);
      begin(event);
      const stop = () => { element.removeEventListener("pointermove", move); };
      element.addEventListener("pointermove", move);
      element.addEventListener("pointerup", stop, { once: true });
      element.addEventListener("pointercancel", stop, { once: true });
    });
  }
  function setSplit(value) {
    state.split = Math.max(0, Math.min(100, value));
    find("split").value = state.split;
    draw();
  }
  drag(stage, (event) => setLine([place(event), place(event)]), (event) => setLine([state.line[0], place(event)]));
  ends.forEach((end, i) => {
    const moved = (position) => setLine(state.line.map((old, j) => (i === j ? position : old)));
    drag(end, () => {}, (event) => moved(place(event)));
    end.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      const times = event.shiftKey ? 10 : 1;
      moved([state.line[i][0] + times * step[0], state.line[i][1] + times * step[1]]);
    });
  });
  drag(find("divider"), () => {}, (event) => setSplit((100 * place(event)[0]) / current().columns));
  stage.addEventListener("pointermove", (event) => read(...place(event)));
  find("split").addEventListener("input", (event) => setSplit(Number(event.target.value)));
  for (const side of ["left", "right"]) {
    find(side).value = state[side];
    find(side).addEventListener("change", (event) => { state[side] = event.target.value; draw(); });
  }
  find("view").addEventListener("change", (event) => { state.view = Number(event.target.value); begin(); });
  find("enlarge").addEventListener("click", (event) => {
    state.actual = !state.actual;
    event.target.setAttribute("aria-pressed", String(state.actual));
    draw();
  });
  function begin() {
    const view = current();
    state.line = [[0.15 * view.columns, 0.62 * view.rows], [0.85 * view.columns, 0.38 * view.rows]];
    draw();
    drawProfile();
  }
  for (const part of document.querySelectorAll(".tools, .pictures, .under, .hint")) part.hidden = false;
  window.addEventListener("resize", () => { draw(); drawProfile(); });
  begin();
  document.body.dataset.ready = "yes";
})();
