// Denials and flows as tables; rows are kept and changed, so that what is selected stays so.

import {byId, el, setText} from "./dom.js";
import {bytes, clock, none, number, seconds} from "./format.js";

const MOST_ROWS = 200;

function put(body, rows, key, columns, open) {
  const known = body.rowsByKey ?? new Map();
  const next = new Map();
  rows.forEach((item, at) => {
    const id = key(item);
    const row = known.get(id) ?? el("tr");
    next.set(id, row);
    row.onclick = () => open(item);
    columns(item).forEach((cell, index) => {
      const {text, style = "", title} = typeof cell === "object" ? cell : {text: cell};
      const td = row.cells[index] ?? row.appendChild(el("td"));
      if (td.className !== style) td.className = style;
      if (title) td.title = title;
      setText(td, text);
    });
    if (body.rows[at] !== row) body.insertBefore(row, body.rows[at] ?? null);
  });
  for (const [id, row] of known) if (!next.has(id)) row.remove();
  body.rowsByKey = next;
}

const process = (flow) => (flow.comm == null ? none : `${flow.comm} (${flow.pid ?? "?"})`);
const call = (flow) => `${flow.source_service} \u2192 ${flow.destination_service === "-" ? "outside" : flow.destination_service}`;
const verdict = (flow) => ({text: flow.verdict, style: `verdict ${flow.verdict}`});

/** The same denial again is one row with a count. */
export function denials(flows, open) {
  const groups = new Map();
  for (const flow of flows) {
    const same = [flow.source_service, flow.destination_service, flow.dialled, flow.rule, flow.reason, flow.hook, flow.comm, flow.verdict];
    const key = JSON.stringify(same);
    const group = groups.get(key);
    if (group) group.count += 1;
    else groups.set(key, {key, flow, count: 1});
  }
  const rows = [...groups.values()].slice(0, 50);
  put(byId("denials").tBodies[0], rows, (group) => group.key, ({flow, count}) => [
    {text: clock(flow.time_unix_seconds), style: "mono"},
    {text: call(flow), style: "call"},
    {text: flow.dialled, style: "mono"},
    {text: flow.rule, style: `verdict ${flow.verdict}`, title: flow.verdict},
    {text: flow.file ? `${flow.file}:${flow.line}` : none, style: "mono"},
    {text: flow.reason, title: flow.detail ?? ""},
    flow.hook ?? none,
    {text: process(flow), style: "process"},
    {text: number(count), style: "num"},
  ], ({flow}) => open(flow));
  byId("denials-empty").hidden = rows.length > 0;
  byId("denials").hidden = rows.length === 0;
}

export function flowRows(flows, open) {
  const rows = flows.slice(0, MOST_ROWS);
  put(byId("flows").tBodies[0], rows, (flow) => flow.seq, (flow) => [
    {text: clock(flow.time_unix_seconds), style: "mono"},
    flow.event,
    {text: call(flow) + (flow.destination_version && flow.destination_version !== "-" ? ` ${flow.destination_version}` : ""), style: "call"},
    {text: flow.dialled, style: "mono"},
    {text: flow.endpoint ? flow.endpoint + (flow.node ? ` on ${flow.node}` : "") : none, style: "mono"},
    verdict(flow),
    {text: flow.verdict === "denied" ? none : bytes(flow.sent_bytes), style: "num"},
    {text: flow.verdict === "denied" ? none : bytes(flow.received_bytes), style: "num"},
    {text: seconds(flow.connect_seconds), style: "num"},
    {text: seconds(flow.duration_seconds), style: "num"},
    flow.end ?? (flow.response_flags && flow.response_flags !== "-" ? flow.response_flags : none),
    {text: process(flow), style: "process"},
  ], open);
  byId("flows-empty").hidden = rows.length > 0;
  byId("flows").hidden = rows.length === 0;
}

/** Whether a flow has all the words somewhere. */
export function matches(flow, words) {
  if (words.length === 0) return true;
  const values = [flow.source_service, flow.destination_service, flow.destination_version, flow.dialled, flow.endpoint,
    flow.source_address, flow.node, flow.reason, flow.rule, flow.file, flow.hook, flow.comm, flow.cgroup, flow.event, flow.end, flow.protocol];
  const all = values.filter((value) => value != null).join("\n").toLowerCase();
  return words.every((word) => all.includes(word));
}
