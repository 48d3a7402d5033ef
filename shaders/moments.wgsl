// Statistics of a part of some numbers: how many they are, their mean, and M2 = Σ(x - mean)².

// Those of two parts together, by Chan's formula.
fn merged(p: vec3<f32>, q: vec3<f32>) -> vec3<f32> {
  let total = max(p.x + q.x, 1.0); // both may be empty
  let delta = q.y - p.y;
  return vec3<f32>(p.x + q.x, p.y + delta * (q.x / total), p.z + q.z + delta * delta * (p.x * q.x / total));
}

// And of two that have as many numbers.
fn of_two(n: f32, mean: vec2<f32>, m2: vec2<f32>) -> vec3<f32> {
  return merged(vec3<f32>(n, mean[0], m2[0]), vec3<f32>(n, mean[1], m2[1]));
}
