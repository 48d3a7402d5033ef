"""`moebius serve`: the command of the server. What the server needs is imported when it starts."""

from __future__ import annotations

import argparse
import os
from importlib.util import find_spec
from typing import Any

from moebius.cli import options
from moebius.cli.load import load_model
from moebius.cli.output import say, say_nothing
from moebius.errors import UsageError

TOKEN = "MOEBIUS_TOKEN"
NEEDED = ("fastapi", "uvicorn", "python_multipart")


def add_parser(commands: Any) -> None:
    p = commands.add_parser(
        "serve",
        help="a server: pictures over HTTP, and an editor for browsers, computed here",
        formatter_class=options.Narrow,
        usage="%(prog)s [options]",
    )
    p.add_argument("--host", metavar="HOST", default="127.0.0.1", help="the address to listen at (127.0.0.1); any other needs a token")
    p.add_argument("--port", metavar="N", type=options.port, default=8080, help="(8080); 0 takes a free one")
    p.add_argument("--token", metavar="TOKEN", help=f"what clients must send (or {TOKEN}); made and printed where one is needed")
    p.add_argument("--open", action="store_true", help="open the page in the browser")
    p.add_argument("--allow-host", metavar="NAME", action="append", default=[], help="a further name that it is reached by; repeatable")
    p.add_argument("--allow-origin", metavar="URL", action="append", default=[], help="let pages of this site ask (CORS); repeatable")
    p.add_argument("--max-waiting", metavar="N", type=options.count, help="requests in the queue (32)")
    p.add_argument("--max-bytes", metavar="N", type=options.count, help="of one request (134,217,728)")
    p.add_argument("--max-pixels", metavar="N", type=options.count, help="of a picture (50,000,000)")
    p.add_argument("--max-steps", metavar="N", type=options.count, help="of a request (200)")
    p.add_argument("--max-windows", metavar="N", type=options.count, help="of a request (128)")
    p.add_argument("--max-seconds", metavar="N", type=options.count, help="of one picture, without its waiting (600)")
    options.add_model(p)
    options.add_device(p)
    p.add_argument("--quiet", action="store_true", help="errors only")
    p.set_defaults(command=serve)


def serve(args: argparse.Namespace) -> int:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        names = ", ".join(name.replace("_", "-") for name in missing)
        raise UsageError(f"The server needs {names}; pip install 'moebius-webgpu[serve]'.")
    from moebius.serve import listen
    from moebius.serve.guard import rules
    from moebius.serve.limits import Limits
    from moebius.serve.service import Service

    tell = say_nothing if args.quiet else say
    given_token = args.token or os.environ.get(TOKEN) or None
    chosen = rules(args.host, given_token, args.allow_host, args.allow_origin)
    given = {name: getattr(args, f"max_{name}") for name in ("waiting", "bytes", "pixels", "steps", "windows", "seconds")}
    limits = Limits(**{name: value for name, value in given.items() if value is not None})
    with listen.opened(args.host, args.port) as listener:
        model = load_model(args, tell)
        for note in model.notes:
            tell(note)
        made = chosen.token is not None and given_token is None  # one that was given is known, and goes into no log

        def started() -> None:
            (say if made else tell)(f"Serving at {listen.address(chosen, listener, made)} until Ctrl-C")
            if args.open:
                import webbrowser

                webbrowser.open(listen.address(chosen, listener))

        with model:
            listen.server(Service(model, limits), chosen, started).run(sockets=[listener])
    return 0
