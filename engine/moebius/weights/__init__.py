"""Files to parameters: the Hub, the cache, the formats. Nothing in a file is executed."""
