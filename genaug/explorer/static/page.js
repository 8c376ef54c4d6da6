// What the server cannot do: the address bar, the clipboard, pausing a walk, and telling screen readers what changed.
(() => {
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  let paused = still.matches;
  let said = "";
  let opened = false; // until the link's view is there, the address stays the link
  const linked = location.search;

  // what the page calls when it is loaded, and when its view is there
  window.genaug = {
    linked: () => [linked],
    opened: () => {
      opened = true;
      document.documentElement.dataset.opened = "true";
      update();
    },
  };

  function link() {
    const holder = [...document.querySelectorAll("[data-query]")].find((node) => node.offsetParent !== null);
    return holder ? location.origin + location.pathname + "?" + holder.dataset.query : location.href;
  }

  function showWalk() {
    for (const image of document.querySelectorAll("img[data-moving]")) {
      const wanted = paused ? image.dataset.still : image.dataset.moving;
      if (image.getAttribute("src") !== wanted) image.src = wanted;
    }
    for (const button of document.querySelectorAll('[data-action="pause"]')) {
      const name = paused ? "Play" : "Pause";
      if (button.textContent !== name) button.textContent = name; // a change would call the observer again
    }
  }

  function update() {
    showWalk();
    if (!opened) return;
    const holder = [...document.querySelectorAll("[data-query]")].find((node) => node.offsetParent !== null);
    if (!holder || holder.dataset.query === said) return;
    said = holder.dataset.query;
    history.replaceState(null, "", "?" + said + themeOf(location.search));
    const status = document.getElementById("ga-status");
    if (status) status.textContent = holder.dataset.words;
  }

  function themeOf(search) {
    const theme = new URLSearchParams(search).get("__theme");
    return theme ? "&__theme=" + encodeURIComponent(theme) : "";
  }

  async function copy(text, button) {
    const before = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // without a secure context, as over plain HTTP from another machine
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    button.textContent = "Copied";
    const status = document.getElementById("ga-status");
    if (status) status.textContent = "Copied";
    setTimeout(() => (button.textContent = before), 1500);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-action]");
    if (!button) return;
    if (button.dataset.action === "pause") {
      paused = !paused;
      showWalk();
    } else if (button.dataset.action === "link") {
      copy(link(), button);
    } else {
      copy(button.closest("section").querySelector("code").textContent, button);
    }
  });

  new MutationObserver(update).observe(document.documentElement, { childList: true, subtree: true });
})();
