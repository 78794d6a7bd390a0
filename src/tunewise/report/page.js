"use strict";
(() => {
  const specs = JSON.parse(document.getElementById("charts").textContent);
  const places = [...document.querySelectorAll("[data-chart]")];
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function template() {
    const axis = {
      gridcolor: colour("--grid"), linecolor: colour("--line"), zerolinecolor: colour("--grid"),
      tickfont: { color: colour("--quiet") }, title: { font: { color: colour("--quiet"), size: 12 }, standoff: 10 },
      fixedrange: true, ticks: "", automargin: true,
    };
    return {
      layout: {
        font: { family: "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", size: 13, color: colour("--ink") },
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false, hovermode: "closest",
        hoverlabel: { bgcolor: colour("--raised"), bordercolor: colour("--line"), font: { color: colour("--ink"), size: 13 }, align: "left" },
        legend: { font: { size: 12 }, itemclick: false, itemdoubleclick: false },
        xaxis: axis, yaxis: axis,
      },
      data: { heatmap: [{ textfont: { color: colour("--ink"), size: 11 } }] },
    };
  }

  function merged(base, over) {
    const out = { ...base };
    for (const [key, value] of Object.entries(over || {}))
      out[key] = value && typeof value === "object" && !Array.isArray(value) ? merged(base[key] || {}, value) : value;
    return out;
  }

  function draw() {
    const look = template();
    for (const place of places) {
      const spec = specs[place.dataset.chart];
      const narrow = place.clientWidth < 560 ? spec.narrow : null;
      const data = spec.data.map((trace) => ({ ...trace, ...(narrow && narrow.mode ? { mode: narrow.mode } : {}) }));
      const layout = merged(merged({ ...spec.layout, template: look }, narrow && narrow.layout), { width: place.clientWidth });
      if (narrow && narrow.mode) layout.legend = { orientation: "h", y: -0.25 };
      Plotly.react(place, data, layout, { displayModeBar: false });
    }
  }

  let waiting = 0;
  const later = () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(draw); };
  addEventListener("resize", later);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", later);
  addEventListener("beforeprint", () => {
    document.documentElement.dataset.print = "";
    for (const fold of document.querySelectorAll("details")) fold.open = true;
    draw();
  });
  addEventListener("afterprint", () => { delete document.documentElement.dataset.print; draw(); });
  draw();
})();
