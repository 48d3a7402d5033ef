"""The browser: a recorded plan with its weights as a static page, and the small player that replays it."""
