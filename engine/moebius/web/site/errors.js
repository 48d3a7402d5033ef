// What a page refuses to do. Every message of it is for the user: one sentence, and what to do.

export class Refused extends Error {}
