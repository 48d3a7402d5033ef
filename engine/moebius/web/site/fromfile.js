// Modules are not loaded from files, so this is said by a script that is.
if (location.protocol === "file:") {
  document.getElementById("status").textContent =
    "Browsers do not run this page from a file; in its folder, run “python -m http.server” and open http://localhost:8000.";
}
