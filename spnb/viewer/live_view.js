// The widget of a run under way: tiles in the colour of what ranks do, and a row for each rank.

/** The rows of the ranks: in each span of time, the shares of what a rank did, stacked. */
function drawRows(canvas, scene, frame) {
  if (!canvas.clientWidth) return;
  const ranks = frame.rows.length;
  const high = ranks > 24 ? 9 : 18;
  canvas.style.height = `${high * ranks + 18}px`;
  const { context, width } = sharp(canvas);
  const left = 62;
  const spans = Math.max(20, ...frame.rows.map((row) => row.length));
  const wide = (width - left) / spans;
  const text = textColour(canvas);
  context.font = `${Math.min(12, high)}px sans-serif`;
  frame.rows.forEach((row, rank) => {
    row.forEach((shares, k) => {
      let top = rank * high + high - 2;
      for (const [kind, share] of Object.entries(shares)) {
        const part = share * (high - 4);
        context.fillStyle = scene.colours[scene.kinds.indexOf(kind)];
        context.fillRect(left + k * wide, top - part, wide + 0.5, part);
        top -= part;
      }
    });
    context.fillStyle = text;
    if (high > 12 || rank % 2 === 0) context.fillText(`rank ${rank}`, 2, rank * high + high - 5);
  });
  context.fillStyle = text;
  context.fillText("0 s", left, ranks * high + 13);
  context.textAlign = "right";
  context.fillText(`${(spans * frame.step).toFixed(1)} s`, width, ranks * high + 13);
  context.textAlign = "left";
}

/** A row for each stage: its micro-batches, those that are done, and the one that it is at. */
function drawStages(node, scene, frame) {
  node.replaceChildren();
  if (scene.micro_batches < 2) return;
  for (const { stage, tiles } of scene.stages) {
    const ranks = tiles.flatMap((tile) => tile.ranks).filter((rank) => frame.stage[rank] === stage);
    const at = ranks.length ? Math.min(...ranks.map((rank) => frame.micro_batch[rank])) : -1;
    const done = ranks.length > 0 && ranks.every((rank) => frame.now[rank] === "done");
    const row = element("div", { class: "spnb-micro-batches" }, `stage ${stage} `);
    for (let k = 0; k < scene.micro_batches; k++) {
      const state = done || k < at ? "done" : k === at ? "now" : "coming";
      row.append(element("span", { class: `spnb-micro-batch spnb-${state}`, title: `micro-batch ${k}` }, String(k)));
    }
    node.append(row);
  }
}

function render({ model, el }) {
  const scene = model.get("scene");
  const first = scene.stages.find((stage) => stage.tiled) ?? scene.stages[0];
  const root = element("div", { class: "spnb-view spnb-live", "aria-label": "the run under way" });
  const title = element("div", {});
  const bar = element("progress", { max: 1, value: 0, "aria-label": "share of the run that is done" });
  const stages = element("div", {});
  const rows = element("canvas", { class: "spnb-timeline" });
  const view = new View(scene.extent, () => {});
  const nothing = { get: () => undefined };
  const pane = new Pane(view, nothing, () => "", { layers: () => [] });
  const legend = element("div", { class: "spnb-legend" });
  let bitmap = null;
  const draw = oncePerFrame(drawAll);
  pane.drawUnder = (context) => {
    if (bitmap) context.drawImage(bitmap, 0, 0, view.columns * view.scale, view.rows * view.scale);
  };
  root.append(
    element("div", { class: "spnb-controls" }, title, bar),
    element("div", { class: "spnb-panes" }, pane.node, element("div", { class: "spnb-pane-box" }, stages, rows, legend)),
  );
  el.append(root);

  const bytes = model.get("image");
  if (bytes?.byteLength) {
    createImageBitmap(new Blob([bytes], { type: "image/png" })).then((found) => {
      bitmap = found;
      draw();
    });
  }

  function drawAll() {
    const frame = model.get("frame");
    if (!frame.rows) return;
    const left = frame.left === null ? "" : `, about ${timeText(frame.left)} left`;
    title.textContent = `${model.get("title")}: ${(frame.share * 100).toFixed(0)} %, ${timeText(frame.elapsed)}${left}`;
    bar.value = frame.share;
    const kinds = first.tiles.map((tile) => {
      const own = tile.ranks.filter((rank) => frame.stage[rank] === first.stage || frame.stage[rank] < 0);
      return frame.now[own[0] ?? tile.ranks[0]];
    });
    root.dataset.states = kinds.join(" ");
    // All that was seen, one after another: a test reads that tiles changed.
    root.dataset.seen = [...new Set([...(root.dataset.seen ?? "").split(" "), ...kinds])].join(" ").trim();
    pane.draw({
      tiles: first.tiles,
      fills: kinds.map((kind) => scene.colours[scene.kinds.indexOf(kind)]),
    });
    drawStages(stages, scene, frame);
    drawRows(rows, scene, frame);
    const shown = new Set(frame.rows.flatMap((row) => row.flatMap((shares) => Object.keys(shares))));
    legend.replaceChildren(...[...shown, "done"].map((kind) => {
      const swatch = element("span", { class: "spnb-swatch" });
      swatch.style.background = scene.colours[scene.kinds.indexOf(kind)];
      return element("span", {}, swatch, kind);
    }));
  }

  model.on("change:frame", draw);
  const resized = new ResizeObserver(draw);
  resized.observe(root);
  return () => {
    model.off("change:frame", draw);
    resized.disconnect();
  };
}

export default { render };
