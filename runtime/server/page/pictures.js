// Where pictures come from: the gallery, a file, the camera.

const A_PAGE = 12;
const A_STRIP = 4; // pictures that light up as one group

// A picture is {id, name, url, blob}: of the gallery without blob, else sent with its blob and named by the server.
export class Gallery {
  constructor(grid, onPick) {
    this.grid = grid;
    this.onPick = onPick;
    this.pictures = [];
    this.page = 0;
  }

  get pages() {
    return Math.max(1, Math.ceil(this.pictures.length / A_PAGE));
  }

  show(page) {
    this.page = Math.max(0, Math.min(page, this.pages - 1));
    const shown = this.pictures.slice(A_PAGE * this.page, A_PAGE * (this.page + 1));
    const strips = [];
    for (let at = 0; at < shown.length; at += A_STRIP) {
      const strip = document.createElement("div");
      strip.className = "strip";
      strip.dataset.scan = "Pictures";
      strip.append(...shown.slice(at, at + A_STRIP).map((picture) => this.button(picture)));
      strips.push(strip);
    }
    this.grid.replaceChildren(...strips);
  }

  button(picture) {
    const image = document.createElement("img");
    image.src = picture.url;
    image.alt = `Picture ${picture.name}`;
    const button = document.createElement("button");
    button.type = "button";
    button.append(image);
    button.addEventListener("click", () => this.onPick(picture));
    return button;
  }
}

export class Camera {
  constructor(dialog, video) {
    this.dialog = dialog;
    this.video = video;
    dialog.addEventListener("close", () => this.release());
  }

  async open() {
    if (!navigator.mediaDevices) throw new DOMException("no secure context", "SecurityError");
    this.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    this.video.srcObject = this.stream;
    this.dialog.showModal();
    await this.video.play();
  }

  async take() {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [this.video.videoWidth, this.video.videoHeight];
    canvas.getContext("2d").drawImage(this.video, 0, 0);
    this.dialog.close();
    return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  }

  release() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.video.srcObject = null;
  }
}
