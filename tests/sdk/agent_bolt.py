"""A Slack app as anybody would write it, on the official Bolt for Python with its own server, unmodified.

Takes {"token", "secret", "api"} as its argument. Says {"ready": PORT} when it listens and one line for everything that a
listener of it heard, which is only what Bolt's own verification let through.
"""

import json
import sys

from slack_bolt import App
from slack_bolt.app.app import SlackAppDevelopmentServer
from slack_sdk import WebClient

said = json.loads(sys.argv[1])


def tell(**line):
    # In one write: handlers run on several threads, and `print` writes the end of a line by itself.
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


app = App(client=WebClient(token=said["token"], base_url=said["api"]), signing_secret=said["secret"])


@app.event("message")
def message(event, say):
    if said.get("answers"):
        say("you said " + event["text"])
    tell(heard="message", text=event["text"])


@app.command("/ask")
def command(ack, command, respond):
    ack("this never reaches Slack")
    if "response_url" in command:
        respond(text="as you ask", response_type="ephemeral")
    tell(heard="command", text=command["text"])


@app.action("simulated")
def action(ack, action, body, respond):
    ack()
    if "response_url" in body:
        respond("seen")
    tell(heard="action", text=action["value"])


@app.view("ask")
def view(ack, view):
    ack(response_action="errors", errors={"b1": "not " + view["private_metadata"]})
    tell(heard="view", text=view["private_metadata"])


@app.options("menu")
def options(ack, payload):
    ack(options=[{"text": {"type": "plain_text", "text": payload["value"]}, "value": "v1"}])
    tell(heard="options", text=payload["value"])


server = SlackAppDevelopmentServer(port=0, path="/slack/events", app=app, http_server_logger_enabled=False)
tell(ready=server._server.server_address[1])
server.start()
