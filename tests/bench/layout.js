// What overlaps, or leaves its place, on a page that is `arguments[0]` CSS pixels wide.
const width = arguments[0];  // a phone's innerWidth grows with what is too wide
const overlaps = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
const boxes = (selector, root) => [...(root || document).querySelectorAll(selector)]
  .map((one) => [one, one.getBoundingClientRect()]).filter(([, box]) => box.width > 0 && box.height > 0);
const clashes = [];
const check = (found, name) => found.forEach(([one, a], i) => found.slice(i + 1).forEach(([other, b]) => {
  if (overlaps(a, b)) clashes.push(`${name}: ${one.textContent.slice(0, 40)} | ${other.textContent.slice(0, 40)}`);
}));
check(boxes("body > *"), "body"); check(boxes("section"), "sections"); check(boxes("dl > div"), "facts");
check(boxes("nav li"), "links"); check(boxes("figure"), "figures");
document.querySelectorAll("section").forEach((part) => check(boxes(":scope > *", part), part.id));
document.querySelectorAll("figure").forEach((figure) => {
  const outer = figure.getBoundingClientRect();
  boxes("svg", figure).forEach(([, box]) => { if (box.right > outer.right + 1 || box.bottom > outer.bottom + 1)
    clashes.push(`${figure.dataset.chart}: the plot leaves its box`); });
  figure.querySelectorAll(".role-axis-label, .role-mark.mark-text").forEach((axis) => {
    const seen = boxes("text", axis).filter(([one]) => getComputedStyle(one).opacity > 0 && one.getAttribute("opacity") !== "0");
    check(seen, figure.dataset.chart);
  });
});
document.querySelectorAll("h1, h2, p, dd, dt, li, summary, label").forEach((one) => {
  const box = one.getBoundingClientRect();
  if (box.right > width + 1) clashes.push(`beyond the edge: ${one.textContent.slice(0, 60)}`);
});
return {clashes, scrolls: document.documentElement.scrollWidth > width,
        paper: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color,
        label: getComputedStyle(document.querySelector(".role-axis-label text") || document.body).fill};
