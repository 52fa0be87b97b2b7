// A line over the pictures follows the player; a click on them plays from there; one player at a time.
"use strict";

const players = [...document.querySelectorAll("audio")];

for (const player of players) {
  const pictures = player.closest(".version").querySelector(".pictures");
  const line = pictures.querySelector(".now");

  const show = () => {
    line.style.left = `${(100 * player.currentTime) / player.duration}%`;
    line.hidden = player.currentTime === 0;
    if (!player.paused) requestAnimationFrame(show);
  };
  for (const event of ["play", "seeked", "pause", "ended"]) player.addEventListener(event, show);

  player.addEventListener("play", () => {
    for (const other of players) if (other !== player) other.pause();
  });

  pictures.addEventListener("click", (event) => {
    const box = pictures.getBoundingClientRect();
    player.currentTime = ((event.clientX - box.left) / box.width) * player.duration;
    player.play();
  });
}
