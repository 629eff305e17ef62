// Numbers as people read them.

export const none = "\u2013";

export function number(value) {
  if (value == null) return none;
  const size = Math.abs(value);
  if (size >= 1e9) return `${(value / 1e9).toFixed(2)} G`;
  if (size >= 1e6) return `${(value / 1e6).toFixed(2)} M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(1)} k`;
  if (Number.isInteger(value) || size >= 100) return value.toFixed(0);
  if (size >= 0.095 || size === 0) return value.toFixed(1);
  return value.toFixed(2);
}

export function rate(value, unit) {
  return value == null ? none : `${number(value)}${unit}/s`;
}

export function bytes(value) {
  if (value == null) return none;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${units[unit]}`;
}

export function seconds(value) {
  if (value == null) return none;
  if (value < 0.001) return `${(value * 1e6).toFixed(0)} \u00b5s`;
  if (value < 0.0995) return `${(value * 1e3).toFixed(1)} ms`;
  if (value < 1) return `${(value * 1e3).toFixed(0)} ms`;
  if (value < 90) return `${value.toFixed(1)} s`;
  if (value < 5400) return `${(value / 60).toFixed(0)} min`;
  return `${(value / 3600).toFixed(1)} h`;
}

export function percent(share) {
  if (share == null) return none;
  const value = share * 100;
  const digits = value > 0 && value < 0.1 ? 2 : value > 99.9 && value < 100 ? 2 : 1;
  return `${value.toFixed(digits)} %`;
}

/** A weight without needless digits: 99, 0.5. */
export function weight(share) {
  return String(Math.round(share * 1e4) / 100);
}

/** Observed, and wanted in brackets. */
export function split(versions) {
  return versions
    .map((one) => `${one.version} ${percent(one.observed)}${one.weight == null ? "" : ` (${weight(one.weight)})`}`)
    .join(" / ");
}

export function clock(unixSeconds) {
  const time = new Date(unixSeconds * 1000);
  const two = (value) => String(value).padStart(2, "0");
  return `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`;
}

export function rateUnit(edge) {
  return edge.rate_of === "request" ? " req" : " conn";
}
