"""The file formats that weights come in, each checked before it is believed."""
