"""slack_sdk, unmodified, as an agent: only its base URL and token are other. Prints what it saw, as JSON."""
import json, sys, urllib.request
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError

said = json.load(sys.stdin)
client = WebClient(token=said["token"], base_url=said["base"] + "/sdk/slack/api/", headers=said.get("headers"))
seen = {}

def refused(name, call):
    try:
        call()
        seen[name] = "no error"
    except SlackApiError as e:
        data = e.response.data
        code = data.get("byoa", {}).get("code") if isinstance(data, dict) else None
        seen[name] = {"error": data.get("error"), "code": code, "shown": str(code) in str(e), "status": e.response.status_code,
                      "retry_after": {k.lower(): v for k, v in e.response.headers.items()}.get("retry-after")}

if said.get("only") == "refused":
    refused("auth", lambda: client.auth_test())
    print(json.dumps(seen))
    sys.exit()

auth = client.auth_test()
seen["auth"] = [auth["bot_id"], auth["user_id"]]
seen["text"] = client.chat_postMessage(channel="C0HELP", text="grüße & more", thread_ts="1700000000.000001")["ts"]
blocks = [{"type": "section", "text": {"type": "mrkdwn", "text": "*hi*"}}]
seen["blocks"] = client.chat_postMessage(channel="C0HELP", text="hi", blocks=blocks)["message"]["blocks"]
seen["echo"] = client.chat_postMessage(channel="C0ECHO", text="hi").data["echo"]
seen["pages"] = [c["id"] for page in client.conversations_list(limit=2) for c in page["channels"]]
up = client.files_upload_v2(channel="C0HELP", filename="a.txt", content="file content ü", title="A")
seen["uploaded"] = up["file"]["id"]
file = client.files_info(file="F0FILE1")["file"]
request = urllib.request.Request(file["url_private_download"], headers={"Authorization": "Bearer " + said["token"]})
seen["downloaded"] = urllib.request.urlopen(request).read().decode()
seen["elsewhere"] = [value for value in file.values() if isinstance(value, str) and said["provider"] in value]
refused("provider", lambda: client.chat_postMessage(channel="C0NONE", text="hi"))
refused("revoke", lambda: client.auth_revoke())
refused("oauth", lambda: client.oauth_v2_access(client_id="1", client_secret="2", code="3"))
refused("oauth_with_token", lambda: client.api_call("oauth.v2.access", params={"code": "3"}))
refused("unknown", lambda: client.api_call("chat.notAMethod"))
refused("not_allowed", lambda: client.conversations_leave(channel="C0HELP"))
refused("limited", lambda: client.chat_postMessage(channel="C0LIMIT", text="hi"))
print(json.dumps(seen))
