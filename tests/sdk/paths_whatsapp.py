"""pywa as an agent. It has no setting for its base URL, so the one of its HTTP session is set; the token is the agent's.
Prints what it saw, as JSON."""
import json, sys
from pywa import WhatsApp
from pywa.errors import WhatsAppError
from pywa.types import Button
from pywa.types.templates import BodyText, TemplateLanguage

said = json.load(sys.stdin)
wa = WhatsApp(phone_id=said["phone"], token=said["token"])
wa.api._session.base_url = said["base"] + "/sdk/whatsapp/v25.0"
seen = {}

def refused(name, call):
    try:
        call()
        seen[name] = "no error"
    except WhatsAppError as e:
        headers = {k.lower(): v for k, v in e.raw_response.headers.items()}
        seen[name] = {"kind": type(e).__name__, "status": e.status_code, "code": e.code, "message": e.message, "retry_after": headers.get("retry-after")}

if said.get("only") == "refused":
    refused("text", lambda: wa.send_message("15550001", "hi"))
    print(json.dumps(seen))
    sys.exit()

seen["text"] = wa.send_message("15550001", "grüße & more").id
seen["buttons"] = wa.send_message("15550001", "well?", buttons=[Button(title="Yes", callback_data="y")]).id
seen["template"] = wa.send_template(to="15550001", name="greeting", language=TemplateLanguage.ENGLISH_US, params=[]).id
seen["read"] = bool(wa.mark_message_as_read("wamid.IN1"))
media = wa.upload_media(media=b"file content \xff", mime_type="image/png", filename="a.png")
seen["uploaded"] = media.id
url = wa.get_media_url("777")
seen["url"] = url.url.startswith(said["base"])
seen["downloaded"] = wa.get_media_bytes(url.url).hex()
refused("provider", lambda: wa.send_message("15550404", "hi"))
refused("callback", lambda: wa.api.set_waba_alternate_callback_url(waba_id=said["waba"], override_callback_uri="https://evil.example", verify_token="v"))
refused("phone_callback", lambda: wa.api.set_phone_alternate_callback_url(phone_id=said["phone"], override_callback_uri="https://evil.example", verify_token="v"))
refused("subscriptions", lambda: wa.api.set_app_callback_url(app_id="1", access_token="x", callback_url="https://evil.example", verify_token="v", fields=("messages",)))
refused("deregister", lambda: wa.api.deregister_phone_number(said["phone"]))
refused("other_phone", lambda: wa.send_message("15550001", "hi", sender="999"))
refused("unknown", lambda: wa.api.get_templates(said["waba"]))
refused("limited", lambda: wa.send_message("15550429", "hi"))
print(json.dumps(seen))
