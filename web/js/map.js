// Mixture Blend: a map of its mixtures, as far apart as the changes they make; a dragged point blends its neighbours.
import { app } from "../../../scripts/app.js";
import { addPanel, element, follow, linked, whileDragged, widgetOf, write } from "./panel.js";

const SLOTS = [1, 2, 3, 4];
const NOTHING = "0"; // the point of weights of 0
const SVG = "http://www.w3.org/2000/svg";
const EPSILON = 1e-9;

const minus = ([x, y], [u, v]) => [x - u, y - v];
const cross = ([x, y], [u, v]) => x * v - y * u;
const dot = ([x, y], [u, v]) => x * u + y * v;

/** Weights of a triangle's corners that add up to 1 and give a point; null for corners on one line. */
function inTriangle([a, b, c], point) {
  const whole = cross(minus(b, a), minus(c, a));
  if (Math.abs(whole) < EPSILON) return null;
  const second = cross(minus(point, a), minus(c, a)) / whole;
  const third = cross(minus(b, a), minus(point, a)) / whole;
  return [1 - second - third, second, third];
}

/** Tells whether a point lies within the circle through three others (positive determinant, Delaunay 1934). */
function inCircle([a, b, c], point) {
  const rows = [a, b, c].map((corner) => minus(corner, point)).map(([x, y]) => [x, y, x * x + y * y]);
  const [[ax, ay, az], [bx, by, bz], [cx, cy, cz]] = rows;
  const determinant = ax * (by * cz - bz * cy) - ay * (bx * cz - bz * cx) + az * (bx * cy - by * cx);
  return determinant * Math.sign(cross(minus(b, a), minus(c, a))) > EPSILON;
}

/** Weights of the points on a line nearest to a point, and the square of the distance there. */
function onLine([a, b], point) {
  const along = minus(b, a);
  const length = dot(along, along);
  const t = length ? Math.max(0, Math.min(1, dot(minus(point, a), along) / length)) : 0;
  const rest = minus(point, [a[0] + t * along[0], a[1] + t * along[1]]);
  return { weights: [1 - t, t], distance: dot(rest, rest) };
}

function subsets(n, size, from = 0) {
  if (!size) return [[]];
  const found = [];
  for (let first = from; first < n; first += 1) {
    for (const others of subsets(n, size - 1, first + 1)) found.push([first, ...others]);
  }
  return found;
}

/** Finds weights of points, none negative and 1 in all, that give a position: of the corners of the Delaunay triangle
 *  around it, or, outside of all, of the nearest two. */
export function neighbours(points, position) {
  const weights = points.map(() => 0);
  const put = (indices, values) => indices.forEach((index, at) => (weights[index] = values[at]));
  for (const corners of subsets(points.length, 3)) {
    const triangle = corners.map((index) => points[index]);
    const inside = inTriangle(triangle, position);
    if (!inside?.every((weight) => weight >= -EPSILON)) continue;
    if (points.some((point, index) => !corners.includes(index) && inCircle(triangle, point))) continue;
    put(corners, inside);
    return weights;
  }
  const lines = subsets(points.length, 2).map((ends) => ({ ends, ...onLine(ends.map((end) => points[end]), position) }));
  const nearest = lines.sort((one, other) => one.distance - other.distance)[0];
  put(nearest.ends, nearest.weights);
  return weights;
}

const given = (node) => SLOTS.filter((slot) => linked(node, `mixture_${slot}`));

function svg(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** Chooses the scale that fits all points into the frame; x and y share it, as distances count. */
function frame(points, width, height) {
  const [xs, ys] = [0, 1].map((axis) => points.map((point) => point[axis]));
  const middle = [xs, ys].map((values) => (Math.min(...values) + Math.max(...values)) / 2);
  const spans = [xs, ys].map((values) => Math.max(...values) - Math.min(...values));
  const scale = Math.min((width - 60) / (spans[0] || EPSILON), (height - 40) / (spans[1] || EPSILON));
  return {
    there: ([x, y]) => [width / 2 + (x - middle[0]) * scale, height / 2 - (y - middle[1]) * scale],
    back: ([x, y]) => [middle[0] + (x - width / 2) / scale, middle[1] - (y - height / 2) / scale],
  };
}

/** Where the blend lies: coordinates are linear in the changes, and what the weights leave is of the last point. */
function blended(points, weights) {
  const all = [...weights, 1 - weights.reduce((sum, weight) => sum + weight, 0)];
  return [0, 1].map((axis) => points.reduce((sum, point, index) => sum + all[index] * point[axis], 0));
}

function drawMap(node, body, { points, seen }) {
  const slots = given(node);
  const names = slots.map((slot) => `weight_${slot}`);
  const fixed = names.find((name) => linked(node, name));
  if (points.length !== slots.length + 1 || fixed) {
    const says = fixed ? `${fixed} comes from another node: the map cannot write it.` : "Run once more to see the map.";
    body.replaceChildren(element("div", { padding: "4px" }, { textContent: says }));
    return;
  }
  const [width, height] = [Math.max(body.clientWidth, 200), 170];
  const { there, back } = frame(points, width, height);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, width: "100%", height, class: "lorweb-map" });
  Object.assign(picture.style, {
    background: "var(--comfy-input-bg)", borderRadius: "4px", touchAction: "none", cursor: "crosshair",
  });
  [...slots, NOTHING].forEach((label, index) => {
    const [x, y] = there(points[index]);
    const nothing = label === NOTHING;
    const dot = svg("circle", { cx: x, cy: y, r: 5, fill: nothing ? "none" : "#d65fb5", stroke: "#d65fb5" });
    const name = svg("text", { x: x + 8, y: y - 6, fill: "var(--input-text)", "font-size": 12 });
    name.textContent = label;
    dot.append(svg("title", {}));
    dot.firstChild.textContent = nothing ? "Weights of 0" : `mixture_${label}`;
    picture.append(dot, name);
  });
  const weights = names.map((name) => Number(widgetOf(node, name).value));
  const [cx, cy] = there(blended(points, weights));
  picture.append(svg("circle", { cx, cy, r: 8, fill: "none", stroke: "#35b39a", "stroke-width": 3, class: "lorweb-here" }));
  picture.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    const box = picture.getBoundingClientRect();
    const drag = ({ clientX, clientY }) => {
      const at = [((clientX - box.left) / box.width) * width, ((clientY - box.top) / box.height) * height];
      const found = neighbours(points, back(at));
      names.forEach((name, index) => write(node, name, Math.round(found[index] * 100) / 100));
    };
    whileDragged(drag);
    drag(event);
  });
  const told = `${Math.round(100 * seen)} % of the squared distances show in the plane. ${NOTHING}: weights of 0.`;
  body.replaceChildren(picture, element("div", { padding: "2px 4px", opacity: 0.8 }, { textContent: told }));
}

app.registerExtension({
  name: "LoRWeB.Map",
  nodeCreated(node) {
    if (node.comfyClass !== "LoRWeBMixtureBlend") return;
    const { redraw, ask } = addPanel(node, {
      title: "Map of the mixtures",
      height: 240,
      hint: "Run once to see the map of these mixtures.",
      sources: () => given(node).map((slot) => `mixture_${slot}`),
      draw: (body, view) => drawMap(node, body, view),
    });
    follow(node, SLOTS.map((slot) => `weight_${slot}`), () => redraw());
    follow(node, ["origin"], () => ask());
  },
});
