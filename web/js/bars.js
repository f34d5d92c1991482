// Mixture Edit: bars of the LoRAs by their share of the change, which the mouse mutes, solos and scales.
import { app } from "../../../scripts/app.js";
import { addPanel, element, follow, linked, whileDragged, widgetOf, write } from "./panel.js";

const LARGEST_FACTOR = 4; // which the mouse gives; more can be typed
const ROW = 18;
const MOST_ROWS = 256; // the largest

/** Reads "3, 8-11" as [3, 8, 9, 10, 11]; null where it is something else. */
function readIndices(text) {
  const found = new Set();
  for (const part of text.split(",").map((each) => each.trim()).filter(Boolean)) {
    const range = part.match(/^(\d{1,9})(?:\s*-\s*(\d{1,9}))?$/);
    if (!range || Number(range[2] ?? range[1]) - Number(range[1]) > 10_000) return null;
    for (let index = Number(range[1]); index <= Number(range[2] ?? range[1]); index += 1) found.add(index);
  }
  return found;
}

/** Writes indices in their shortest form: [3, 8, 9, 10] as "3, 8-10". */
function writeIndices(indices) {
  const ranges = [];
  for (const index of [...indices].sort((one, other) => one - other)) {
    const last = ranges.at(-1);
    if (last?.[1] === index - 1) last[1] = index;
    else ranges.push([index, index]);
  }
  return ranges.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(", ");
}

/** Reads "3: 0, 8-11: 1.5" as a map of factors; null where it is something else. */
function readFactors(text) {
  const found = new Map();
  for (const part of text.split(",").map((each) => each.trim()).filter(Boolean)) {
    const [which, factor, more] = part.split(":");
    const indices = readIndices(which);
    if (!indices || !factor?.trim() || more !== undefined || !Number.isFinite(Number(factor))) return null;
    for (const index of indices) found.set(index, Number(factor));
  }
  return found;
}

function writeFactors(factors) {
  const given = [...factors].filter(([, factor]) => factor !== 1).sort(([one], [other]) => one - other);
  return given.map(([index, factor]) => `${index}: ${factor}`).join(", ");
}

const text = (node, name) => String(widgetOf(node, name)?.value ?? "");

function toggle(node, name, index) {
  const indices = readIndices(text(node, name));
  if (!indices) return;
  if (!indices.delete(index)) indices.add(index);
  write(node, name, writeIndices(indices));
}

function setFactor(node, index, factor) {
  const factors = readFactors(text(node, "factors"));
  if (!factors) return;
  write(node, "factors", writeFactors(factors.set(index, Math.round(factor * 100) / 100)));
}

function button(label, pressed, colour, title, onclick) {
  const style = {
    flex: "0 0 18px", height: "14px", lineHeight: "12px", padding: 0, borderRadius: "3px", cursor: "pointer",
    border: "1px solid var(--border-color)", font: "10px sans-serif",
    background: pressed ? colour : "transparent", color: pressed ? "#fff" : "var(--input-text)",
  };
  const made = element("button", style, { type: "button", textContent: label, title, onclick });
  made.setAttribute("aria-pressed", String(pressed));
  return made;
}

/** Makes a track whose bar ends where the mouse drags it: its length is the share times the factor. */
function track(node, index, share, factor, widest, heard, redraw) {
  const style = { flex: "1 1 auto", height: "12px", position: "relative", cursor: "ew-resize", touchAction: "none" };
  const made = element("div", { ...style, background: "var(--comfy-input-bg)", borderRadius: "3px" });
  made.className = "lorweb-track";
  made.title = `LoRA ${index}: ${(100 * share).toFixed(1)} % of the change. Drag to scale it, double-click for 1.`;
  const width = (value) => `${Math.min(100, (100 * value) / widest)}%`;
  const plain = { position: "absolute", inset: "0 auto 0 0", borderRadius: "3px" };
  made.append(
    element("div", { ...plain, width: width(share), border: "1px solid var(--descrip-text)", boxSizing: "border-box" }),
    element("div", {
      ...plain, width: width(share * Math.abs(factor)), background: factor < 0 ? "#c2410c" : "#d65fb5",
      opacity: heard ? 1 : 0.25,
    }),
  );
  made.addEventListener("pointerdown", (event) => {
    if (!share || event.button !== 0) return;
    event.preventDefault();
    const { left, width: whole } = made.getBoundingClientRect();
    const drag = ({ clientX }) => {
      const dragged = (((clientX - left) / whole) * widest) / share;
      setFactor(node, index, Math.max(0, Math.min(LARGEST_FACTOR, dragged)));
    };
    whileDragged(drag);
    drag(event);
  });
  made.addEventListener("dblclick", () => { setFactor(node, index, 1); redraw(); });
  return made;
}

function drawBars(node, body, shares, redraw) {
  const mute = readIndices(text(node, "mute"));
  const solo = readIndices(text(node, "solo"));
  const factors = readFactors(text(node, "factors"));
  const from = ["mute", "solo", "factors"].find((name) => linked(node, name));
  if (!mute || !solo || !factors || from) {
    const wrong = from ?? (!mute ? "mute" : !solo ? "solo" : "factors");
    const says = from ? "comes from another node" : "cannot be read";
    body.replaceChildren(element("div", { padding: "4px" }, { textContent: `${wrong} ${says}: the bars cannot write it.` }));
    return;
  }
  const widest = 2 * Math.max(...shares, Number.MIN_VALUE);
  const order = shares.map((share, index) => [share, index]).sort(([one], [other]) => other - one);
  const rows = order.slice(0, MOST_ROWS).map(([share, index]) => {
    const factor = factors.get(index) ?? 1;
    const heard = (!solo.size || solo.has(index)) && !mute.has(index);
    const row = element("div", { display: "flex", gap: "4px", alignItems: "center", height: `${ROW}px` });
    row.className = "lorweb-bar";
    row.dataset.lora = index;
    row.append(
      element("span", { flex: "0 0 26px", textAlign: "right" }, { textContent: index }),
      button("M", mute.has(index), "#b91c1c", `Mute LoRA ${index}`, () => { toggle(node, "mute", index); redraw(); }),
      button("S", solo.has(index), "#15803d", `Solo LoRA ${index}`, () => { toggle(node, "solo", index); redraw(); }),
      track(node, index, share, factor, widest, heard, redraw),
      element("span", { flex: "0 0 40px" }, { textContent: factor === 1 ? "" : `×${factor}` }),
    );
    return row;
  });
  const { scrollTop } = body;
  body.replaceChildren(...rows);
  body.scrollTop = scrollTop;
}

app.registerExtension({
  name: "LoRWeB.Bars",
  nodeCreated(node) {
    if (node.comfyClass !== "LoRWeBMixtureEdit") return;
    const { redraw } = addPanel(node, {
      title: "LoRAs",
      height: 190,
      hint: "Run once to see the LoRAs of this mixture.",
      sources: () => ["mixture"],
      draw: (body, view) => drawBars(node, body, view.shares[0], () => redraw()),
    });
    follow(node, ["mute", "solo", "factors"], () => redraw());
  },
});
