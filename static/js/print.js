// The print button: a page that is made to be printed says so itself.
document.addEventListener("click", (event) => {
  if (event.target.closest("[data-print]")) window.print();
});
