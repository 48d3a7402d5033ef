"""A server around one Inpainter, with the standard library alone: POST a picture and a mask, get the filled picture as PNG.

    python examples/server.py [PORT]                 8080; 0 takes a free one, and the port is printed
    curl -F image=@photo.jpg -F mask=@mask.png -F seed=7 http://127.0.0.1:8080/ -o out.png

It answers this machine alone. A request has a thread, for at most AT_ONCE; they may call the Inpainter at the same time, and take turns
on its device.
"""

import sys
from contextlib import suppress
from email import message_from_bytes
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import BoundedSemaphore

from moebius import Inpainter
from moebius.errors import MoebiusError

LARGEST = 64 << 20  # bytes of a request
AT_ONCE = 8  # requests that have a thread, and their pictures in memory; the others wait
SETTINGS = {"steps": int, "guidance": float, "strength": float, "seed": int, "grow": float}

inpaint = Inpainter.from_pretrained("nano")


class Handler(BaseHTTPRequestHandler):
    timeout = 60  # seconds that a sender may be silent

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LARGEST:
            return self.answer(413, f"Say the Content-Length; at most {LARGEST >> 20} MiB.".encode())
        head = f"Content-Type: {self.headers.get('Content-Type')}\r\n\r\n".encode()
        form = {
            part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
            for part in message_from_bytes(head + self.rfile.read(int(length)), policy=HTTP).iter_parts()
        }
        if "image" not in form:
            return self.answer(400, b"Send a multipart form with image=@FILE and mask=@FILE.")
        try:
            settings = {name: kind(form[name]) for name, kind in SETTINGS.items() if name in form}
            png = inpaint(form["image"], form.get("mask"), **settings).to_bytes()
        except ValueError as error:  # the sender's mistakes (UsageError is a ValueError), each with what to do about it
            return self.answer(400, str(error).encode())
        except MoebiusError as error:  # bad luck: the device was lost, or is out of memory
            return self.answer(500, str(error).encode())
        return self.answer(200, png, "image/png")

    def answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    places = BoundedSemaphore(AT_ONCE)

    def process_request(self, *request) -> None:
        self.places.acquire()
        super().process_request(*request)

    def process_request_thread(self, *request) -> None:
        try:
            super().process_request_thread(*request)
        finally:
            self.places.release()


server = Server(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 8080), Handler)
print(f"http://127.0.0.1:{server.server_port}", flush=True)
with suppress(KeyboardInterrupt):
    server.serve_forever()
