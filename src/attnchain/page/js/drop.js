"use strict";
// On the pages of `attnchain serve`: sends one picture and opens its page.

const zone = document.getElementById("drop");
const chooser = document.getElementById("file");
const said = document.getElementById("dropped");
const ways = { "/pictures": "about half a minute", "/objects": "a moment" };

/** What is made of a picture: as chosen on the start page, or what this page is. */
function wanted() {
  const chosen = document.querySelector('input[name="wanted"]:checked');
  if (chosen) return chosen.value;
  return window.location.pathname.startsWith("/objects/") ? "/objects" : "/pictures";
}

const cut = document.getElementById("cut");
if (cut) {
  cut.href = window.location.pathname.replace("/pages/", "/objects/");
  cut.hidden = !window.location.pathname.startsWith("/pages/");
}

async function send(file) {
  if (!file || chooser.disabled) return;
  chooser.disabled = true;
  const way = wanted();
  said.textContent = `Reading ${file.name}. This takes ${ways[way]}.`;
  try {
    const answer = await fetch(way, {
      method: "POST",
      body: file,
      headers: { "X-Picture-Name": encodeURIComponent(file.name) },
    });
    const { page, error } = await answer.json();
    if (page) window.location.assign(page);
    said.textContent = error ?? "";
  } catch {
    said.textContent = "The connection was lost: the picture is too large, or the server " +
      "has stopped.";
  }
  chooser.disabled = false;
  chooser.value = "";
}

chooser.addEventListener("change", () => send(chooser.files[0]));
for (const kind of ["dragenter", "dragover"]) {
  window.addEventListener(kind, (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
}
for (const kind of ["dragleave", "drop"]) {
  window.addEventListener(kind, () => zone.classList.remove("over"));
}
window.addEventListener("drop", (event) => {
  event.preventDefault();
  send(event.dataTransfer.files[0]);
});
