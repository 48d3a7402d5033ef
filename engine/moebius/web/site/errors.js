// What a page refuses to do. Every message of it is for the user: one sentence, and what to do.

export class Refused extends Error {}

// A run whose numbers left the range of what it computes in.
export class NotFinite extends Refused {}
