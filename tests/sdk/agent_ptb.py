"""A Telegram bot as anybody would write it, on python-telegram-bot with its own webhook server, unmodified.

Takes {"token", "secret", "api"} as its argument. Says {"ready": PORT} when it listens and one line for everything that a
handler of it heard, which is only what the library's own check of the secret token let through.
"""

import asyncio
import json
import socket
import sys

from telegram import Update
from telegram.ext import Application, CallbackQueryHandler, MessageHandler, filters

said = json.loads(sys.argv[1])


def tell(**line):
    # In one write: handlers run on several threads, and `print` writes the end of a line by itself.
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def message(update, context):
    if said.get("answers"):
        await update.message.reply_text("you said " + update.message.text)
    tell(heard="message", text=update.message.text)


async def callback(update, context):
    tell(heard="callback", text=update.callback_query.data)


async def main():
    app = Application.builder().token(said["token"]).base_url(said["api"] + "bot").build()
    app.add_handler(MessageHandler(filters.TEXT, message))
    app.add_handler(CallbackQueryHandler(callback))
    # An open socket is the library's way to a port that the system picks.
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    port = listener.getsockname()[1]
    async with app:
        await app.start()
        await app.updater.start_webhook(
            unix=listener,
            url_path="telegram",
            webhook_url=f"http://127.0.0.1:{port}/telegram",
            secret_token=said["secret"],
            allowed_updates=Update.ALL_TYPES,
        )
        tell(ready=port)
        await asyncio.Event().wait()


asyncio.run(main())
