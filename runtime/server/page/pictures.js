// Where pictures come from: the gallery, a file, the camera.

const A_PAGE = 12;
const A_STRIP = 4; // pictures that light up as one group
const MOST_BYTES = 768 * 2 ** 10; // beside the longest recording, in the 25 MiB that the server takes
const SIDES = [1600, 1200, 800, 400]; // pixels of the longer side; CLIP looks at a few hundred
const QUALITY = 0.92; // of JPEG

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
    return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
  }

  release() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.video.srcObject = null;
  }
}

// Returns it as it is where it is small; else as a JPEG that can be kept together with any recording.
export async function fitting(blob) {
  if (blob.size <= MOST_BYTES) return blob;
  let image;
  try {
    image = await createImageBitmap(blob);
  } catch {
    return blob; // not a picture for this browser; the server may read it, or tells what it reads
  }
  let smaller;
  for (const side of SIDES) {
    smaller = await asJpeg(image, Math.min(1, side / Math.max(image.width, image.height)));
    if (smaller.size <= MOST_BYTES) break;
  }
  image.close();
  return smaller;
}

function asJpeg(image, scale) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.width, image.height].map((side) => Math.max(1, Math.round(scale * side)));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
}
