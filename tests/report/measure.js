// What is wrong with the page in each frame: run in a page that holds frames of several widths and colour schemes.
const found = [];
for (const frame of document.querySelectorAll("iframe")) {
  const faults = [], page = frame.contentDocument, view = frame.contentWindow, wide = page.documentElement.clientWidth;
  page.querySelectorAll("details").forEach(each => { each.open = true; });
  const say = (what, element) => faults.push(what + ": <" + element.tagName + " class='" + element.className + "'> " + element.textContent.trim().slice(0, 60));
  const numbers = colour => colour.match(/[\d.]+/g).map(Number);
  const light = colour => { const [r, g, b] = numbers(colour).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const ground = element => { for (let at = element; at; at = at.parentElement) { const c = view.getComputedStyle(at).backgroundColor, n = numbers(c); if (c.startsWith("rgb") && (n.length < 4 || n[3] > .99)) return c; if (c.startsWith("color") && n[3] !== 0) return null; } return "rgb(255, 255, 255)"; };
  if (page.documentElement.scrollWidth > wide) faults.push("the page is " + page.documentElement.scrollWidth + " wide");
  for (const element of page.body.querySelectorAll("*")) {
    const style = view.getComputedStyle(element), box = element.getBoundingClientRect();
    if (!box.width || !box.height || style.visibility === "hidden") continue;
    const scrolls = element.closest(".scroll, .wide");
    if (!scrolls && (box.right > wide + .5 || box.left < -.5)) say("beyond the edge", element);
    if (![...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())) continue;
    if (parseFloat(style.fontSize) < 11) say("text of " + style.fontSize, element);
    if (style.overflowX !== "visible" && style.textOverflow !== "ellipsis" && element.scrollWidth > element.clientWidth + 1) say("cut", element);
    const back = ground(element);
    if (back && style.color.startsWith("rgb")) { const [a, b] = [light(style.color), light(back)].sort((x, y) => y - x); if ((a + .05) / (b + .05) < 4.5) say("contrast " + ((a + .05) / (b + .05)).toFixed(2), element); }
  }
  for (const area of page.querySelectorAll(".area, .axis .track")) {
    const boxes = [...area.querySelectorAll(".tick")].map(each => [each, each.getBoundingClientRect()]).filter(([, box]) => box.width);
    boxes.forEach(([each, a], i) => boxes.slice(i + 1).forEach(([, b]) => { if (a.left < b.right && b.left < a.right && a.top + 2 < b.bottom && b.top + 2 < a.bottom) say("overlap", each); }));
  }
  for (const row of page.querySelectorAll(".row:not(.axis)")) {
    const [a, b] = [row.querySelector(".name"), row.querySelector(".value")].map(each => each.getBoundingClientRect());
    if (a.right > b.left + .5 && a.top < b.bottom && b.top < a.bottom) say("overlap", row);
  }
  for (const each of page.querySelectorAll("figure")) if (!each.querySelector("figcaption") || !each.querySelector("[aria-label]")) say("no caption or name", each);
  for (const each of page.querySelectorAll(".plane")) if ([...each.querySelectorAll(".unit")].some(unit => !unit.textContent.trim())) say("an axis without a name", each);
  found.push({width: frame.width, scheme: frame.style.colorScheme, faults, ground: view.getComputedStyle(page.body).backgroundColor, figures: page.querySelectorAll("figure").length});
}
document.title = "FOUND" + JSON.stringify(found) + "END";
