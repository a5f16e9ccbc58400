"""python-telegram-bot, unmodified, as an agent: only its base URLs and token are other. Prints what it saw, as JSON."""
import asyncio, json, sys
from telegram import Bot, InlineKeyboardButton, InlineKeyboardMarkup
from telegram.error import RetryAfter, TelegramError

said = json.load(sys.stdin)
base = said["base"] + "/sdk/telegram"
seen = {}

async def refused(name, call):
    try:
        await call
        seen[name] = "no error"
    except RetryAfter as e:
        seen[name] = ["RetryAfter", str(e.retry_after)]
    except TelegramError as e:
        seen[name] = [type(e).__name__, e.message]

async def main():
    bot = Bot(said["token"], base_url=base + "/bot", base_file_url=base + "/file/bot")
    if said.get("only") == "refused":
        return await refused("me", bot.get_me())
    # What an application does at its start, in both of its modes.
    await bot.initialize()
    seen["me"] = bot.username
    seen["webhook"] = [await bot.set_webhook("https://agent.example/telegram", secret_token="abc"), await bot.delete_webhook()]
    seen["webhook_info"] = (await bot.get_webhook_info()).url.removeprefix(said["base"])
    await refused("updates", bot.get_updates())
    seen["text"] = (await bot.send_message(-1001, "grüße & more", message_thread_id=7)).message_id
    keys = InlineKeyboardMarkup([[InlineKeyboardButton("Yes", callback_data="y")]])
    seen["keyboard"] = (await bot.send_message(-1001, "well?", reply_markup=keys)).reply_markup.inline_keyboard[0][0].callback_data
    seen["document"] = (await bot.send_document(-1001, b"file content \xff", filename="a.bin", caption="cap")).document.file_id
    file = await bot.get_file("FILE-1")
    seen["file_path"] = file.file_path.removeprefix(said["base"])
    seen["downloaded"] = bytes(await file.download_as_bytearray()).hex()
    seen["answered"] = await bot.answer_callback_query("1", "ok")
    await refused("blocked", bot.send_message(666, "hi"))
    await refused("log_out", bot.log_out())
    await refused("unknown", bot.do_api_request("notAMethod"))
    await refused("not_allowed", bot.set_my_name("x"))
    await refused("limited", bot.send_message(429, "hi"))
    await bot.shutdown()

asyncio.run(main())
print(json.dumps(seen))
