// The page reads well without this: it only folds and finds.
(() => {
  const tools = document.querySelector(".tools");
  const folds = document.querySelectorAll("#timeline details");
  tools.hidden = false;
  tools.querySelectorAll("button").forEach((button) =>
    button.addEventListener("click", () =>
      folds.forEach((fold) => { fold.open = Boolean(button.dataset.open); })));
  document.getElementById("find").addEventListener("input", (event) => {
    const wanted = event.target.value.trim().toLowerCase();
    folds.forEach((fold) => {
      let found = false;
      fold.querySelectorAll("tr[data-device]").forEach((row) => {
        row.hidden = !row.dataset.device.toLowerCase().includes(wanted);
        found = found || !row.hidden;
      });
      fold.hidden = !found;
      if (wanted && found) fold.open = true;
    });
  });
})();
