// The window: quads over the picture, drawn back to front, one entry point a kind of quad.
//
// A quad covers `rect` (x, y, width, height in framebuffer pixels) and shows `source` of something:
// photo, result   the picture, `source` in its own pixels; where it is transparent, a chequerboard
// patch           the estimate of a run: `shape` in the atlas of patches, only where hole = 1
// overlay         where mask = 1 (and, with shape.x = 1, hole = 0), tinted, with a bright rim
// panel           a rectangle with corners of radius shape.x, hollow with a line of shape.y, or shape.z pixels soft
// text            labels, a texel a pixel: coverage · colour
// Colours are sRGB as they are stored, and out = colour · alpha + below · (1 - alpha).
// Grid: none, these are draws: 4 vertices a quad.

const SMALL: bool = false; // the picture is shown smaller than life

struct Frame {
  window: vec2<f32>, // framebuffer pixels
  picture: vec2<f32>, // pixels of the picture
}

struct Quad {
  @location(0) rect: vec4<f32>,
  @location(1) source: vec4<f32>,
  @location(2) colour: vec4<f32>,
  @location(3) shape: vec4<f32>,
}

struct Point {
  @builtin(position) position: vec4<f32>,
  @location(0) at: vec2<f32>, // within source
  @location(1) here: vec2<f32>, // within rect, from its middle
  @location(2) @interpolate(flat) rect: vec4<f32>,
  @location(3) @interpolate(flat) source: vec4<f32>,
  @location(4) @interpolate(flat) colour: vec4<f32>,
  @location(5) @interpolate(flat) shape: vec4<f32>,
}

@group(0) @binding(0) var<uniform> frame: Frame;
@group(0) @binding(1) var linear: sampler;
@group(0) @binding(2) var photo: texture_2d<f32>;
@group(0) @binding(3) var result: texture_2d<f32>;
@group(0) @binding(4) var mask: texture_2d<f32>;
@group(0) @binding(5) var hole: texture_2d<f32>;
@group(0) @binding(6) var patches: texture_2d<f32>;
@group(0) @binding(7) var labels: texture_2d<f32>;

@vertex
fn corner(@builtin(vertex_index) index: u32, quad: Quad) -> Point {
  let unit = vec2<f32>(f32(index & 1u), f32((index >> 1u) & 1u)); // a strip of two triangles
  let pixel = quad.rect.xy + unit * quad.rect.zw;
  let ndc = pixel / frame.window * vec2<f32>(2.0, -2.0) + vec2<f32>(-1.0, 1.0);
  var p: Point;
  p.position = vec4<f32>(ndc, 0.0, 1.0);
  p.at = quad.source.xy + unit * quad.source.zw;
  p.here = (unit - 0.5) * quad.rect.zw;
  p.rect = quad.rect;
  p.source = quad.source;
  p.colour = quad.colour;
  p.shape = quad.shape;
  return p;
}

// The picture at a point. Smaller than life: the halving that has one to two texels a pixel, and the mean of four points that lie
// as far apart as the rest asks for, so that it is exact at every halving and continuous between. Larger: linear while pixels are
// small, then pixels with edges as sharp as the screen.
fn sampled(picture: texture_2d<f32>, at: vec2<f32>, scale: f32) -> vec4<f32> {
  let texels = vec2<f32>(textureDimensions(picture));
  let step = texels.x / frame.picture.x / scale; // texels a framebuffer pixel
  if (SMALL) {
    let level = floor(log2(max(step, 1.0)));
    let spread = 0.5 * (step - exp2(level)) / texels;
    let uv = at / frame.picture;
    var sum = textureSampleLevel(picture, linear, uv - spread, level);
    sum += textureSampleLevel(picture, linear, uv + spread, level);
    sum += textureSampleLevel(picture, linear, uv + spread * vec2<f32>(1.0, -1.0), level);
    sum += textureSampleLevel(picture, linear, uv - spread * vec2<f32>(1.0, -1.0), level);
    return 0.25 * sum;
  }
  let sharpness = mix(1.0, 1.0 / step, smoothstep(3.0, 8.0, 1.0 / step));
  let texel = at / frame.picture * texels;
  let edge = round(texel); // between two texels' middles, where linear sampling blends them
  let nearest = edge + clamp((texel - edge) * sharpness, vec2<f32>(-0.5), vec2<f32>(0.5));
  return textureSampleLevel(picture, linear, nearest / texels, 0.0);
}

fn over_chequers(colour: vec4<f32>, pixel: vec2<f32>) -> vec4<f32> {
  let square = floor(pixel / 8.0);
  let grey = select(0.72, 0.62, fract((square.x + square.y) * 0.5) > 0.25);
  return vec4<f32>(mix(vec3<f32>(grey), colour.rgb, colour.a), 1.0);
}

@fragment
fn show_photo(p: Point) -> @location(0) vec4<f32> {
  return over_chequers(sampled(photo, p.at, p.rect.z / p.source.z), p.position.xy);
}

@fragment
fn show_result(p: Point) -> @location(0) vec4<f32> {
  return over_chequers(sampled(result, p.at, p.rect.z / p.source.z), p.position.xy);
}

// A mask with its stairs smoothed: the mean of a disc, `reach` framebuffer pixels wide and at least most of a pixel of the picture.
// Linear sampling makes five points enough.
fn smoothed(marks: texture_2d<f32>, at: vec2<f32>, reach: f32, scale: f32) -> f32 {
  let away = 0.7 * max(reach / scale, 0.7) / frame.picture; // corners of a square in that disc
  let uv = at / frame.picture;
  var sum = 2.0 * textureSampleLevel(marks, linear, uv, 0.0).r;
  sum += textureSampleLevel(marks, linear, uv - away, 0.0).r;
  sum += textureSampleLevel(marks, linear, uv + away, 0.0).r;
  sum += textureSampleLevel(marks, linear, uv + away * vec2<f32>(1.0, -1.0), 0.0).r;
  sum += textureSampleLevel(marks, linear, uv - away * vec2<f32>(1.0, -1.0), 0.0).r;
  return sum / 6.0;
}

@fragment
fn show_patch(p: Point) -> @location(0) vec4<f32> {
  let within = (p.at - p.source.xy) / p.source.zw * p.shape.zw;
  let texel = p.shape.xy + clamp(within, vec2<f32>(0.5), p.shape.zw - 0.5); // not the patch beside it
  let colour = textureSampleLevel(patches, linear, texel / vec2<f32>(textureDimensions(patches)), 0.0);
  let outside = any(p.at < vec2<f32>(0.0)) || any(p.at > frame.picture); // a window may reach beyond the picture
  let cover = smoothed(hole, p.at, 1.0, p.rect.z / p.source.z);
  return vec4<f32>(colour.rgb, select(p.colour.a * smoothstep(0.25, 0.75, cover), 0.0, outside));
}

@fragment
fn show_overlay(p: Point) -> @location(0) vec4<f32> {
  let scale = p.rect.z / p.source.z;
  var soft = smoothed(mask, p.at, p.shape.y, scale);
  if (p.shape.x > 0.0) {
    soft = max(0.0, soft - smoothed(hole, p.at, p.shape.y, scale));
  }
  let rim = 4.0 * soft * (1.0 - soft);
  return vec4<f32>(mix(p.colour.rgb, vec3<f32>(1.0), 0.55 * rim), (soft + 0.45 * rim) * p.colour.a);
}

@fragment
fn show_panel(p: Point) -> @location(0) vec4<f32> {
  let soft = max(p.shape.z, 1.0);
  let half = 0.5 * p.rect.zw - p.shape.z;
  let radius = min(p.shape.x, min(half.x, half.y));
  let outside = abs(p.here) - half + radius;
  var away = length(max(outside, vec2<f32>(0.0))) + min(max(outside.x, outside.y), 0.0) - radius;
  if (p.shape.y > 0.0) {
    away = abs(away + 0.5 * p.shape.y) - 0.5 * p.shape.y;
  }
  let cover = smoothstep(0.0, 1.0, clamp(0.5 - away / soft, 0.0, 1.0));
  return vec4<f32>(p.colour.rgb, p.colour.a * select(cover, clamp(0.5 - away, 0.0, 1.0), p.shape.z == 0.0));
}

@fragment
fn show_text(p: Point) -> @location(0) vec4<f32> {
  let cover = textureLoad(labels, vec2<i32>(floor(p.at)), 0).r;
  return vec4<f32>(p.colour.rgb, p.colour.a * cover);
}
