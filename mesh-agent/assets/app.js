// Asks the agent, keeps what it said, shows it.

import {byId, el, morphChildren, setOptions, setText} from "./dom.js";
import {bytes, clock, none, number, percent, rate} from "./format.js";
import {ServiceMap} from "./map.js";
import {edgePanel, nodePanel} from "./panel.js";
import {denials, flowRows, matches} from "./tables.js";

const EVERY = 1000;
const PATIENCE = 5000;
const MOST_FLOWS = 2000;
const MOST_DENIALS = 500;

const state = {
  graph: null,
  services: new Map(),
  flows: [],
  denials: [],
  next: null,
  log: null,
  noLog: false,
  heard: 0,
  problem: null,
  chosen: null,
  paused: false,
  token: null,
};

class Unanswered extends Error {
  constructor(status, text) {
    super(text || `the agent answers ${status}`);
    this.status = status;
  }
}

async function ask(path) {
  const headers = state.token ? {authorization: `Bearer ${state.token}`} : {};
  const answer = await fetch(path, {headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE)});
  if (!answer.ok) throw new Unanswered(answer.status, (await answer.text()).slice(0, 300).trim());
  return answer.json();
}

// --- What the agent says ---------------------------------------------------------------------

function remember(kept, more, most) {
  const known = new Set(kept.map((flow) => flow.seq));
  const fresh = more.filter((flow) => !known.has(flow.seq)).reverse();
  return [...fresh, ...kept].sort((a, b) => b.seq - a.seq).slice(0, most);
}

function takeFlows(document) {
  state.next = document.next;
  state.log = document;
  state.flows = remember(state.flows, document.flows, MOST_FLOWS);
  const refused = document.flows.filter((flow) => flow.verdict !== "allowed");
  state.denials = remember(state.denials, refused, MOST_DENIALS);
}

async function askFlows() {
  if (state.noLog) return;
  try {
    if (state.next == null) {
      // What was denied is looked for on its own: allowed flows can be many more.
      for (const verdict of ["would-deny", "denied"]) {
        const {flows} = await ask(`/api/v1/flows?last=100&verdict=${verdict}`);
        state.denials = remember(state.denials, flows, MOST_DENIALS);
      }
      takeFlows(await ask("/api/v1/flows?last=300"));
    } else {
      takeFlows(await ask(`/api/v1/flows?after=${state.next}&last=${MOST_FLOWS}`));
    }
  } catch (error) {
    if (error.status !== 404) throw error;
    state.noLog = true;
  }
}

async function refresh() {
  const seconds = byId("window").value;
  try {
    const [graph, services] = await Promise.all([
      ask(`/api/v1/graph?window=${seconds}`),
      ask(`/api/v1/services?window=${seconds}`),
      askFlows(),
    ]);
    state.graph = graph;
    state.services = new Map(services.services.map((service) => [service.service, service]));
    state.heard = Date.now();
    state.problem = null;
  } catch (error) {
    state.problem = error;
    if (error.status !== 401) state.next = null;
  }
  show();
}

let timer = null;
let busy = false;

async function tick() {
  if (busy) return;
  clearTimeout(timer);
  busy = true;
  try {
    if (!document.hidden && !state.paused) await refresh();
    else showLive();
  } finally {
    busy = false;
    if (!document.hidden) timer = setTimeout(tick, EVERY);
  }
}

// --- What is shown ---------------------------------------------------------------------------

const namespaceOf = (id) => (id.includes("/") ? id.split("/")[0] : "");

function visible() {
  const namespace = byId("namespace").value;
  const idle = byId("idle").checked;
  let {nodes, edges} = state.graph;
  if (namespace) {
    edges = edges.filter((edge) => [edge.source, edge.target].some((id) => namespaceOf(id) === namespace));
  }
  const linked = new Set(edges.flatMap((edge) => [edge.source, edge.target]));
  nodes = nodes.filter((node) => linked.has(node.id) ||
    (idle && node.id.includes("/") && (!namespace || namespaceOf(node.id) === namespace)));
  return {nodes, edges};
}

function inNamespace(flow) {
  const namespace = byId("namespace").value;
  return !namespace || [flow.source_service, flow.destination_service].some((id) => namespaceOf(id) === namespace);
}

function show() {
  showLive();
  if (!state.graph) return;
  const names = state.graph.nodes.map((node) => node.id);
  setOptions(byId("namespace"), [...new Set(names.map(namespaceOf))].filter(Boolean).sort());
  setOptions(byId("flow-service"), [...names].sort());
  const {nodes, edges} = visible();
  byId("map-empty").hidden = nodes.length > 0;
  map.update(nodes, edges);
  showTiles(edges);
  showPanel();
  showTables();
}

function showLive() {
  const {problem, heard} = state;
  const age = heard ? Math.round((Date.now() - heard) / 1000) : null;
  const stale = problem != null;
  const asked = problem?.status === 401;
  document.body.classList.toggle("stale", stale);
  document.body.classList.toggle("paused", state.paused);
  byId("token-form").hidden = !asked;
  const banner = byId("banner");
  banner.hidden = !stale || asked;
  if (stale && !asked) {
    const why = problem.status ? problem.message : "The agent does not answer.";
    setText(banner, age == null ? why : `${why} What is shown is ${age} s old, from ${clock(heard / 1000)}.`);
  }
  const over = state.graph?.window_seconds;
  const live = over ? `live \u00b7 last ${Math.round(over)} s` : heard ? "live" : "connecting";
  setText(byId("live-text"), stale ? (heard ? `no answer for ${age} s` : "no answer") : state.paused ? "paused" : live);
}

function showTiles(edges) {
  const sum = (value) => edges.reduce((total, edge) => total + (value(edge) ?? 0), 0);
  const known = edges.some((edge) => edge.rate != null);
  const requests = sum((edge) => edge.traffic.rates.requests_per_second);
  const calls = sum((edge) => edge.rate);
  const wrong = sum((edge) => edge.error_share * (edge.rate ?? 0));
  const measured = edges.some((edge) => edge.rate_of === "request");
  const safe = sum((edge) => (edge.security === "none" ? 0 : 1));
  const carried = sum((edge) => edge.traffic.rates.sent_bytes_per_second) + sum((edge) => edge.traffic.rates.received_bytes_per_second);
  const denied = sum((edge) => edge.denied_per_second);
  const tile = (name, value, tone = "") => ({name, value, tone});
  const tiles = [
    tile("Services", number([...state.services.keys()].filter((id) => id.includes("/")).length)),
    measured ? tile("Requests", rate(known ? requests : null, "")) : null,
    tile("Connections", rate(known ? sum((edge) => edge.traffic.rates.connections_per_second) : null, "")),
    tile("Errors", calls > 0 ? percent(wrong / calls) : none, calls > 0 && wrong / calls >= 0.01 ? "warn" : ""),
    tile("Denied", rate(known ? denied : null, ""), denied > 0 ? "bad" : ""),
    tile("Carried", known ? `${bytes(carried)}/s` : none),
    safe > 0 ? tile("Over mTLS", `${safe} of ${edges.length} edges`) : null,
  ].filter(Boolean);
  const root = byId("tiles");
  if (root.children.length !== tiles.length) {
    root.replaceChildren(...tiles.map(() => el("div", {class: "tile"}, el("span"), el("b"))));
  }
  tiles.forEach(({name, value, tone}, at) => {
    const [label, number] = root.children[at].children;
    setText(label, name);
    setText(number, value);
    number.className = tone;
  });
}

function showPanel() {
  const panel = byId("panel");
  const {chosen, graph} = state;
  const find = (items) => items.find((item) => item.id === chosen.id);
  const item = chosen && find(chosen.kind === "node" ? graph.nodes : graph.edges);
  panel.hidden = !item;
  document.body.classList.toggle("details", Boolean(item));
  if (!item) return;
  const identities = new Map(graph.nodes.map((node) => [node.id, node.detail__identity]));
  const flows = [...state.denials, ...state.flows.filter((flow) => flow.verdict === "allowed")]
    .sort((a, b) => b.seq - a.seq);
  const parts = chosen.kind === "node"
    ? nodePanel(item, state.services.get(item.id), graph.edges, flows)
    : edgePanel(item, identities, flows);
  morphChildren(panel, parts.filter(Boolean));
}

function showTables() {
  const open = (flow) => {
    const target = flow.destination_service === "-" ? "outside" : flow.destination_service;
    const edge = state.graph.edges.find((one) => one.source === flow.source_service && one.target === target);
    if (edge) select({kind: "edge", id: edge.id});
  };
  denials(state.denials.filter(inNamespace), open);
  const service = byId("flow-service").value;
  const verdict = byId("flow-verdict").value;
  const words = byId("flow-text").value.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = state.flows.filter((flow) => inNamespace(flow) &&
    (!service || flow.source_service === service || flow.destination_service === service) &&
    (!verdict || flow.verdict === verdict) && matches(flow, words));
  flowRows(shown, open);
  const {log} = state;
  let note = "";
  if (state.noLog) note = "this agent keeps no flows";
  else if (log) {
    const oldest = log.oldest_unix_seconds ? `, oldest ${clock(log.oldest_unix_seconds)}` : "";
    const lost = log.lost ? `, ${number(log.lost)} lost` : "";
    note = `${number(log.kept)} of ${number(log.seen)} kept${oldest}${lost}`;
  }
  setText(byId("flows-note"), note);
}

// --- What people do --------------------------------------------------------------------------

function select(chosen) {
  state.chosen = chosen;
  map.choose(chosen?.id ?? null);
  if (state.graph) showPanel();
  const hash = chosen ? `#${chosen.kind}=${encodeURIComponent(chosen.id)}` : " ";
  history.replaceState(null, "", hash === " " ? location.pathname : hash);
}

function selectFromAddress() {
  const found = /^#(node|edge)=(.+)$/.exec(location.hash);
  if (!found) return;
  try {
    state.chosen = {kind: found[1], id: decodeURIComponent(found[2])};
    map.chosen = state.chosen.id;
  } catch {
    // Not an address of ours.
  }
}

const THEMES = ["auto", "light", "dark"];

function store(area, name, value) {
  try {
    if (value === undefined) return area.getItem(name);
    area.setItem(name, value);
  } catch {
    // Without storage it is forgotten with the page.
  }
  return null;
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  const button = byId("theme");
  setText(button, theme[0].toUpperCase() + theme.slice(1));
  button.setAttribute("aria-label", `Colours: ${theme}`);
  store(localStorage, "mesh-theme", theme);
}

const map = new ServiceMap(byId("map"), select);

function begin() {
  setText(byId("place"), location.host);
  const theme = store(localStorage, "mesh-theme");
  setTheme(THEMES.includes(theme) ? theme : "auto");
  state.token = store(sessionStorage, "mesh-token");
  selectFromAddress();
  byId("theme").addEventListener("click", () => {
    const at = THEMES.indexOf(document.documentElement.dataset.theme);
    setTheme(THEMES[(at + 1) % THEMES.length]);
  });
  byId("pause").addEventListener("click", () => {
    state.paused = !state.paused;
    byId("pause").setAttribute("aria-pressed", state.paused);
    setText(byId("pause"), state.paused ? "Resume" : "Pause");
    tick();
  });
  byId("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    state.token = byId("token").value.trim();
    byId("token").value = "";
    store(sessionStorage, "mesh-token", state.token);
    tick();
  });
  byId("panel").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) select(button.dataset.kind ? {...button.dataset} : null);
  });
  byId("zoom-in").addEventListener("click", () => map.zoom(1.25));
  byId("zoom-out").addEventListener("click", () => map.zoom(0.8));
  byId("zoom-fit").addEventListener("click", () => map.fit());
  byId("window").addEventListener("change", tick);
  for (const id of ["namespace", "idle", "flow-service", "flow-verdict"]) byId(id).addEventListener("change", show);
  byId("flow-text").addEventListener("input", show);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && state.chosen) select(null);
  });
  document.addEventListener("visibilitychange", tick);
  window.addEventListener("hashchange", () => { selectFromAddress(); show(); });
  tick();
}

begin();
