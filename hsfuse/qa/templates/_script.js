"use strict";
// Three pictures of one place (reference, before, after) become a swipe. Without scripts they stay side by side.
for (const place of document.querySelectorAll("[data-swipe]")) {
  const pictures = [...place.querySelectorAll("figure")];
  if (pictures.length < 2) continue;
  const title = (figure) => figure.querySelector("b").textContent;
  const make = (tag, className, parent) => {
    const element = document.createElement(tag);
    element.className = className;
    parent.append(element);
    return element;
  };
  const box = document.createElement("div");
  box.className = "swipe";
  const stage = make("div", "stage", box);
  stage.append(pictures[0].querySelector("img").cloneNode());
  const over = make("div", "over", stage);
  const top = make("img", "", over);
  make("div", "line", stage);
  make("span", "tag left", stage).textContent = title(pictures[0]);
  const tag = make("span", "tag right", stage);
  const range = make("input", "", box);
  range.type = "range";
  range.min = 0;
  range.max = 100;
  range.value = 50;
  range.setAttribute("aria-label", "Position of the border between the two pictures, in percent");
  const move = () => stage.style.setProperty("--cut", range.value + "%");
  range.addEventListener("input", move);
  stage.addEventListener("pointermove", (event) => {
    if (!event.buttons && event.pointerType === "mouse") return;
    const frame = stage.getBoundingClientRect();
    range.value = (100 * (event.clientX - frame.left)) / frame.width;
    move();
  });
  const choices = make("div", "", box);
  const show = (figure) => {
    top.src = figure.querySelector("img").src;
    top.alt = title(figure);
    tag.textContent = title(figure);
  };
  pictures.slice(1).forEach((figure, number, all) => {
    const label = make("label", "", choices);
    const radio = make("input", "", label);
    radio.type = "radio";
    radio.name = "swipe";
    radio.checked = number === all.length - 1;
    label.append(" " + title(figure));
    radio.addEventListener("change", () => show(figure));
  });
  // Blinking shows a shift of a fraction of a pixel that no border between two pictures does.
  const label = make("label", "", choices);
  const blink = make("input", "", label);
  blink.type = "checkbox";
  label.append(" Blink");
  let timer = 0;
  blink.addEventListener("change", () => {
    clearInterval(timer);
    stage.classList.toggle("blink", blink.checked);
    over.hidden = false;
    if (blink.checked) timer = setInterval(() => { over.hidden = !over.hidden; }, 600);
  });
  show(pictures[pictures.length - 1]);
  move();
  place.before(box);
}
// What is folded away on the screen is printed in full.
addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
});
// Tables that are marked so are sorted by a click on a heading; a second click turns the order round.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const headings = [...table.tHead.rows[0].cells];
  const key = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
  const sort = (column) => {
    const rising = headings[column].getAttribute("aria-sort") !== "ascending";
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => {
      const [x, y] = [key(a, column), key(b, column)];
      // What is not known stands last either way.
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = Number.isNaN(Number(x)) || Number.isNaN(Number(y)) ? x.localeCompare(y) : x - y;
      return rising ? order : -order;
    });
    table.tBodies[0].append(...rows);
    for (const heading of headings) heading.removeAttribute("aria-sort");
    headings[column].setAttribute("aria-sort", rising ? "ascending" : "descending");
  };
  headings.forEach((heading, column) => {
    if (heading.hasAttribute("data-plain")) return;
    heading.tabIndex = 0;
    heading.addEventListener("click", () => sort(column));
    heading.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(column); });
  });
}
