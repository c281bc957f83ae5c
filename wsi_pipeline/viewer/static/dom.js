// Elements of the page. Text from runs is set as text, never as HTML.

export const $ = (id) => document.getElementById(id);

// Makes an element: properties, listeners (on…), ARIA and data attributes, then children.
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "role" || name === "for") node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";
export function svg(tag, attributes = {}) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

// Shows a message for some seconds; an error stays until it is closed.
export function message(text, kind = "note") {
  const box = el("div", { className: `message ${kind}` }, el("span", { textContent: text }));
  const close = el("button", { textContent: "×", onclick: () => box.remove() });
  close.setAttribute("aria-label", "Close");
  box.append(close);
  $("messages").append(box);
  if (kind === "note") setTimeout(() => box.remove(), 5000);
}

// Runs a function, and shows its error.
export async function guarded(work) {
  try {
    return await work();
  } catch (error) {
    console.warn(error);
    message(error.message, "error");
    return undefined;
  }
}

export function download(name, bytes, type) {
  const url = URL.createObjectURL(new Blob([bytes], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// A number as people write it.
export function shown(value) {
  if (!Number.isFinite(value)) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return value.toLocaleString("en", size >= 1000 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 4 });
}
