"""Judges a webhook as a Slack app would: with the official SDK's SignatureVerifier, at the time it was signed.

Reads {"secret", "headers", "body_base64", "now"} from standard input; prints "verified" or "refused".
"""

import base64
import json
import sys

from slack_sdk.signature import Clock, SignatureVerifier

said = json.load(sys.stdin)


class At(Clock):
    def now(self) -> float:
        return float(said["now"])


verifier = SignatureVerifier(said["secret"], clock=At())
body = base64.b64decode(said["body_base64"])
print("verified" if verifier.is_valid_request(body, said["headers"]) else "refused")
