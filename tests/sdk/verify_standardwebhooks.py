"""Verifies a delivery as an agent would: with the official Standard Webhooks library.

Reads {"secret", "headers", "body_base64"} from standard input; prints "verified EVENT_ID" or "refused WHY".
"""

import base64
import json
import sys

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

said = json.load(sys.stdin)
body = base64.b64decode(said["body_base64"])
try:
    event = Webhook(said["secret"]).verify(body, said["headers"])
except WebhookVerificationError as error:
    print("refused", error)
else:
    print("verified", event["id"])
