// What the page does beside being read: it stays up to date, shows local time, and copies commands.
"use strict";

const EVERY = 15000; // milliseconds between two questions; what has not changed is answered with 304
const PARTS = ["header", "nav", "main", "footer"];
let tag = ""; // of what is shown

const two = (number) => String(number).padStart(2, "0");

function localTime(root) {
  for (const element of root.querySelectorAll("time")) {
    const at = new Date(element.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const zone = new Intl.DateTimeFormat("en", { timeZoneName: "short" }).formatToParts(at)
      .find((part) => part.type === "timeZoneName").value;
    const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
    const minutes = `${two(at.getHours())}:${two(at.getMinutes())}`;
    if (!element.title) element.title = element.textContent;
    element.textContent = "clock" in element.dataset
      ? `${minutes}:${two(at.getSeconds())} ${zone}` : `${day} ${minutes} ${zone}`;
  }
}

async function copy(button, text, source) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch { // not over plain HTTP from another machine: then it is marked
    window.getSelection().selectAllChildren(source);
    button.textContent = "Ctrl+C copies it";
  }
  document.getElementById("announced").textContent = button.textContent;
  setTimeout(() => { button.textContent = "Copy"; }, 3000);
}

function copyButtons(root) {
  root.querySelectorAll(".command").forEach((box, number) => {
    const source = box.querySelector("pre");
    const button = document.createElement("button");
    button.type = "button";
    button.id = `copy-${number}`;
    button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy: ${source.textContent}`);
    button.addEventListener("click", () => copy(button, source.textContent, source));
    box.append(button);
  });
}

function chosenAtOnce(root) {
  for (const select of root.querySelectorAll(".selection select")) {
    select.addEventListener("change", () => select.form.requestSubmit());
  }
}

function prepare() {
  for (const part of PARTS) localTime(document.querySelector(part));
  const main = document.querySelector("main");
  copyButtons(main);
  chosenAtOnce(main);
}

// Never takes away what somebody is marking, writing or choosing.
function busy() {
  const tags = ["INPUT", "SELECT"];
  return document.hidden || window.getSelection().toString() !== "" || tags.includes(document.activeElement.tagName);
}

function show(fresh) {
  const focused = document.activeElement.id;
  const standing = document.getElementById("standing").textContent;
  const state = new Map([...document.querySelectorAll("details[id]")].map((each) => [each.id, each.open]));
  for (const part of PARTS) {
    document.querySelector(part).replaceWith(fresh.querySelector(part));
  }
  for (const each of document.querySelectorAll("details[id]")) {
    if (state.has(each.id)) each.open = state.get(each.id);
  }
  document.title = fresh.title;
  prepare();
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  const now = document.getElementById("standing");
  if (now.textContent !== standing) {
    document.getElementById("announced").textContent = `Now ${now.lastChild.textContent}`;
  }
}

async function refresh() {
  if (busy()) return;
  try {
    const answer = await fetch(location.pathname + location.search, { headers: { "If-None-Match": tag || '"none"' } });
    if (!answer.ok) return; // 304: it is as it was
    const text = await answer.text();
    if (busy()) return;
    tag = answer.headers.get("ETag") ?? "";
    show(new DOMParser().parseFromString(text, "text/html"));
  } catch {
    // the service is away; what is shown says when it was checked
  }
}

prepare();
setInterval(refresh, EVERY);
