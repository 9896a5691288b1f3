// Brings the page up to date every half minute while somebody looks at it. Without JavaScript there is the Reload link.
"use strict";
setInterval(async () => {
  const reading = !document.hidden && !window.getSelection().toString();
  const inside = document.querySelector("main").contains(document.activeElement);
  if (!reading || inside) return; // never takes away what somebody is marking or has the focus on
  try {
    const answer = await fetch("/");
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of ["header", "main", "footer"]) {
      document.querySelector(part).replaceWith(fresh.querySelector(part));
    }
    document.title = fresh.title;
  } catch {
    // the service is away; what is shown says when it was checked
  }
}, 30000);
