// Where nodes and edges are: layers from left to right, so that calls point to the right. The same
// nodes and edges always get the same places.

export const NODE = {width: 184, height: 64};
const GAP = {x: 228, y: 26, column: 36};
/** With fewer nodes in every layer there is room for more space between them. */
const FEW = 6;
const THROUGH = 30;

/** Layers by the longest way from whoever is not called; calls in circles are turned around. */
function layers(ids, edges) {
  const out = new Map(ids.map((id) => [id, []]));
  for (const edge of edges) if (edge.source !== edge.target) out.get(edge.source).push(edge.target);
  for (const targets of out.values()) targets.sort();
  const called = new Set(edges.filter((edge) => edge.source !== edge.target).map((edge) => edge.target));
  const starts = [...ids.filter((id) => !called.has(id)), ...ids];
  const state = new Map();
  const order = [];
  for (const start of starts) {
    if (state.has(start)) continue;
    const stack = [[start, 0]];
    state.set(start, "open");
    while (stack.length > 0) {
      const top = stack[stack.length - 1];
      const targets = out.get(top[0]);
      if (top[1] < targets.length) {
        const target = targets[top[1]];
        if (state.get(target) === "open") {
          targets.splice(top[1], 1);
          continue;
        }
        top[1] += 1;
        if (!state.has(target)) {
          state.set(target, "open");
          stack.push([target, 0]);
        }
      } else {
        state.set(top[0], "done");
        order.push(top[0]);
        stack.pop();
      }
    }
  }
  const layer = new Map(ids.map((id) => [id, 0]));
  for (const id of order.reverse()) {
    for (const target of out.get(id)) layer.set(target, Math.max(layer.get(target), layer.get(id) + 1));
  }
  return layer;
}

/** Splits edges that pass layers, so that they are given room there. */
function chains(edges, layer, rows) {
  const links = [];
  const ways = new Map();
  for (const edge of edges) {
    const [from, to] = [layer.get(edge.source), layer.get(edge.target)];
    const way = [edge.source];
    if (to > from + 1 && edges.length <= 150) {
      for (let at = from + 1; at < to; at += 1) {
        const id = `\u0000${edge.id}\u0000${at}`;
        rows[at].push(id);
        way.push(id);
      }
    }
    way.push(edge.target);
    if (to > from) for (let at = 1; at < way.length; at += 1) links.push([way[at - 1], way[at]]);
    ways.set(edge.id, way);
  }
  return [links, ways];
}

/** Orders each layer so that few edges cross: towards the middle of what each is linked with. */
function arrange(rows, links) {
  const before = new Map();
  const after = new Map();
  const push = (map, key, value) => map.has(key) ? map.get(key).push(value) : map.set(key, [value]);
  for (const [from, to] of links) {
    push(after, from, to);
    push(before, to, from);
  }
  const at = new Map();
  const number = (row) => row.forEach((id, index) => at.set(id, (index + 0.5) / row.length));
  rows.forEach(number);
  const sort = (row, linked) => {
    const middle = (id) => {
      const ids = linked.get(id);
      return ids ? ids.reduce((sum, other) => sum + at.get(other), 0) / ids.length : at.get(id);
    };
    const key = new Map(row.map((id) => [id, middle(id)]));
    row.sort((a, b) => key.get(a) - key.get(b) || (a < b ? -1 : 1));
    number(row);
  };
  for (let round = 0; round < 8; round += 1) {
    for (let index = 1; index < rows.length; index += 1) sort(rows[index], before);
    for (let index = rows.length - 2; index >= 0; index -= 1) sort(rows[index], after);
  }
}

/** Places nodes; returns places by id, ways of edges as points, and the size of it all. */
export function layout(nodes, edges) {
  const linked = new Set(edges.flatMap((edge) => [edge.source, edge.target]));
  const ids = nodes.map((node) => node.id).filter((id) => linked.has(id)).sort();
  const alone = nodes.map((node) => node.id).filter((id) => !linked.has(id)).sort();
  const layer = layers(ids, edges);
  const rows = Array.from({length: Math.max(0, ...layer.values()) + 1}, () => []);
  for (const id of ids) rows[layer.get(id)].push(id);
  const [links, ways] = chains(edges, layer, rows);
  arrange(rows, links);

  const gap = Math.max(...rows.map((row) => row.length), 0) <= FEW ? GAP.y * 1.7 : GAP.y;
  const most = Math.max(10, Math.ceil(Math.sqrt(ids.length * 2.2)));
  const places = new Map();
  let x = 0;
  let height = 0;
  const columns = [];
  for (const row of rows) {
    if (row.length === 0) continue;
    const parts = Math.ceil(row.length / most);
    const length = Math.ceil(row.length / parts);
    for (let part = 0; part < parts; part += 1) {
      const column = row.slice(part * length, (part + 1) * length);
      let y = 0;
      for (const id of column) {
        const size = id.startsWith("\u0000") ? THROUGH : NODE.height;
        places.set(id, {x, y: y + size / 2});
        y += size + gap;
      }
      columns.push([column, y - gap]);
      height = Math.max(height, y - gap);
      x += NODE.width + (part === parts - 1 ? GAP.x : GAP.column);
    }
  }
  for (const [column, used] of columns) {
    for (const id of column) places.get(id).y += (height - used) / 2;
  }
  straighten(columns.map(([column]) => column), links, places, gap);
  let width = Math.max(0, x - GAP.x);
  for (const place of places.values()) height = Math.max(height, place.y + NODE.height / 2);
  ({width, height} = park(alone, places, width, height));
  const points = (way) => way.map((id) => places.get(id));
  const routes = new Map([...ways].map(([id, way]) => [id, points(way)]));
  return {places, routes, width, height};
}

/** Moves nodes towards what they are linked with, as far as their neighbours leave room. */
function straighten(columns, links, places, gap) {
  const linked = new Map();
  for (const [from, to] of links) {
    for (const [one, other] of [[from, to], [to, from]]) {
      if (!linked.has(one)) linked.set(one, []);
      linked.get(one).push(other);
    }
  }
  const half = (id) => (id.startsWith("\u0000") ? THROUGH : NODE.height) / 2;
  for (let round = 0; round < 6; round += 1) {
    for (const column of columns) {
      column.forEach((id, at) => {
        const others = linked.get(id);
        if (!others) return;
        const wish = others.reduce((sum, other) => sum + places.get(other).y, 0) / others.length;
        const above = column[at - 1];
        const below = column[at + 1];
        const low = above ? places.get(above).y + half(above) + gap + half(id) : half(id);
        const high = below ? places.get(below).y - half(below) - gap - half(id) : Infinity;
        if (low <= high) places.get(id).y = Math.min(high, Math.max(low, wish));
      });
    }
  }
}

/** Puts nodes without edges below the others, side by side. */
function park(alone, places, width, height) {
  const step = NODE.width + GAP.column;
  const room = Math.max(3, Math.floor((width + GAP.column) / step), Math.ceil(Math.sqrt(alone.length)));
  const top = height > 0 ? height + GAP.y * 2 : 0;
  alone.forEach((id, at) => {
    const x = (at % room) * step;
    const y = top + Math.floor(at / room) * (NODE.height + GAP.y) + NODE.height / 2;
    places.set(id, {x, y});
    width = Math.max(width, x + NODE.width);
    height = Math.max(height, y + NODE.height / 2);
  });
  return {width, height};
}

/** A smooth way through points: out of the right side of the first, into the left of the last. */
export function path(route) {
  const [first, last] = [route[0], route[route.length - 1]];
  if (first === last) return loop(first);
  const start = {x: first.x + NODE.width, y: first.y};
  const end = {x: last.x - 7, y: last.y};
  if (last.x <= first.x) return back(first, last);
  const stops = [start];
  for (const point of route.slice(1, -1)) {
    stops.push({x: point.x, y: point.y}, {x: point.x + NODE.width, y: point.y});
  }
  stops.push(end);
  let d = `M${start.x} ${start.y}`;
  const curves = [];
  for (let at = 1; at < stops.length; at += 1) {
    const [from, to] = [stops[at - 1], stops[at]];
    const bend = (to.x - from.x) / 2;
    d += `C${from.x + bend} ${from.y} ${to.x - bend} ${to.y} ${to.x} ${to.y}`;
    curves.push([from, {x: from.x + bend, y: from.y}, {x: to.x - bend, y: to.y}, to]);
  }
  // The label is on the first curve: there is always room for it between two layers.
  return {d, curve: curves[0]};
}

function back(first, last) {
  const start = {x: first.x + NODE.width, y: first.y + 12};
  const end = {x: last.x + NODE.width + 7, y: last.y + 12};
  const far = Math.max(start.x, end.x) + 90;
  const curve = [start, {x: far, y: start.y}, {x: far, y: end.y}, end];
  return {d: `M${start.x} ${start.y}C${far} ${start.y} ${far} ${end.y} ${end.x} ${end.y}`, curve};
}

function loop(place) {
  const x = place.x + NODE.width;
  const curve = [{x, y: place.y - 14}, {x: x + 70, y: place.y - 40}, {x: x + 70, y: place.y + 40}, {x: x + 7, y: place.y + 14}];
  const [a, b, c, d] = curve;
  return {d: `M${a.x} ${a.y}C${b.x} ${b.y} ${c.x} ${c.y} ${d.x} ${d.y}`, curve};
}

/** A point of a curve. */
export function pointAt([a, b, c, d], t) {
  const u = 1 - t;
  const mix = (key) =>
    u * u * u * a[key] + 3 * u * u * t * b[key] + 3 * u * t * t * c[key] + t * t * t * d[key];
  return {x: mix("x"), y: mix("y")};
}
