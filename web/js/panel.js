// What the widgets of Mixture Edit and Mixture Blend share: a panel in the node that opens, and the node's inputs.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const CLOSED = 34;

export function element(tag, style = {}, given = {}) {
  const made = Object.assign(document.createElement(tag), given);
  Object.assign(made.style, style);
  return made;
}

export function widgetOf(node, name) {
  return node.widgets?.find((each) => each.name === name);
}

/** Tells whether an input takes its value from another node, so that its widget counts for nothing. */
export function linked(node, name) {
  return node.inputs?.some((input) => input.name === name && input.link != null) ?? false;
}

/** Writes a value into a node's ordinary input, as typing it there does. */
export function write(node, name, value) {
  const widget = widgetOf(node, name);
  if (!widget || linked(node, name) || widget.value === value) return;
  widget.value = value;
  widget.callback?.(value, app.canvas, node);
  node.setDirtyCanvas?.(true, true);
}

/** Calls a function after a widget's value was typed, so that what is drawn of it follows. */
export function follow(node, names, then) {
  for (const name of names) {
    const widget = widgetOf(node, name);
    const before = widget?.callback;
    if (widget) widget.callback = function (...given) { const result = before?.apply(this, given); then(); return result; };
  }
}

/** Calls a function for each move of the mouse until its button is let go: of the whole page and before the frontend,
 *  which keeps events of nodes to itself, as what is dragged is drawn anew meanwhile. */
export function whileDragged(move) {
  window.addEventListener("pointermove", move, true);
  const end = () => window.removeEventListener("pointermove", move, true);
  window.addEventListener("pointerup", end, { once: true, capture: true });
}

function source(node, name) {
  const slot = node.inputs?.findIndex((input) => input.name === name) ?? -1;
  return slot < 0 ? null : node.getInputNode(slot);
}

/** Asks the server for what saved mixtures look like: of the inputs of these names, all from Load Mixture.
 *  Gives null where one is from another node, which has to run first. */
export async function saved(node, names) {
  const loaders = names.map((name) => source(node, name));
  const bases = new Set(loaders.map((loader) => (loader ? source(loader, "basis") : null)));
  const [basis] = bases;
  const known = loaders.every((loader) => loader?.comfyClass === "LoRWeBLoadMixture");
  if (!names.length || !known || bases.size > 1 || basis?.comfyClass !== "LoRWeBBasisLoader") return null;
  const query = new URLSearchParams({
    basis: widgetOf(basis, "basis_name").value,
    config: widgetOf(basis, "config_name").value,
    origin: widgetOf(node, "origin")?.value ?? "zero",
  });
  for (const loader of loaders) query.append("mixture", widgetOf(loader, "mixture_name").value);
  const answer = await api.fetchApi(`/lorweb/mixtures?${query}`);
  const view = await answer.json();
  if (!answer.ok) throw new Error(view.error);
  return view;
}

/** Adds a panel to a node, closed at first. `draw(body, view)` fills it with what the node's last run gave, or with
 *  what the server says of saved mixtures; `sources()` names the inputs that these come from.
 *  Gives functions that draw anew and that ask the server anew. */
export function addPanel(node, { title, height, hint, sources, draw }) {
  const style = { font: "12px sans-serif", color: "var(--input-text)", display: "flex", flexDirection: "column" };
  const root = element("div", { ...style, minHeight: 0, overflow: "hidden" }, { className: "lorweb-panel" });
  const bare = { border: 0, background: "none", color: "inherit", font: "inherit", textAlign: "left", cursor: "pointer" };
  const head = element("button", { ...bare, padding: "0 4px", flex: "0 0 18px" }, { type: "button" });
  const inner = { flex: "1 1 auto", minHeight: 0, maxHeight: `${height - CLOSED}px`, overflow: "auto" };
  const body = element("div", { ...inner, position: "relative", outline: "none" }, { tabIndex: 0 });
  body.dataset.captureWheel = "true"; // the frontend leaves the wheel to it while it has the focus
  root.append(head, body);
  const isOpen = () => Boolean(node.properties?.lorweb_open);
  let view = null;
  let ran = false;

  const say = (text) => body.replaceChildren(element("div", { padding: "4px", opacity: 0.8 }, { textContent: text }));
  const redraw = () => {
    head.textContent = `${isOpen() ? "▾" : "▸"} ${title}`;
    head.setAttribute("aria-expanded", String(isOpen()));
    body.style.display = isOpen() ? "" : "none";
    if (isOpen() && view) draw(body, view);
  };
  const ask = async () => {
    if (!isOpen() || ran) return;
    say("Reading …");
    try {
      view = await saved(node, sources());
      view ? redraw() : say(hint);
    } catch (error) {
      say(error.message);
    }
  };
  const size = () => (isOpen() ? height : CLOSED);
  const widget = node.addDOMWidget("lorweb_panel", "lorweb_panel", root, {
    serialize: false, hideOnZoom: false, getMinHeight: size, getMaxHeight: size, margin: 6,
  });
  widget.serialize = false;
  head.addEventListener("click", () => {
    const before = size();
    node.properties.lorweb_open = !isOpen();
    node.setSize([node.size[0], Math.max(node.size[1] + size() - before, node.computeSize()[1])]);
    redraw();
    ask();
    node.setDirtyCanvas?.(true, true);
  });
  const { onExecuted, onConfigure, onConnectionsChange } = node;
  node.onExecuted = function (output) {
    onExecuted?.apply(this, arguments);
    view = output?.lorweb?.at(-1) ?? null;
    ran = Boolean(view);
    redraw();
  };
  node.onConfigure = function () {
    onConfigure?.apply(this, arguments);
    redraw();
    // The nodes that it is linked to are there a little later.
    setTimeout(ask, 0);
  };
  node.onConnectionsChange = function () {
    onConnectionsChange?.apply(this, arguments);
    if (app.configuringGraph) return;
    ran = false;
    ask();
  };
  redraw();
  return { redraw, ask };
}
