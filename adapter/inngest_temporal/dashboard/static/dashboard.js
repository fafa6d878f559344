// What the pages do besides htmx: times in the browser's zone, copying, selecting rows, and live parts
// that rest while nobody looks.
"use strict";

const SHORT = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
const LONG = { day: "2-digit", month: "short", ...SHORT };

function localize(root) {
  for (const time of root.querySelectorAll("time")) {
    const at = new Date(time.dateTime);
    if (!Number.isNaN(at.getTime())) {
      time.textContent = at.toLocaleString(undefined, time.dataset.day ? LONG : SHORT);
    }
  }
}

// JSON with line breaks. Numbers stay as they are written, which JSON.parse would not keep.
function indented(json) {
  let depth = 0;
  const line = () => "\n" + "  ".repeat(depth);
  return json.replace(/"(?:[^"\\]|\\.)*"|\{\}|\[\]|[{}[\],]|:\s*/g, (token) => {
    if (token === "{" || token === "[") return token + ((depth += 1), line());
    if (token === "}" || token === "]") return ((depth -= 1), line()) + token;
    if (token === ",") return token + line();
    return token.startsWith(":") ? ": " : token;
  });
}

function textOf(button) {
  if (button.dataset.copy !== undefined) return button.dataset.copy;
  const source = document.getElementById(button.dataset.copyFrom);
  const tree = source.querySelector("div.json");
  return tree ? indented(tree.textContent) : source.innerText.trim();
}

async function copy(button) {
  let said = "Copied";
  try {
    await navigator.clipboard.writeText(textOf(button));
  } catch {
    said = "Can't copy";
  }
  button.textContent = said;
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

// The bar of a table whose rows can be chosen: how many are.
function count(form) {
  const boxes = [...form.querySelectorAll("tbody input[type=checkbox]")];
  const chosen = boxes.filter((box) => box.checked).length;
  const all = form.querySelector("input[data-all]");
  if (all) {
    all.checked = boxes.length > 0 && chosen === boxes.length;
    all.indeterminate = chosen > 0 && chosen < boxes.length;
  }
  for (const button of form.querySelectorAll("button[data-needs-choice]")) {
    button.disabled = chosen === 0;
  }
  const text = form.querySelector("[data-chosen]");
  if (text) text.textContent = chosen ? `${chosen} chosen` : "";
}

function countAll() {
  document.querySelectorAll("form[data-choose]").forEach(count);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.copy");
  if (button) copy(button);
});

document.addEventListener("change", (event) => {
  const form = event.target.closest("form[data-choose]");
  if (form) {
    if (event.target.matches("input[data-all]")) {
      form.querySelectorAll("tbody input[type=checkbox]").forEach((box) => { box.checked = event.target.checked; });
    }
    count(form);
  }
  if (event.target.closest("form[data-filter]")) event.target.form.requestSubmit();
});

document.addEventListener("submit", (event) => {
  const question = event.submitter?.dataset.confirm;
  if (question && !window.confirm(question)) event.preventDefault();
});

htmx.registerExtension("dashboard", {
  // What a person has unfolded stays so, and a time that is shown in their zone is not written anew.
  htmx_before_morph_attr: (element, detail) =>
    !(element.tagName === "DETAILS" && detail.attrName === "open") &&
    !(element.tagName === "BUTTON" && detail.attrName === "disabled"),
  htmx_before_morph_node: (element, detail) =>
    !(element.tagName === "TIME" && detail.newNode.dateTime === element.dateTime),
});

const isPoll = (event) => Boolean(event.detail?.ctx?.sourceElement?.dataset.live !== undefined);

// Whether a person has turned to something else of the page since its live part was asked for.
function isStale(event) {
  const { request, sourceElement } = event.detail.ctx;
  const wanted = new URL(sourceElement.getAttribute("hx-get"), document.baseURI);
  const asked = new URL(request.action, document.baseURI);
  return asked.pathname + asked.search !== wanted.pathname + wanted.search;
}

document.addEventListener("htmx:before:request", (event) => {
  if (isPoll(event) && (document.hidden || isStale(event))) event.preventDefault();
});
document.addEventListener("htmx:before:swap", (event) => {
  if (isPoll(event) && isStale(event)) event.preventDefault();
});
document.addEventListener("htmx:after:request", (event) => {
  if (isPoll(event)) document.getElementById("offline").hidden = event.detail.ctx.response.status < 500;
});
document.addEventListener("htmx:error", (event) => {
  if (isPoll(event)) document.getElementById("offline").hidden = false;
});
document.addEventListener("htmx:after:swap", () => {
  localize(document);
  countAll();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) document.querySelectorAll("[data-live]").forEach((part) => htmx.trigger(part, "seen"));
});

document.documentElement.classList.add("scripted");
localize(document);
countAll();
