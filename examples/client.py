"""Ask a server (`moebius serve`) for a picture, with the standard library alone.

python examples/client.py photo.jpg mask.png out.png [http://127.0.0.1:8080]
"""

import base64
import json
import sys
import urllib.request
from pathlib import Path

photo, mask, out, *server = sys.argv[1:]
fields = {name: base64.b64encode(Path(file).read_bytes()).decode() for name, file in (("image", photo), ("mask", mask))}
body = json.dumps(fields | {"steps": 20, "seed": 0}).encode()
url = f"{server[0] if server else 'http://127.0.0.1:8080'}/api/v1/inpaint"
with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"})) as answer:
    Path(out).write_bytes(answer.read())
    print(f"{out}: seed {answer.headers['X-Seed']}, {answer.headers['X-Moebius-Seconds']} s")
