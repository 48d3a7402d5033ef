"""The server: pictures filled for programs and for the page, over HTTP, by this machine's device. Needs the extra `serve`."""
