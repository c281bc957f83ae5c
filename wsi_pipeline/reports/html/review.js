"use strict";
// Shows one cell at a time and keeps a label for each. Text of the data is only set as text.
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const cells = page.cells, classes = page.classes;
  const names = classes.map((c) => c.name);
  const key = `wsiseg-review:${page.slide}:${page.run}`;
  const get = (id) => document.getElementById(id);
  const svgName = "http://www.w3.org/2000/svg";
  const view = { outline: true, cutOut: false, near: false };
  let labels = {}, others = {}, past = [], at = 0;

  function make(parent, tag, attributes, text) {
    const node = tag.startsWith("svg:")
      ? document.createElementNS(svgName, tag.slice(4)) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    parent.appendChild(node);
    return node;
  }

  // Storage: a browser may refuse it, for example for files.
  function keep() {
    try {
      localStorage.setItem(key, JSON.stringify({ labels, others, past, at }));
    } catch {
      get("unkept").hidden = false;
    }
  }
  function recall() {
    try {
      const kept = JSON.parse(localStorage.getItem(key) || "{}");
      [labels, others] = split(kept.labels, kept.others);
      past = (kept.past || []).filter((step) => byId.has(step.id));
      at = Math.min(Math.max(0, kept.at | 0), Math.max(0, cells.length - 1));
    } catch {
      get("unkept").hidden = false;
    }
  }
  const byId = new Map(cells.map((cell, i) => [cell.id, i]));
  // Labels of cells that this page does not show are kept for the file.
  function split(...sources) {
    const own = {}, rest = {};
    for (const source of sources) {
      for (const [id, label] of Object.entries(source || {})) {
        if (names.includes(label)) (byId.has(id) ? own : rest)[id] = label;
      }
    }
    return [own, rest];
  }

  function say(text) { get("said").textContent = text; }
  function focusStage() { get("stage").focus({ preventScroll: true }); }

  function go(index) {
    if (index < 0 || index >= cells.length) {
      say(index < 0 ? "This is the first cell." : "This was the last cell.");
      return;
    }
    at = index;
    keep();
    show();
    say(describe(cells[at]));
  }

  function label(name) {
    const id = cells[at].id;
    past.push({ id, before: labels[id] ?? null });
    labels[id] = name;
    keep();
    const told = `Cell ${at + 1}: ${name}.`;
    if (at + 1 < cells.length) go(at + 1); else show();
    say(`${told} ${done()}`);
  }

  function undo() {
    const step = past.pop();
    if (!step) { say("Nothing to undo."); return; }
    if (step.before === null) delete labels[step.id]; else labels[step.id] = step.before;
    at = byId.get(step.id);
    keep();
    show();
    say(`Undone: cell ${at + 1} is ${labels[step.id] || "without a label"}.`);
  }

  const done = () => `${Object.keys(labels).length} of ${cells.length} labelled`;
  function describe(cell) {
    const why = cell.reasons.slice(0, 3).map(([name, z]) => `${name} z ${z}`).join(", ");
    return `Cell ${cell.rank} of ${cells.length}, score ${cell.score}; ${why}. `
      + `Label: ${labels[cell.id] || "none"}.`;
  }

  function draw(cell) {
    const stage = get("picture");
    stage.replaceChildren();
    const side = Math.max(cell.width, cell.height), cut = view.near ? side / 4 : 0;
    stage.setAttribute("viewBox", `${cut} ${cut} ${cell.width - 2 * cut} ${cell.height - 2 * cut}`);
    stage.setAttribute("aria-label", describe(cell));
    make(stage, "svg:image", { href: cell.image, width: cell.width, height: cell.height });
    const whole = cell.outlines[0];
    if (view.cutOut && whole) {
      const frame = `M0 0H${cell.width}V${cell.height}H0Z`;
      make(stage, "svg:path", { class: "outside", d: frame + whole[1] });
    }
    if (view.outline) {
      for (const [kind, d] of cell.outlines) {
        make(stage, "svg:path", { class: `outline ${kind}`, d });
      }
    }
  }

  function list(node, pairs) {
    node.replaceChildren();
    for (const [name, value] of pairs) {
      make(node, "dt", {}, name);
      make(node, "dd", {}, value);
    }
  }

  function show() {
    const empty = cells.length === 0;
    get("none").hidden = !empty;
    get("main").hidden = empty;
    get("progress").textContent = done();
    if (empty) return;
    const cell = cells[at];
    draw(cell);
    get("title").textContent = `Cell ${cell.rank} of ${cells.length}, score ${cell.score}`;
    list(get("reasons"), cell.reasons.map(([name, z]) => [name, `z ${z}`]));
    list(get("numbers"), [["class", cell.class], ["x, y (level-0 pixels)", `${cell.x}, ${cell.y}`],
      ["id", cell.id], ...cell.measurements]);
    get("previous").disabled = at === 0;
    get("next").disabled = at === cells.length - 1;
    get("undo").disabled = past.length === 0;
    for (const button of get("labels").children) {
      button.setAttribute("aria-pressed", String(button.dataset.label === labels[cell.id]));
    }
    for (const name of ["outline", "cutOut", "near"]) {
      get(name).setAttribute("aria-pressed", String(view[name]));
    }
    [...get("strip").children].forEach((item, i) => {
      const own = labels[cells[i].id], button = item.firstChild;
      if (i === at) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
      button.lastChild.textContent = `${cells[i].rank} ${own || "–"}`;
      button.lastChild.className = own ? "done" : "";
    });
  }

  function save() {
    const text = JSON.stringify({ schema_version: 1, slide: page.slide, model: page.model,
      labels: { ...others, ...labels } }, null, 1);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text + "\n"], { type: "application/json" }));
    link.download = `${page.slide}.labels.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    say(`Saved ${link.download}: ${done()}.`);
  }

  async function load(file) {
    let read;
    try {
      read = JSON.parse(await file.text());
      if (read.schema_version !== 1 || typeof read.labels !== "object") throw new Error();
    } catch {
      say(`${file.name} is no file of labels; give one that this page saved.`);
      return;
    }
    if (read.slide !== page.slide) {
      say(`${file.name} is about slide ${read.slide}, not ${page.slide}.`);
      return;
    }
    const [own, rest] = split(read.labels);
    const refused = Object.keys(read.labels).length - Object.keys(own).length
      - Object.keys(rest).length;
    past = [];
    labels = { ...labels, ...own };
    others = { ...others, ...rest };
    keep();
    show();
    say(`${Object.keys(own).length} labels read, ${Object.keys(rest).length} of other cells kept`
      + (refused ? `, ${refused} with an unknown name left out.` : "."));
  }

  function clear() {
    if (!confirm("Remove all labels of this page?")) return;
    labels = {}; past = []; at = 0;
    keep();
    show();
    say("All labels are removed.");
  }

  function toggle(name) {
    view[name] = !view[name];
    show();
  }

  const commands = { ArrowRight: () => go(at + 1), ArrowLeft: () => go(at - 1),
    ArrowDown: () => go(at + 1), ArrowUp: () => go(at - 1), " ": () => go(at + 1),
    Home: () => go(0), End: () => go(cells.length - 1), u: undo, o: () => toggle("outline"),
    c: () => toggle("cutOut"), z: () => toggle("near"), s: save };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || !cells.length) return;
    const where = event.target instanceof Element ? event.target : document.body;
    if (where.closest("input, textarea, select")) return;
    // A button or summary that has the focus is pressed by space.
    if (event.key === " " && where.closest("button, summary")) return;
    const number = "123456789".indexOf(event.key);
    const command = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (number >= 0 && event.key.length === 1) {
      if (!event.repeat) label(names[number]);
    } else if (commands[command]) commands[command]();
    else return;
    event.preventDefault();
  });

  // After a click of the mouse the focus leaves the button, so that space goes on.
  function press(node, action) {
    node.addEventListener("click", (event) => {
      action();
      if (event.detail > 0) focusStage();
    });
  }

  classes.forEach((own, i) => {
    const button = make(get("labels"), "button", { type: "button", title: own.means,
      "aria-keyshortcuts": String(i + 1), "aria-pressed": "false",
      "aria-label": `${own.name}: ${own.means}` });
    button.dataset.label = own.name;
    make(button, "kbd", { "aria-hidden": "true" }, String(i + 1));
    make(button, "span", {}, own.name);
    press(button, () => label(own.name));
  });
  cells.forEach((cell, i) => {
    const button = make(make(get("strip"), "li"), "button", { type: "button",
      "aria-label": `Cell ${cell.rank}` });
    make(make(button, "span", { class: "thumb" }), "img",
      { src: cell.image, alt: "", loading: "lazy" });
    make(button, "span");
    press(button, () => { go(i); get("stage").scrollIntoView({ block: "nearest" }); });
  });
  press(get("previous"), () => go(at - 1));
  press(get("next"), () => go(at + 1));
  press(get("undo"), undo);
  press(get("save"), save);
  press(get("clear"), clear);
  for (const name of ["outline", "cutOut", "near"]) press(get(name), () => toggle(name));
  get("load").addEventListener("change", (event) => {
    if (event.target.files.length) load(event.target.files[0]);
    event.target.value = "";
  });
  addEventListener("storage", (event) => {
    if (event.key !== key || event.newValue === null) return;
    const here = at;
    recall();
    at = here;
    show();
  });
  recall();
  show();
})();
