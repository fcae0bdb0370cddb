// The widget of a plan or a run: panes with tiles, the timeline, and a scrubber through its time.

/** The events of each rank in the order of their starts, and what it does at a time. */
class Run {
  constructor(scene) {
    this.scene = scene;
    this.ranks = (scene.ranks ?? []).map((each) => each.rank);
    this.byRank = new Map(this.ranks.map((rank) => [rank, []]));
    const { rank = [], start = [] } = scene.events ?? {};
    for (let k = 0; k < rank.length; k++) this.byRank.get(rank[k]).push(k);
    for (const events of this.byRank.values()) events.sort((a, b) => start[a] - start[b]);
  }

  /** Number of the last event of a rank that began at a time or before; -1 if there is none. */
  before(rank, time) {
    const events = this.byRank.get(rank);
    const { start } = this.scene.events;
    let [low, high] = [0, events.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (start[events[middle]] <= time) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  /** The event of a rank at a time, if there is one. */
  at(rank, time) {
    const index = this.before(rank, time);
    const event = index < 0 ? undefined : this.byRank.get(rank)[index];
    return event !== undefined && time < this.scene.events.stop[event] ? event : undefined;
  }

  /** From when to when a rank has no event around a time. */
  gap(rank, time) {
    const { start, stop } = this.scene.events;
    const events = this.byRank.get(rank);
    const index = this.before(rank, time);
    return [
      index < 0 ? 0 : stop[events[index]],
      index + 1 < events.length ? start[events[index + 1]] : this.scene.seconds,
    ];
  }

  /** The kind of what a rank does at a time: of an event, or "between" or "done". */
  kind(rank, time) {
    const { kinds, events } = this.scene;
    const found = this.at(rank, time);
    if (found !== undefined) return kinds[events.kind[found]];
    return this.before(rank, time) === this.byRank.get(rank).length - 1 ? "done" : "between";
  }
}

/** A row for each rank with its events; it zooms, and a line shows the scrubber's time. */
class Timeline {
  constructor(run, hooks) {
    Object.assign(this, { run, ...hooks, from: 0, to: run.scene.seconds, row: 0 });
    this.canvas = element("canvas", { class: "spnb-timeline", tabindex: "0", role: "img" });
    this.high = run.ranks.length > 24 ? 9 : 18;
    this.canvas.style.height = `${this.high * run.ranks.length + 22}px`;
    this.node = element("div", { class: "spnb-timeline-box" }, this.canvas);
    this.left = 62;
    this.listen();
  }

  time(event) {
    const box = this.canvas.getBoundingClientRect();
    const share = (event.clientX - box.left - this.left) / (box.width - this.left);
    return clamp(this.from + share * (this.to - this.from), 0, this.run.scene.seconds);
  }

  rank(event) {
    const row = Math.floor((event.clientY - this.canvas.getBoundingClientRect().top) / this.high);
    return this.run.ranks[row];
  }

  zoom(factor, time) {
    const { seconds } = this.run.scene;
    const span = clamp((this.to - this.from) / factor, seconds / 1e5, seconds);
    const share = (time - this.from) / (this.to - this.from);
    this.show(time - share * span, span);
  }

  show(from, span = this.to - this.from) {
    this.from = clamp(from, 0, this.run.scene.seconds - span);
    this.to = this.from + span;
    this.changed();
  }

  listen() {
    const { canvas } = this;
    let held = false;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
        const moved = (event.deltaX || event.deltaY) / canvas.clientWidth;
        this.show(this.from + moved * (this.to - this.from));
      } else this.zoom(2 ** (-event.deltaY / 240), this.time(event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      held = true;
      canvas.setPointerCapture(event.pointerId);
      this.scrubbed(this.time(event));
    });
    canvas.addEventListener("pointerup", () => (held = false));
    canvas.addEventListener("pointermove", (event) => {
      if (held) this.scrubbed(this.time(event));
      else this.hovered(this.rank(event), this.time(event));
    });
    canvas.addEventListener("pointerleave", () => this.hovered(undefined, 0));
    canvas.addEventListener("dblclick", () => this.show(0, this.run.scene.seconds));
    canvas.addEventListener("keydown", (event) => {
      const { ranks, scene } = this.run;
      const step = (this.to - this.from) / 100;
      const keys = {
        ArrowLeft: () => this.scrubbed(clamp(this.now() - step, 0, scene.seconds)),
        ArrowRight: () => this.scrubbed(clamp(this.now() + step, 0, scene.seconds)),
        ArrowUp: () => (this.row = clamp(this.row - 1, 0, ranks.length - 1)),
        ArrowDown: () => (this.row = clamp(this.row + 1, 0, ranks.length - 1)),
        "+": () => this.zoom(2, this.now()),
        "=": () => this.zoom(2, this.now()),
        "-": () => this.zoom(0.5, this.now()),
        0: () => this.show(0, scene.seconds),
      };
      if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      event.stopPropagation();
      keys[event.key]();
      this.hovered(ranks[this.row], this.now());
    });
  }

  draw() {
    const { run, canvas, high, left } = this;
    if (!canvas.clientWidth) return;
    const { context, width } = sharp(canvas);
    const { events, colours, kinds } = run.scene;
    const scale = (width - left) / (this.to - this.from);
    const x = (time) => left + (time - this.from) * scale;
    const text = textColour(canvas);
    context.font = `${Math.min(12, high)}px sans-serif`;
    const done = colours[kinds.indexOf("done")];
    run.ranks.forEach((rank, row) => {
      const top = row * high + 2;
      const own = run.byRank.get(rank);
      let [drawn, last] = [-Infinity, -1];
      for (let k = Math.max(0, run.before(rank, this.from)); k < own.length; k++) {
        const event = own[k];
        if (events.start[event] > this.to) break;
        const [a, b] = [Math.max(left, x(events.start[event])), x(events.stop[event])];
        if (b < drawn + 0.25 && events.kind[event] === last) continue;
        context.fillStyle = colours[events.kind[event]];
        context.fillRect(a, top, Math.max(b - a, 0.5), high - 4);
        [drawn, last] = [Math.max(a + 0.5, b), events.kind[event]];
      }
      const end = Math.max(left, x(events.stop[own[own.length - 1]]));
      if (end < width) {
        context.fillStyle = done;
        context.fillRect(end, top, width - end, high - 4);
      }
      context.fillStyle = text;
      if (high > 12 || row % 2 === 0) context.fillText(`rank ${rank}`, 2, top + high - 7);
    });
    context.fillStyle = text;
    const bottom = run.ranks.length * high + 14;
    for (let k = 0; k <= 5; k++) {
      const time = this.from + ((this.to - this.from) * k) / 5;
      context.textAlign = k === 5 ? "right" : k ? "center" : "left";
      context.fillText(`${(time * 1e3).toPrecision(3)} ms`, x(time), bottom);
    }
    context.textAlign = "left";
    const now = x(this.now());
    if (now >= left) {
      context.strokeStyle = "#D55E00";
      context.lineWidth = 2;
      context.strokeRect(now, 0, 0, run.ranks.length * high);
    }
  }
}

/** The controls over the panes: what is chosen in `state`, and `changed` after each change. */
function controls(state, scene, layers, changed) {
  const row = element("div", { class: "spnb-controls" });
  const select = (label, choices, value, chosen) => {
    const box = element("select", { "aria-label": label });
    for (const [key, text] of choices) box.append(element("option", { value: key }, text));
    box.value = value;
    box.addEventListener("change", () => {
      chosen(box.value);
      changed();
    });
    row.append(element("label", {}, `${label} `, box));
  };
  const tiled = scene.stages.filter((stage) => stage.tiled);
  if (tiled.length > 1) {
    select("tiles of", tiled.map(({ stage }) => [stage, `stage ${stage}`]), state.stage, (value) => {
      state.stage = Number(value);
      state.chosen = undefined;
    });
  }
  if (layers.output) {
    const choices = layers.output.styles.map((style) => [style, style]);
    select("output as", choices, state.style, (value) => (state.style = value));
    const opacity = element("input", {
      type: "range", min: 0, max: 100, value: state.opacity * 100, "aria-label": "opacity of the output",
      class: "spnb-opacity",
      oninput: (event) => {
        state.opacity = event.target.value / 100;
        changed();
      },
    });
    row.append(element("label", {}, "over the image ", opacity));
  }
  return row;
}

/** What is known of a tile, in a line. */
function tileText(scene, stage, tile) {
  const [top, bottom, left, right] = tile.region;
  const parts = [
    `rank ${tile.rank}, tile ${tile.tile} of stage ${stage.stage}`,
    `rows ${top}–${bottom}, columns ${left}–${right}`,
  ];
  if (tile.halo.length) {
    const each = tile.halo.map(({ rank, bytes }) => `${bytesText(bytes)} from rank ${rank}`);
    parts.push(`receives ${each.join(", ")}`);
  } else parts.push("receives nothing");
  if (tile.layer) parts.push(`dashed: its widest need, of ${tile.layer}`);
  const own = scene.ranks?.find((each) => each.rank === tile.rank);
  if (own) {
    parts.push(`sent ${bytesText(own.sent)} in ${own.messages} messages`);
    const times = own.shares
      .map((share, k) => [share, scene.kinds[k]])
      .filter(([share]) => share > 5e-4)
      .map(([share, kind]) => `${kind} ${timeText(share * scene.seconds)}`);
    parts.push(times.join(", "));
  }
  return parts.join("; ");
}

/** What is known of an event, in a line. */
function eventText(scene, k) {
  const { events } = scene;
  const seconds = events.stop[k] - events.start[k];
  const parts = [
    `rank ${events.rank[k]}`,
    `${scene.kinds[events.kind[k]]}: ${scene.whats[events.what[k]]}`,
    `layer ${scene.layers[events.layer[k]] || "(the network itself)"}`,
    `${timeText(seconds)} from ${timeText(events.start[k])}`,
  ];
  if (events.bytes[k]) parts.push(bytesText(events.bytes[k]));
  if (scene.micro_batches > 1) parts.push(`micro-batch ${events.micro_batch[k]}`);
  return parts.join("; ");
}

/** What is known of a time without an event, in a line. */
function gapText(run, rank, time) {
  const [from, to] = run.gap(rank, time);
  const kind = run.kind(rank, time) === "done" ? "done" : "between two events";
  return `rank ${rank}; ${kind}; ${timeText(to - from)} from ${timeText(from)}`;
}

/** Colours with their kinds, and the share of each in the time of all ranks. */
function legend(scene) {
  const row = element("div", { class: "spnb-legend" });
  scene.kinds.forEach((kind, k) => {
    const share = scene.ranks.reduce((sum, each) => sum + each.shares[k], 0) / scene.ranks.length;
    if (share < 5e-4) return;
    const swatch = element("span", { class: "spnb-swatch" });
    swatch.style.background = scene.colours[k];
    row.append(element("span", {}, swatch, `${kind} ${(share * 100).toFixed(1)} %`));
  });
  return row;
}

function render({ model, el }) {
  const scene = model.get("scene");
  const layers = model.get("layers");
  const run = scene.events ? new Run(scene) : null;
  const first = scene.stages.find((stage) => stage.tiled) ?? scene.stages[0];
  const state = {
    stage: first.stage,
    style: layers.output?.styles[0],
    opacity: 0.4,
    time: 0,
    chosen: undefined,
    scrubbing: false,
  };
  const root = element("div", { class: "spnb-view", "data-lm-suppress-shortcuts": "true" });
  const info = element("div", { class: "spnb-info", "aria-live": "polite" });
  const hint = "hover over a tile or an event; drag to pan, wheel to zoom, double-click to see all."
    + " Keys: arrows, + − 0, n and p for the next and previous tile";
  const draw = oncePerFrame(drawAll);
  const view = new View(scene.extent, draw);
  const store = new Store(model, draw);
  const stage = () => scene.stages[state.stage];
  const tiles = () => stage().tiles;

  const hooks = {
    hovered: (x, y) => choose(tiles().findIndex(({ region: [top, bottom, left, right] }) =>
      y >= top && y < bottom && x >= left && x < right)),
    left: () => choose(-1),
    stepped: (by) => choose(((state.chosen ?? (by > 0 ? -1 : 0)) + by + tiles().length) % tiles().length),
  };
  const image = { name: "image", style: "colours", figures: layers.image };
  const output = (opacity) =>
    ({ name: "output", style: state.style, figures: layers.output, opacity });
  const panes = [new Pane(view, store, () => layers.image.name, {
    ...hooks,
    layers: () => [{ ...image, opacity: 1 }, ...(layers.output ? [output(state.opacity)] : [])],
  })];
  if (layers.output) {
    panes.push(new Pane(view, store, () => `${layers.output.name}, ${state.style}`, {
      ...hooks,
      layers: () => [output(1)],
    }));
  }
  root.append(
    controls(state, scene, layers, draw),
    element("div", { class: "spnb-panes" }, ...panes.map((pane) => pane.node)),
  );

  let timeline = null;
  let scrubber = null;
  if (run) {
    timeline = new Timeline(run, {
      changed: draw,
      now: () => state.time,
      scrubbed: scrub,
      hovered: (rank, time) => {
        const event = rank === undefined ? undefined : run.at(rank, time);
        const own = scene.events;
        if (event !== undefined && scene.stages[own.stage[event]].tiled) {
          state.stage = own.stage[event];
        }
        choose(rank === undefined ? -1 : tiles().findIndex((tile) => tile.ranks.includes(rank)));
        if (event !== undefined) info.textContent = eventText(scene, event);
        else if (rank !== undefined) info.textContent = gapText(run, rank, time);
      },
    });
    scrubber = element("input", {
      type: "range", min: 0, max: 1000, value: 0, class: "spnb-scrubber", "aria-label": "time of the run",
      oninput: (event) => scrub((event.target.value / 1000) * scene.seconds),
    });
    const play = element("button", { class: "spnb-play", onclick: playOn }, "▶ play");
    const off = element("button", { onclick: () => {
      state.scrubbing = false;
      draw();
    } }, "hide states");
    root.append(
      element("div", { class: "spnb-controls" }, play, scrubber, off),
      timeline.node,
      legend(scene),
    );
    var playing = null;
    function playOn() {
      play.textContent = playing ? "▶ play" : "❚❚ pause";
      if (playing) playing = void clearInterval(playing);
      else {
        if (state.time >= scene.seconds) state.time = 0;
        playing = setInterval(() => {
          scrub(Math.min(state.time + scene.seconds / 200, scene.seconds));
          if (state.time >= scene.seconds) playOn();
        }, 40);
      }
    }
  }
  const note = element("div", { class: "spnb-note" }, model.get("note"));
  root.append(info, note);
  info.textContent = hint;
  el.append(root);

  function choose(number) {
    state.chosen = number < 0 ? undefined : number;
    root.dataset.chosen = state.chosen ?? "";
    const tile = tiles()[state.chosen];
    info.textContent = tile ? tileText(scene, stage(), tile) : hint;
    draw();
  }

  function scrub(time) {
    state.time = time;
    state.scrubbing = true;
    scrubber.value = (time / scene.seconds) * 1000;
    draw();
  }

  /** What each tile's ranks do at the scrubber's time: the kind of the first that does something. */
  function states() {
    return tiles().map((tile) => {
      const kinds = tile.ranks.filter((rank) => run.byRank.has(rank)).map((rank) => run.kind(rank, state.time));
      return kinds.find((kind) => kind !== "between" && kind !== "done") ?? kinds[0] ?? "done";
    });
  }

  function drawAll() {
    const drawn = { tiles: tiles(), chosen: state.chosen };
    if (run && state.scrubbing) {
      const kinds = states();
      drawn.fills = kinds.map((kind) => scene.colours[scene.kinds.indexOf(kind)]);
      root.dataset.states = kinds.join(" ");
      root.dataset.time = state.time;
    } else delete root.dataset.states;
    const wanted = panes.flatMap((pane) => pane.draw(drawn));
    store.want(wanted);
    timeline?.draw();
    if (store.failed) note.textContent = `some of it cannot be read any more: ${store.failed}`;
  }

  const resized = new ResizeObserver(draw);
  resized.observe(root);
  return () => {
    resized.disconnect();
    clearInterval(playing);
    store.close();
  };
}

export default { render };
