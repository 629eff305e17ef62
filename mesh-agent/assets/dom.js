// Elements. Text only ever becomes text: names come from policy files and from processes.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.setAttribute("class", value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null && child !== ""));
  return element;
}

export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export function byId(id) {
  return document.getElementById(id);
}

/** Sets the text if it differs, so that nothing is laid out for nothing. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Sets an attribute if it differs. */
export function setAttr(element, name, value) {
  const text = String(value);
  if (element.getAttribute(name) !== text) element.setAttribute(name, text);
}

/** Gives a select these options and keeps what is chosen if it still exists. */
export function setOptions(select, values) {
  const known = [...select.options].slice(1).map((option) => option.value);
  if (known.length === values.length && known.every((value, at) => value === values[at])) return;
  const chosen = select.value;
  select.replaceChildren(select.options[0], ...values.map((value) => el("option", {value}, value)));
  if (values.includes(chosen)) select.value = chosen;
}

/** Makes an element like another, changing no more than differs: what has the focus, is selected or is about to be clicked stays. */
export function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
    old.replaceWith(fresh);
  } else if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
  } else {
    // Styles are set as properties: as an attribute they would be refused by the security policy.
    if (old.style.cssText !== fresh.style.cssText) old.style.cssText = fresh.style.cssText;
    const names = (element) => element.getAttributeNames().filter((name) => name !== "style");
    for (const name of names(fresh)) setAttr(old, name, fresh.getAttribute(name));
    for (const name of names(old)) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    morphChildren(old, [...fresh.childNodes]);
  }
}

export function morphChildren(parent, fresh) {
  fresh.forEach((child, at) => {
    if (at < parent.childNodes.length) morph(parent.childNodes[at], child);
    else parent.append(child);
  });
  while (parent.childNodes.length > fresh.length) parent.lastChild.remove();
}
