"""A WhatsApp app as anybody would write it, on pywa with FastAPI, unmodified.

Takes {"token", "secret", "phone"} as its argument. Says {"ready": PORT} when it listens and one line for everything that a
handler of it heard, which is only what pywa's own verification let through.
"""

import json
import socket
import sys

import uvicorn
from fastapi import FastAPI
from pywa import WhatsApp, filters

said = json.loads(sys.argv[1])


def tell(**line):
    # In one write: handlers run on several threads, and `print` writes the end of a line by itself.
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


app = FastAPI()
wa = WhatsApp(phone_id=said["phone"], token=said["token"], server=app, verify_token="vt-agent", app_secret=said["secret"])


if "api" in said:
    # The one way to another address: https://pywa.readthedocs.io has no setting for it.
    wa.api._session.base_url = said["api"]


@wa.on_message(filters.text)
def message(_, msg):
    if "api" in said:
        msg.reply("you said " + msg.text)
    tell(heard="message", text=msg.text, name=msg.from_user.name)


@wa.on_message_status
def status(_, update):
    tell(heard="status", text=update.status.value)


# Connections wait in the socket until the server takes them.
listener = socket.create_server(("127.0.0.1", 0))
tell(ready=listener.getsockname()[1])
uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])
