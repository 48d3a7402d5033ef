// Between canvases and pictures, {data, width, height} with three bytes a pixel.

export function cropped(canvas, { x, y, width, height }) {
  const crop = new OffscreenCanvas(width, height);
  crop.getContext("2d").drawImage(canvas, -x, -y);
  return crop;
}

export function imageOf({ data, width, height }) {
  const image = new ImageData(width, height);
  for (let from = 0, to = 0; from < data.length; from += 3, to += 4) {
    image.data[to] = data[from];
    image.data[to + 1] = data[from + 1];
    image.data[to + 2] = data[from + 2];
    image.data[to + 3] = 255;
  }
  return image;
}

export function canvasOf(picture) {
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  canvas.getContext("2d").putImageData(imageOf(picture), 0, 0);
  return canvas;
}

// What a canvas or a bitmap holds.
export function pictureOf(source) {
  const { width, height } = source;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(source, 0, 0);
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    data[to] = rgba[from];
    data[to + 1] = rgba[from + 1];
    data[to + 2] = rgba[from + 2];
  }
  return { data, width, height };
}
