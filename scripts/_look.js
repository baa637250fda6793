// What check_book.py runs inside each page. Not part of the book.
window.look = (() => {
  const pause = (ms) => new Promise((done) => setTimeout(() => done(true), ms));
  const text = (value, length = 80) => (value || "").trim().slice(0, length);

  // Unfold answers and wait until formulas are set and pictures are there.
  async function settle() {
    document.querySelectorAll("details").forEach((d) => { d.open = true; });
    document.querySelectorAll("img[loading=lazy]").forEach((i) => { i.loading = "eager"; });
    if (window.MathJax && MathJax.startup && MathJax.startup.promise) await MathJax.startup.promise;
    await Promise.all([...document.images].map((i) => i.decode().catch(() => null)));
    return pause(150);
  }

  const isLabelled = (input) =>
    (input.labels && input.labels.length > 0) || input.hasAttribute("aria-label") || input.hasAttribute("aria-labelledby");

  function findings() {
    const found = [];
    for (const image of document.images) {
      const name = text(image.getAttribute("src"));
      if (!text(image.getAttribute("alt"))) found.push(`an image without alternative text: ${name}`);
      if (image.complete && image.naturalWidth === 0) found.push(`an image that cannot be shown: ${name}`);
    }
    const unset = [...document.querySelectorAll(".math")].filter((m) => !m.querySelector("mjx-container"));
    if (unset.length) found.push(`${unset.length} formulas that are not set, the first: ${text(unset[0].textContent)}`);
    for (const error of document.querySelectorAll("[data-mjx-error]"))
      found.push(`a formula with an error: ${error.getAttribute("data-mjx-error")}`);
    for (const input of document.querySelectorAll("input[type=range]"))
      if (!isLabelled(input)) found.push("a slider without a label");
    return found;
  }

  // The first element that makes the page scroll sideways, if it does.
  function tooWide() {
    const page = document.documentElement;
    if (page.scrollWidth <= page.clientWidth + 1) return "";
    const scrolls = (e) => e && e !== document.body && (getComputedStyle(e).overflowX !== "visible" || scrolls(e.parentElement));
    const wide = [...document.body.querySelectorAll("*")].find(
      (e) => e.getBoundingClientRect().right > page.clientWidth + 1 && !scrolls(e.parentElement));
    return wide ? `${wide.tagName.toLowerCase()}.${text(wide.className.toString(), 40)} ${text(wide.textContent, 40)}` : "something";
  }

  // The sliders that can be seen and used, in the order of the page.
  const sliders = () =>
    [...document.querySelectorAll("input[type=range]")].filter((s) => s.offsetParent !== null && !s.disabled);

  const otherValues = (number) =>
    JSON.stringify(sliders().filter((_, i) => i !== number).map((s) => s.value));

  function showSliders(visible) {
    document.querySelectorAll("input[type=range]").forEach((s) => { s.style.visibility = visible ? "" : "hidden"; });
  }

  // Bring a slider to the middle of the window and focus it: its value, a key that can move it, success.
  function focus(number) {
    const slider = sliders()[number];
    slider.scrollIntoView({ block: "center", behavior: "instant" });
    slider.focus();
    const key = Number(slider.value) < Number(slider.max || 100) ? "ArrowRight" : "ArrowLeft";
    return [slider.value, key, document.activeElement === slider];
  }

  return { pause, settle, findings, tooWide, sliders, otherValues, showSliders, focus };
})(); true
