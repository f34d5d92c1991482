// Shows what the pack's errors say where people look: in a toast, and on the node until the next run.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const OURS = "LoRWeB"; // how the ids of the pack's nodes begin
const ERROR = /(^|\.)LoRWebError$/; // the type of its own errors, which other nodes raise too: a sampler, say
const WIDGET = "lorweb_error";
const TOAST_MS = 20_000;

const marked = new Map(); // node → its height before the sentence was on it
const toasts = [];

/** Lists the nodes that an execution id such as "5:12" names, from the outermost subgraph inwards. */
function nodesAt(executionId) {
  const found = [];
  let graph = app.rootGraph ?? app.graph;
  for (const id of String(executionId).split(":")) {
    const node = graph?.getNodeById(id) ?? graph?.getNodeById(Number(id));
    if (!node) break;
    found.push(node);
    graph = node.subgraph;
  }
  return found;
}

function box(sentence) {
  const element = document.createElement("div");
  element.className = "lorweb-error";
  element.setAttribute("role", "alert");
  element.textContent = sentence;
  Object.assign(element.style, {
    boxSizing: "border-box", padding: "6px 8px", borderRadius: "6px", overflow: "auto", userSelect: "text",
    background: "#7f1d1d", color: "#fff", font: "12px/16px sans-serif", whiteSpace: "pre-wrap", overflowWrap: "anywhere",
  });
  return element;
}

function mark(node, sentence) {
  unmark(node);
  marked.set(node, node.size[1]);
  const lines = Math.ceil((sentence.length * 6.5) / Math.max(node.size[0] - 40, 120));
  const height = 16 * lines + 34;
  node.addDOMWidget(WIDGET, WIDGET, box(sentence), {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => height,
    getMaxHeight: () => height,
  }).serialize = false;
  node.strokeStyles[WIDGET] = () => ({ color: "#ef4444", lineWidth: 4, padding: 6 });
  node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])]);
  node.setDirtyCanvas?.(true, true);
}

function unmark(node) {
  const widget = node.widgets?.find((each) => each.name === WIDGET);
  if (!widget) return;
  node.removeWidget(widget);
  delete node.strokeStyles[WIDGET];
  node.setSize([node.size[0], marked.get(node)]);
  node.setDirtyCanvas?.(true, true);
  marked.delete(node);
}

/** Shows a sentence on the node that an execution id names and on the subgraphs around it, and in a toast. */
function show(executionId, sentence) {
  const nodes = nodesAt(executionId);
  for (const node of nodes) mark(node, sentence);
  const summary = nodes.at(-1)?.title ?? "LoRWeB";
  const toast = { severity: "error", summary, detail: sentence, life: TOAST_MS };
  toasts.push(toast);
  app.extensionManager.toast.add(toast);
}

function clear() {
  for (const node of [...marked.keys()]) unmark(node);
  for (const toast of toasts.splice(0)) app.extensionManager.toast.remove(toast);
}

/** Says in words what the host found wrong with an input before it ran anything. */
function refused({ type, message, details }) {
  if (type === "custom_validation_failed") return details.replace(/^\w+ - /, "");
  return details ? `${message}: ${details}` : message;
}

function showRefusals(nodeErrors) {
  for (const [id, { class_type, errors }] of Object.entries(nodeErrors ?? {})) {
    if (class_type?.startsWith(OURS)) show(id, errors.map(refused).join("\n"));
  }
}

/** Shows the errors of what is queued: the host answers with them, whether it refuses all of it or a part. */
function watchQueue() {
  const queue = api.queuePrompt;
  api.queuePrompt = async function (...given) {
    clear();
    try {
      const answer = await queue.apply(this, given);
      showRefusals(answer?.node_errors);
      return answer;
    } catch (error) {
      showRefusals(error.response?.node_errors);
      throw error;
    }
  };
}

app.registerExtension({
  name: "LoRWeB.Errors",
  setup() {
    watchQueue();
    api.addEventListener("execution_error", ({ detail }) => {
      const { node_id, node_type, exception_type, exception_message } = detail;
      if (!ERROR.test(exception_type) && !node_type?.startsWith(OURS)) return;
      show(node_id, exception_message.trim());
    });
  },
});
