"use strict";
// Sorts the overview by a press on a header. #sort=forgetting at the end of the address does so when the page opens,
// #sort=-forgetting from the other end.
(() => {
  const table = document.querySelector("table.table");
  const heads = [...table.tHead.rows[0].cells];
  const ranked = [...table.tBodies[0].rows];
  const other = { ascending: "descending", descending: "ascending" };
  const compare = new Intl.Collator(undefined, { numeric: true }).compare;

  function sort(head, order) {
    const place = heads.indexOf(head);
    const value = (row) => row.cells[place].dataset.value;
    const sign = order === "ascending" ? 1 : -1;
    const difference = (a, b) => (isNaN(a) || isNaN(b) ? compare(a, b) : a - b);
    // What has no value comes last, whichever end is first; equals stay in the order of the ranks.
    const rows = [...ranked].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      return (x === "") - (y === "") || sign * difference(x, y);
    });
    table.tBodies[0].append(...rows);
    heads.forEach((one) => one.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
  }

  function follow() {
    const [, reverse, key] = /^#sort=(-?)(\w+)$/.exec(location.hash) || [];
    const head = heads.find((one) => one.dataset.key === key);
    if (head) sort(head, reverse ? other[head.dataset.first] : head.dataset.first);
  }

  for (const head of heads) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const order = head.getAttribute("aria-sort");
      sort(head, order ? other[order] : head.dataset.first);
      const reverse = head.getAttribute("aria-sort") === head.dataset.first ? "" : "-";
      history.replaceState(null, "", `#sort=${reverse}${head.dataset.key}`);
    });
  }
  document.documentElement.classList.add("sorts");
  addEventListener("hashchange", follow);
  follow();
})();
