// The service map: an SVG that is kept and changed, not made anew.

import {setAttr, setText, svg} from "./dom.js";
import {none, number, percent, rateUnit, seconds, split} from "./format.js";
import {NODE, layout, path, pointAt} from "./layout.js";

const LOCK = "M3 6V4a3 3 0 0 1 6 0v2h1v7H2V6zm1.4 0h3.2V4a1.6 1.6 0 0 0-3.2 0z";
/** With more edges than this, only those somebody looks at have labels. */
const MOST_LABELS = 60;
/** With more edges than this, nothing moves. */
const MOST_MOVING = 60;
/** Smallest scale at which text can be read without effort. */
const LEGIBLE = 0.62;
const RING = 2 * Math.PI * 15;

export function kindOf(edge) {
  const idle = !edge.rate;
  if (edge.denied && idle) return edge.denied_per_second > 0 ? "denied" : "denied past";
  if (edge.error_share >= 0.05) return "bad";
  if (edge.error_share >= 0.01) return "warn";
  return idle ? "idle" : "ok";
}

function firstLine(edge) {
  const unit = rateUnit(edge);
  const kind = kindOf(edge);
  if (kind.startsWith("denied")) {
    const total = number(edge.traffic.denied_total);
    const now = edge.denied_per_second > 0 ? ` \u00b7 ${number(edge.denied_per_second)}/s` : "";
    return `\u2298 ${total} denied${now}`;
  }
  if (edge.rate == null) return `${number(edge.traffic.connections_opened_total)}${unit}`;
  if (edge.error_share === 1) return `all fail \u00b7 ${number(edge.rate)}${unit}/s`;
  if (edge.rate === 0) {
    const open = edge.traffic.connections_open;
    return open > 0 ? `${open} open` : "idle";
  }
  const parts = [`${number(edge.rate)}${unit}/s`];
  if (edge.error_share > 0) parts.push(`${percent(edge.error_share)} err`);
  if (edge.p99_seconds != null) parts.push(seconds(edge.p99_seconds));
  if (edge.denied_per_second > 0) parts.push(`\u2298 ${number(edge.denied_per_second)}/s`);
  return parts.join(" \u00b7 ");
}

function describe(edge) {
  const safe = edge.security === "mutual_tls" ? ", mutual TLS" : "";
  return `${edge.source} calls ${edge.target}: ${firstLine(edge)}${safe}`;
}

export class ServiceMap {
  constructor(root, select) {
    this.root = root;
    this.select = select;
    this.nodes = new Map();
    this.edges = new Map();
    this.shape = "";
    this.chosen = null;
    this.moved = false;
    this.view = {x: 0, y: 0, scale: 1};
    this.edgeLayer = svg("g");
    this.nodeLayer = svg("g");
    this.labelLayer = svg("g");
    this.world = svg("g", {}, this.edgeLayer, this.labelLayer, this.nodeLayer);
    root.append(svg("defs", {}, ...["ok", "warn", "bad", "idle", "denied"].map(arrow)), this.world);
    this.listen();
    new ResizeObserver(() => this.moved || this.fit()).observe(root);
  }

  /** Shows these nodes and edges. */
  update(nodes, edges) {
    const shape = JSON.stringify([nodes.map((node) => node.id), edges.map((edge) => edge.id)]);
    const fresh = shape !== this.shape;
    if (fresh) {
      this.plan = layout(nodes, edges);
      this.root.parentElement.style.setProperty("--rows", Math.round(this.plan.height + 90));
    }
    this.shape = shape;
    this.data = {nodes, edges};
    const labelled = edges.length <= MOST_LABELS;
    this.root.classList.toggle("crowded", !labelled);
    this.root.classList.toggle("moving", edges.length <= MOST_MOVING);
    this.keep(this.nodes, nodes, (node) => this.makeNode(node), this.nodeLayer);
    this.keep(this.edges, edges, (edge) => this.makeEdge(edge), this.edgeLayer);
    nodes.forEach((node) => this.drawNode(node, fresh));
    edges.forEach((edge) => this.drawEdge(edge, fresh));
    this.placeLabels(edges, labelled);
    this.mark();
    if (fresh && !this.moved) this.fit();
  }

  /** Removes parts of what is gone, makes those of what is new. */
  keep(parts, items, make, layer) {
    const ids = new Set(items.map((item) => item.id));
    for (const [id, part] of parts) {
      if (ids.has(id)) continue;
      part.group.remove();
      part.label?.remove();
      parts.delete(id);
    }
    for (const item of items) {
      if (parts.has(item.id)) continue;
      const part = make(item);
      parts.set(item.id, part);
      layer.append(part.group);
    }
  }

  choose(chosen) {
    this.chosen = chosen;
    this.mark();
  }

  mark() {
    const {chosen} = this;
    const near = new Set();
    for (const edge of this.data?.edges ?? []) {
      const isNear = chosen && (edge.id === chosen || edge.source === chosen || edge.target === chosen);
      if (isNear) [edge.id, edge.source, edge.target].forEach((id) => near.add(id));
    }
    if (chosen) near.add(chosen);
    this.root.classList.toggle("choosing", near.size > 0);
    for (const [id, part] of [...this.nodes, ...this.edges]) {
      for (const element of [part.group, part.label]) {
        element?.classList.toggle("near", near.has(id));
        element?.classList.toggle("chosen", id === chosen);
      }
    }
  }

  pressable(kind, id) {
    const open = (event) => {
      event.stopPropagation();
      if (!this.dragged) this.select({kind, id});
    };
    return {
      tabindex: 0,
      role: "button",
      onclick: open,
      onfocus: (event) => this.bringIntoView(event.currentTarget),
      onkeydown: (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        open(event);
      },
    };
  }

  makeNode(node) {
    const {width, height} = NODE;
    const text = (style, y) => svg("text", {class: style, x: 52, y});
    const part = {
      title: text("title", -9),
      subtitle: text("subtitle", 6),
      stat: text("stat", 22),
      arcs: ["allowed", "failed", "denied"].map((name) => svg("circle", {class: `arc ${name}`, cx: 27, cy: 0, r: 15})),
      letter: svg("text", {class: "letter", x: 27, y: 5}),
    };
    part.group = svg(
      "g",
      {class: "node", ...this.pressable("node", node.id)},
      svg("rect", {class: "box", y: -height / 2, width, height, rx: 12}),
      svg("circle", {class: "arc base", cx: 27, cy: 0, r: 15}),
      ...part.arcs, part.letter, part.title, part.subtitle, part.stat,
    );
    return part;
  }

  drawNode(node, fresh) {
    const part = this.nodes.get(node.id);
    const place = this.plan.places.get(node.id);
    if (fresh) setAttr(part.group, "transform", `translate(${place.x} ${place.y})`);
    const special = !node.id.includes("/");
    const idle = /^0\.0 /.test(node.mainstat) || node.mainstat === "";
    setText(part.title, shorten(node.title, 16));
    setText(part.subtitle, shorten(node.subtitle, 20));
    setText(part.stat, idle ? "idle" : shorten(node.mainstat, 20));
    setText(part.letter, special ? "\u2022" : node.title.slice(0, 1).toUpperCase());
    part.group.classList.toggle("special", special);
    part.group.classList.toggle("elsewhere", !special && !node.detail__local);
    part.group.classList.toggle("idle", idle);
    setAttr(part.group, "aria-label", `${node.id}: ${node.mainstat || "idle"}`);
    let turned = -0.25;
    ["allowed", "failed", "denied"].forEach((name, at) => {
      const share = node[`arc__${name}`];
      setAttr(part.arcs[at], "stroke-dasharray", `${(share * RING).toFixed(2)} ${RING.toFixed(2)}`);
      setAttr(part.arcs[at], "transform", `rotate(${(turned * 360).toFixed(2)} 27 0)`);
      setAttr(part.arcs[at], "visibility", share > 0 ? "visible" : "hidden");
      turned += share;
    });
  }

  makeEdge(edge) {
    const part = {
      line: svg("path", {class: "line"}),
      flow: svg("path", {class: "flow"}),
      hit: svg("path", {class: "hit"}),
      box: svg("rect", {class: "label-box", rx: 7}),
      lock: svg("path", {class: "lock", d: LOCK}),
      texts: [svg("text"), svg("text", {class: "second"})],
    };
    part.group = svg("g", this.pressable("edge", edge.id), part.hit, part.line, part.flow);
    part.label = svg("g", {onclick: (event) => part.group.dispatchEvent(new MouseEvent("click", event))},
      part.box, part.lock, ...part.texts);
    this.labelLayer.append(part.label);
    return part;
  }

  drawEdge(edge, fresh) {
    const part = this.edges.get(edge.id);
    const kind = kindOf(edge);
    if (fresh) {
      const {d, curve} = path(this.plan.routes.get(edge.id));
      [part.line, part.flow, part.hit].forEach((line) => setAttr(line, "d", d));
      part.curve = curve;
    }
    setAttr(part.line, "marker-end", `url(#arrow-${kind.split(" ")[0]})`);
    setAttr(part.line, "stroke-width", (1.4 + Math.min(4, Math.log10(1 + (edge.rate ?? 0)))).toFixed(1));
    const near = part.group.classList.contains("near") ? " near" : "";
    setAttr(part.group, "class", `edge ${kind}${near}`);
    setAttr(part.label, "class", `label ${kind}${near}`);
    setAttr(part.group, "aria-label", describe(edge));
    const lines = [firstLine(edge), edge.versions.length > 1 && !kind.startsWith("denied") ? shorten(split(edge.versions), 46) : ""];
    part.texts.forEach((text, at) => setText(text, lines[at]));
    const safe = edge.security !== "none";
    setAttr(part.lock, "visibility", safe ? "inherit" : "hidden");
    part.group.classList.toggle("mixed", edge.security === "mixed");
    part.size = {
      width: Math.max(lines[0].length * 6.7 + (safe ? 16 : 0), lines[1].length * 5.9) + 16,
      height: lines[1] ? 36 : 21,
      inset: safe ? 16 : 0,
    };
  }

  /** Puts each label on its edge where no other label is, if there is such a place. */
  placeLabels(edges, all) {
    const taken = [...this.plan.places].filter(([id]) => !id.startsWith("\u0000")).map(([, place]) => ({
      x: place.x, y: place.y - NODE.height / 2, width: NODE.width, height: NODE.height,
    }));
    for (const edge of edges) {
      const part = this.edges.get(edge.id);
      const {width, height, inset} = part.size;
      let box;
      for (const t of all ? [0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74, 0.18, 0.82] : [0.5]) {
        const point = pointAt(part.curve, t);
        const here = {x: point.x - width / 2, y: point.y - height / 2, width, height};
        box ??= here;
        if (!taken.some((other) => overlap(other, here))) {
          box = here;
          break;
        }
      }
      if (all) taken.push(box);
      setAttr(part.label, "transform", `translate(${box.x.toFixed(1)} ${box.y.toFixed(1)})`);
      setAttr(part.box, "width", width.toFixed(1));
      setAttr(part.box, "height", height);
      setAttr(part.lock, "transform", "translate(7 3)");
      part.texts.forEach((text, at) => {
        setAttr(text, "x", at === 0 ? (width + inset) / 2 : width / 2);
        setAttr(text, "y", 15 + at * 15);
      });
    }
  }

  /** Shows all of it. */
  fit() {
    if (!this.plan) return;
    const {width, height} = this.root.getBoundingClientRect();
    if (width === 0) return;
    const room = 24;
    const whole = Math.min((width - 2 * room) / Math.max(1, this.plan.width),
      (height - 2 * room) / Math.max(1, this.plan.height), 1.2);
    // A small map on a small screen is shown from its beginning rather than too small to read.
    const scale = this.data.nodes.length <= 30 ? Math.max(whole, Math.min(LEGIBLE, 1.2)) : whole;
    this.view = {
      scale,
      x: Math.max(room, (width - this.plan.width * scale) / 2),
      y: Math.max(room, (height - this.plan.height * scale) / 2),
    };
    this.moved = false;
    this.look();
  }

  look() {
    const {x, y, scale} = this.view;
    setAttr(this.world, "transform", `translate(${x.toFixed(1)} ${y.toFixed(1)}) scale(${scale.toFixed(4)})`);
  }

  /** Moves the map so that what has the focus can be seen. */
  bringIntoView(element) {
    if (!element.matches(":focus-visible")) return;
    const all = this.root.getBoundingClientRect();
    const box = element.getBoundingClientRect();
    const move = (low, high, from, to) => (low < from ? from - low : high > to ? Math.max(to - high, from - low) : 0);
    const dx = move(box.left - 12, box.right + 12, all.left, all.right);
    const dy = move(box.top - 12, box.bottom + 12, all.top, all.bottom);
    if (dx !== 0 || dy !== 0) this.pan(dx, dy);
  }

  zoom(factor, at) {
    const box = this.root.getBoundingClientRect();
    const center = at ?? {x: box.width / 2, y: box.height / 2};
    const scale = Math.min(4, Math.max(0.05, this.view.scale * factor));
    const by = scale / this.view.scale;
    this.view = {
      scale,
      x: center.x - (center.x - this.view.x) * by,
      y: center.y - (center.y - this.view.y) * by,
    };
    this.moved = true;
    this.look();
  }

  pan(dx, dy) {
    this.view.x += dx;
    this.view.y += dy;
    this.moved = true;
    this.look();
  }

  listen() {
    const {root} = this;
    let last = null;
    root.addEventListener("pointerdown", (event) => {
      this.dragged = false;
      if (event.button === 0) last = {x: event.clientX, y: event.clientY};
    });
    root.addEventListener("pointermove", (event) => {
      if (!last || event.buttons === 0) return;
      const [dx, dy] = [event.clientX - last.x, event.clientY - last.y];
      if (!this.dragged && Math.hypot(dx, dy) < 4) return;
      if (!this.dragged) root.setPointerCapture(event.pointerId);
      this.dragged = true;
      last = {x: event.clientX, y: event.clientY};
      this.pan(dx, dy);
    });
    root.addEventListener("pointerup", () => { last = null; });
    root.addEventListener("pointercancel", () => { last = null; });
    root.addEventListener("click", () => { if (!this.dragged) this.select(null); });
    root.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      const box = root.getBoundingClientRect();
      this.zoom(Math.exp(-event.deltaY / 240), {x: event.clientX - box.left, y: event.clientY - box.top});
    }, {passive: false});
    root.addEventListener("keydown", (event) => {
      const step = {ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40]}[event.key];
      if (step) this.pan(...step);
      else if (event.key === "+") this.zoom(1.25);
      else if (event.key === "-") this.zoom(0.8);
      else if (event.key === "0") this.fit();
      else return;
      event.preventDefault();
    });
  }
}

function overlap(a, b) {
  return a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
}

function arrow(kind) {
  return svg("marker", {id: `arrow-${kind}`, class: kind, viewBox: "0 0 8 8", refX: 3, refY: 4,
    markerWidth: 9, markerHeight: 9, markerUnits: "userSpaceOnUse", orient: "auto"},
  svg("path", {d: "M0 0.6 7.4 4 0 7.4z"}));
}

function shorten(text, length) {
  return text.length > length ? `${text.slice(0, length - 1)}\u2026` : text || none;
}
