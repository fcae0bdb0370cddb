// What the widgets share: elements, a view over the image, panes with tiles, and a timeline.
// All colours of text and background are those of the notebook's theme.

/** An element with attributes, listeners (names that begin with "on") and children. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Call a function once before the next picture of the screen, however often it is asked for. */
function oncePerFrame(draw) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  };
}

const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

function bytesText(size) {
  for (const unit of ["B", "KiB", "MiB"]) {
    if (size < 1024) return `${unit === "B" ? size : size.toFixed(1)} ${unit}`;
    size /= 1024;
  }
  return `${size.toFixed(1)} GiB`;
}

function timeText(seconds) {
  return seconds < 1 ? `${(seconds * 1e3).toPrecision(3)} ms` : `${seconds.toPrecision(3)} s`;
}

/** The colour of the theme's text on a node. */
const textColour = (node) => getComputedStyle(node).color;

/** A canvas in the size of its box, sharp on every screen; returns its context and its size. */
function sharp(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height, ratio };
}

/** What part of the image all panes show: its centre, and pixels of the screen per pixel. */
class View {
  constructor(extent, changed) {
    [this.rows, this.columns] = extent;
    this.changed = changed;
    this.fitted = true;
  }

  /** Show the whole image in a pane of a size. */
  fit(width, height) {
    this.scale = Math.min(width / this.columns, height / this.rows) * 0.98 || 1;
    this.least = this.scale / 2;
    [this.x, this.y] = [this.columns / 2, this.rows / 2];
  }

  /** Zoom by a factor; the point (x, y) of the image stays where it is. */
  zoom(factor, x = this.x, y = this.y) {
    const scale = clamp(this.scale * factor, this.least, 64);
    const ratio = this.scale / scale;
    this.move(x + (this.x - x) * ratio, y + (this.y - y) * ratio, scale);
  }

  move(x, y, scale = this.scale) {
    this.scale = scale;
    this.x = clamp(x, 0, this.columns);
    this.y = clamp(y, 0, this.rows);
    this.fitted = false;
    this.changed();
  }
}

/** Tiles of pyramids, asked for by message: those that are visible, at most two at a time. */
class Store {
  constructor(model, arrived) {
    Object.assign(this, { model, arrived, tiles: new Map(), inFlight: new Map(), wanted: [] });
    this.failed = "";
    this.onMessage = (message, buffers) => this.receive(message, buffers);
    model.on("msg:custom", this.onMessage);
  }

  close() {
    this.model.off("msg:custom", this.onMessage);
  }

  static key(t) {
    return `${t.layer} ${t.style} ${t.level} ${t.row} ${t.column}`;
  }

  get(tile) {
    return this.tiles.get(Store.key(tile));
  }

  /** Ask for tiles in this order, in place of what was wanted before. */
  want(tiles) {
    this.wanted = tiles;
    this.pump();
  }

  pump() {
    while (this.inFlight.size < 2) {
      let next = this.wanted.find((t) => !this.get(t) && !this.inFlight.has(Store.key(t)));
      let most = this.model.get("pieces");
      if (!next && this.inFlight.size === 0) {
        // All are there: those for which only some pieces of the file were read become sharper,
        // as long as the kernel, which other cells wait for, has not to read for a second.
        next = this.wanted.find((t) => this.get(t) && !this.get(t).exact && this.get(t).seconds < 0.25);
        if (next) most = this.get(next).most * 4;
      }
      if (!next) return;
      this.inFlight.set(Store.key(next), next);
      this.model.send({ ...next, most });
    }
  }

  async receive(message, buffers) {
    if (message.layer === undefined) return;
    const key = Store.key(message);
    if (message.failed) {
      this.failed = message.failed;
      this.tiles.set(key, { exact: true, failed: true });
    } else {
      const bitmap = await createImageBitmap(new Blob([buffers[0]], { type: "image/png" }));
      this.tiles.set(key, { bitmap, exact: message.exact, most: message.most, seconds: message.seconds });
    }
    this.inFlight.delete(key);
    if (this.tiles.size > 600) this.forget();
    this.pump();
    this.arrived();
  }

  /** Forget the oldest tiles, but those of the coarsest levels, which stand for all others. */
  forget() {
    const levels = this.model.get("layers");
    for (const [key, tile] of this.tiles) {
      if (this.tiles.size <= 400) return;
      const [layer, , level] = key.split(" ");
      if (Number(level) < levels[layer].levels - 2) {
        tile.bitmap?.close();
        this.tiles.delete(key);
      }
    }
  }
}

/** A pane: layers of pyramids under the tiles of a stage. */
class Pane {
  constructor(view, store, name, options) {
    Object.assign(this, { view, store, ...options });
    this.canvas = element("canvas", { class: "spnb-pane", tabindex: "0", role: "img" });
    this.caption = element("div", { class: "spnb-caption" });
    this.node = element("div", { class: "spnb-pane-box" }, this.caption, this.canvas);
    this.canvas.style.aspectRatio = `${view.columns} / ${view.rows}`;
    this.name = name;
    this.listen();
  }

  /** The place on the image of a pointer. */
  place(event) {
    const box = this.canvas.getBoundingClientRect();
    const { view } = this;
    return [
      view.x + (event.clientX - box.left - box.width / 2) / view.scale,
      view.y + (event.clientY - box.top - box.height / 2) / view.scale,
    ];
  }

  listen() {
    const { canvas, view } = this;
    let held = null;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      view.zoom(2 ** (-event.deltaY / 240), ...this.place(event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      held = { x: event.clientX, y: event.clientY };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointerup", () => (held = null));
    canvas.addEventListener("pointermove", (event) => {
      if (!held) return this.hovered?.(...this.place(event));
      const [dx, dy] = [event.clientX - held.x, event.clientY - held.y];
      held = { x: event.clientX, y: event.clientY };
      view.move(view.x - dx / view.scale, view.y - dy / view.scale);
    });
    canvas.addEventListener("pointerleave", () => this.left?.());
    canvas.addEventListener("dblclick", () => this.fit());
    canvas.addEventListener("keydown", (event) => {
      const step = 60 / view.scale;
      const keys = {
        ArrowLeft: () => view.move(view.x - step, view.y),
        ArrowRight: () => view.move(view.x + step, view.y),
        ArrowUp: () => view.move(view.x, view.y - step),
        ArrowDown: () => view.move(view.x, view.y + step),
        "+": () => view.zoom(2),
        "=": () => view.zoom(2),
        "-": () => view.zoom(0.5),
        0: () => this.fit(),
        n: () => this.stepped?.(1),
        p: () => this.stepped?.(-1),
      };
      if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      event.stopPropagation();
      keys[event.key]();
    });
  }

  fit() {
    this.view.fitted = true;
    this.view.changed();
  }

  /** Draw the pane; returns the tiles that it lacks, the most important ones first. */
  draw(state) {
    const { canvas, view } = this;
    if (!canvas.clientWidth) return [];
    const { context, width, height, ratio } = sharp(canvas);
    if (view.fitted) view.fit(width, height);
    const corner = [width / 2 - view.x * view.scale, height / 2 - view.y * view.scale];
    context.save();
    context.translate(...corner);
    const seen = {
      left: view.x - width / 2 / view.scale,
      right: view.x + width / 2 / view.scale,
      top: view.y - height / 2 / view.scale,
      bottom: view.y + height / 2 / view.scale,
    };
    this.drawUnder?.(context);
    const wanted = [];
    let exact = true;
    for (const layer of this.layers()) {
      if (layer.opacity === 0) continue;
      context.globalAlpha = layer.opacity;
      const found = this.drawLayer(context, layer, seen, ratio);
      wanted.push(...found.wanted);
      exact = exact && found.exact;
    }
    context.globalAlpha = 1;
    this.drawTiles(context, state);
    context.restore();
    this.caption.textContent = this.name() + (exact ? "" : " – sampled: not every chunk of the file is read");
    return wanted;
  }

  drawLayer(context, layer, seen, ratio) {
    const { view, store } = this;
    const { figures } = layer;
    const across = view.columns / figures.width;
    const down = view.rows / figures.height;
    const size = Math.max(across, down) * view.scale * ratio; // pixels of the screen for one of it
    const fine = clamp(Math.floor(Math.log2(1 / size)), 0, figures.levels - 1);
    this.canvas.dataset.level = fine;
    context.imageSmoothingEnabled = size < 3;
    const wanted = [];
    let exact = true;
    for (let level = figures.levels - 1; level >= fine; level--) {
      const side = 256 * 2 ** level;
      const [high, wide] = [Math.ceil(figures.height / side), Math.ceil(figures.width / side)];
      const first = [Math.floor(seen.top / down / side), Math.floor(seen.left / across / side)];
      const last = [Math.ceil(seen.bottom / down / side), Math.ceil(seen.right / across / side)];
      for (let row = Math.max(0, first[0]); row < Math.min(high, last[0]); row++) {
        for (let column = Math.max(0, first[1]); column < Math.min(wide, last[1]); column++) {
          const tile = { layer: layer.name, style: layer.style, level, row, column };
          const found = store.get(tile);
          if (level === fine || level === figures.levels - 1) {
            wanted.push(tile);
            if (level === fine && found && !found.exact) exact = false;
          }
          if (!found?.bitmap) continue;
          const step = 2 ** level;
          context.drawImage(
            found.bitmap,
            column * side * across * view.scale,
            row * side * down * view.scale,
            Math.min(found.bitmap.width * step, figures.width - column * side) * across * view.scale,
            Math.min(found.bitmap.height * step, figures.height - row * side) * down * view.scale,
          );
        }
      }
    }
    return { wanted, exact };
  }

  drawTiles(context, state) {
    const { scale } = this.view;
    const rectangle = ([top, bottom, left, right]) =>
      [left * scale, top * scale, (right - left) * scale, (bottom - top) * scale];
    for (const [number, tile] of state.tiles.entries()) {
      const box = rectangle(tile.region);
      const fill = state.fills?.[number];
      if (fill) {
        context.globalAlpha = 0.55;
        context.fillStyle = fill;
        context.fillRect(...box);
        context.globalAlpha = 1;
      }
      for (const [colour, thick] of [["#fff", 3], ["#000", 1]]) {
        context.strokeStyle = colour;
        context.lineWidth = thick;
        context.strokeRect(...box);
      }
      if (box[2] > 30 && box[3] > 20 && state.tiles.length <= 256) {
        const text = String(tile.rank);
        context.font = "bold 12px sans-serif";
        const wide = context.measureText(text).width;
        context.fillStyle = "#fffd";
        context.fillRect(box[0] + 3, box[1] + 3, wide + 6, 16);
        context.fillStyle = "#000";
        context.fillText(text, box[0] + 6, box[1] + 15);
      }
    }
    const chosen = state.tiles[state.chosen];
    if (!chosen) return;
    context.lineWidth = 4;
    context.strokeStyle = "#D55E00";
    context.strokeRect(...rectangle(chosen.region));
    context.setLineDash([6, 4]);
    context.lineWidth = 2;
    if (chosen.need) context.strokeRect(...rectangle(chosen.need));
    context.fillStyle = "#D55E0066";
    for (const halo of chosen.halo) if (halo.region) context.fillRect(...rectangle(halo.region));
    context.setLineDash([]);
  }
}
