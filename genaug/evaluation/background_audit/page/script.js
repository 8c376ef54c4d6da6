// Sort a table by the column whose heading is pressed; missing values stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const first = heading.dataset.first || "descending";
      const turned = { ascending: "descending", descending: "ascending" };
      const now = heading.getAttribute("aria-sort");
      const order = now && now !== "none" ? turned[now] : first;
      headings.forEach((other) => other.setAttribute("aria-sort", "none"));
      heading.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        return sign * (column ? Number(x) - Number(y) : x.localeCompare(y));
      });
      table.tBodies[0].append(...rows);
    });
  });
}
