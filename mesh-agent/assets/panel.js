// What there is to say of a service, or of the calls of one to another.

import {el} from "./dom.js";
import {bytes, clock, none, number, percent, rate, seconds, weight} from "./format.js";

const SECURITY = {
  none: "on this host, in the kernel",
  mutual_tls: "mutual TLS between nodes",
  mixed: "mutual TLS to other nodes, in the kernel on this one",
};

function facts(rows) {
  const known = rows.filter(([, value]) => value != null && value !== "");
  return el("dl", {class: "facts"}, ...known.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function block(title, ...children) {
  return el("section", {}, el("h4", {}, title), ...children);
}

/** Wanted and observed, one above the other. */
function versions(list) {
  if (list.length === 0) return "";
  const row = (one) => {
    const bar = el("div", {class: "share"}, el("i", {class: "observed"}), el("i", {class: "wanted"}));
    bar.children[0].style.width = `${(one.observed ?? 0) * 100}%`;
    bar.children[1].style.left = `calc(${(one.weight ?? 0) * 100}% - 1px)`;
    bar.hidden = one.weight == null;
    const wanted = one.weight == null ? "only version" : `wanted ${weight(one.weight)} %`;
    const observed = one.weight == null ? "" : percent(one.observed);
    return el("div", {class: "version"}, el("span", {class: "name"}, one.version),
      el("span", {class: "value"}, observed), el("span", {class: "faint"}, wanted), bar);
  };
  return block("Versions", ...list.map(row));
}

function numbers(title, traffic) {
  const {rates, latency} = traffic;
  const requests = traffic.requests_total != null;
  const of = latency.of === "request" ? "first byte to first byte" : "connect";
  const cells = [
    requests ? ["Requests", rate(rates.requests_per_second, "")] : null,
    ["Connections", rate(rates.connections_per_second, "")],
    ["Open now", number(traffic.connections_open)],
    ["Success", percent(rates.success_ratio)],
    ["Denied", rate(rates.denied_per_second, "")],
    ["Sent", rates.sent_bytes_per_second == null ? none : `${bytes(rates.sent_bytes_per_second)}/s`],
    ["Received", rates.received_bytes_per_second == null ? none : `${bytes(rates.received_bytes_per_second)}/s`],
  ].filter(Boolean);
  const totals = [
    requests ? `${number(traffic.requests_total)} requests, ${number(traffic.request_errors_total)} errors` : null,
    `${number(traffic.connections_opened_total)} connections, ${number(traffic.connections_failed_total)} failed, ${number(traffic.denied_total)} denied`,
    `${bytes(traffic.sent_bytes_total)} sent, ${bytes(traffic.received_bytes_total)} received`,
  ].filter(Boolean);
  const quantile = (name, value) => el("div", {}, el("span", {}, name), el("b", {}, seconds(value)));
  return block(title,
    el("div", {class: "cells"}, ...cells.map(([name, value]) => el("div", {}, el("span", {}, name), el("b", {}, value)))),
    el("div", {class: "cells quantiles"}, quantile("p50", latency.p50_seconds), quantile("p95", latency.p95_seconds), quantile("p99", latency.p99_seconds)),
    el("p", {class: "faint"}, `Latency: ${of}. In all: ${totals.join("; ")}.`));
}

/** A button whose click is heard by the panel: rows are changed in place, listeners would not be. */
function link(kind, id, text) {
  return el("button", {type: "button", class: "link", "data-kind": kind, "data-id": id}, text);
}

function links(title, edges, end) {
  if (edges.length === 0) return "";
  const item = (edge) => el("li", {}, link("edge", edge.id, edge[end]), el("span", {class: "faint"}, edge.mainstat || none));
  const list = edges.slice(0, 12).map(item);
  if (edges.length > 12) list.push(el("li", {class: "faint"}, `and ${edges.length - 12} more`));
  return block(title, el("ul", {class: "links"}, ...list));
}

function flowList(flows) {
  if (flows.length === 0) return "";
  const item = (flow) => {
    const refused = flow.verdict !== "allowed";
    const where = flow.file ? ` at ${flow.file}:${flow.line}` : "";
    const what = refused ? `${flow.reason}, rule ${flow.rule}${where}` :
      `${flow.event} ${flow.destination_version} ${bytes(flow.sent_bytes)} sent, ${bytes(flow.received_bytes)} received`;
    return el("li", {}, el("span", {class: "mono faint"}, clock(flow.time_unix_seconds)),
      el("span", {class: `badge ${flow.verdict}`}, flow.verdict), el("span", {}, what));
  };
  return block("Recent flows", el("ul", {class: "flows"}, ...flows.slice(0, 8).map(item)));
}

function head(title, subtitle) {
  return el("div", {class: "panel-head"}, el("div", {}, el("h3", {}, title), el("span", {class: "faint"}, subtitle)),
    el("button", {type: "button", class: "close", "aria-label": "Close details"}, "\u00d7"));
}

/** Of a service. */
export function nodePanel(node, service, edges, flows) {
  const own = flows.filter((flow) => flow.source_service === node.id || flow.destination_service === node.id);
  const to = edges.filter((edge) => edge.target === node.id);
  const from = edges.filter((edge) => edge.source === node.id);
  const place = node.id.includes("/") ? (node.detail__local ? "on this node" : "on other nodes") : null;
  return [
    head(node.title, node.subtitle),
    facts([["Identity", node.detail__identity], ["Address", node.detail__vip], ["Where", place]]),
    versions(service?.versions ?? []),
    service && to.length > 0 ? numbers("Called", service.inbound) : "",
    service && from.length > 0 ? numbers("Calls", service.outbound) : "",
    links("Called by", to, "source"),
    links("Calls to", from, "target"),
    flowList(own),
  ];
}

/** Of the calls of one to another. */
export function edgePanel(edge, identities, flows) {
  const own = flows.filter((flow) => flow.source_service === edge.source && (flow.destination_service === edge.target ||
    (edge.target === "outside" && flow.destination_service === "-")));
  const end = (id) => link("node", id, id);
  return [
    head(`${edge.source} \u2192 ${edge.target}`, edge.denied ? "calls were denied" : "calls"),
    facts([
      ["From", end(edge.source)], ["Identity", identities.get(edge.source)],
      ["To", end(edge.target)], ["Identity", identities.get(edge.target)],
      ["Carried", SECURITY[edge.security]],
    ]),
    edge.versions.length > 1 ? versions(edge.versions) : "",
    numbers("Traffic", edge.traffic),
    flowList(own),
  ];
}
