// Which editions of an export a browser can run, and what they are called.

// In their order: the quickest first. `features` are those of the device, where there is one already.
export function possible(editions, { info = {}, features }) {
  return editions.filter((edition) => edition.features.every((name) => features.has(name)) && (!edition.units || hasUnits(edition, info)));
}

// Matrix units of a shape, and subgroups of one size alone: the plans are made for so many lanes.
function hasUnits({ units: { operands, sums, m, n, k }, lanes }, { subgroupMatrixConfigs, subgroupMinSize, subgroupMaxSize }) {
  const isIt = (c) => c.componentType === operands && c.resultComponentType === sums && c.M === m && c.N === n && c.K === k;
  return subgroupMinSize === lanes && subgroupMaxSize === lanes && [...(subgroupMatrixConfigs ?? [])].some(isIt);
}

// For people.
export function described({ precision, units }) {
  return `${{ f32: "single", f16: "half" }[precision]} precision${units ? " on matrix units" : ""}`;
}
