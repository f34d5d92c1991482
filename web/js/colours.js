// Colours the pack's own sockets and their links, in both renderers and under every palette that does not name them.
import { app } from "../../../scripts/app.js";

const COLOURS = { LORWEB_BASIS: "#e0a030", LORWEB_MIXTURE: "#d65fb5", LORWEB_ANALOGY: "#35b39a" };

/** Keeps a colour in a table that the frontend empties of types its palette does not name. */
function keep(table, type, colour) {
  let shown = colour;
  Object.defineProperty(table, type, {
    configurable: true,
    enumerable: true,
    get: () => shown,
    set: (value) => (shown = value || colour),
  });
}

app.registerExtension({
  name: "LoRWeB.Colours",
  setup() {
    const rules = Object.entries(COLOURS).map(([type, colour]) => `--color-datatype-${type}: ${colour};`);
    const style = document.createElement("style");
    style.textContent = `:root { ${rules.join(" ")} }`;
    document.head.append(style);
    for (const [type, colour] of Object.entries(COLOURS)) {
      keep(app.canvas.default_connection_color_byType, type, colour);
      keep(app.canvas.constructor.link_type_colors, type, colour);
    }
  },
});
